"""Where the tokens of sequences that begin alike stand, each held once.

Shapes in this file:
    tokens    tokens that differ: each prompt once, each answer's own
    batch     sequences
    position  tokens of the longest
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the tokens of each sequence stand among those that differ, and back."""

    spread: Int[Tensor, "batch position"]
    """For each place of each sequence its token; behind a sequence's end any."""
    places: Int[Tensor, " tokens"]
    """For each token the first place, batch x position, where it stands."""
    lengths: Int[Tensor, " batch"]
    """Tokens of each sequence."""
    firsts: Int[Tensor, " batch"]
    """The position from which on a sequence's tokens are its own, and of no sequence before it."""

    @property
    def positions(self) -> Int[Tensor, " tokens"]:
        """For each token its position, the same in all sequences that share it."""
        return self.places % self.spread.shape[1]

    def unpack(
        self, rows: Float[Tensor, "1 tokens width"], take_rows: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, "batch position width"]:
        """Whole sequences; behind their ends stands what causal attention never looks at."""
        return take_rows(rows[0], self.spread.flatten()).view(*self.spread.shape, -1)

    def pack(
        self,
        rows: Float[Tensor, "batch position width"],
        take_rows: Callable[[Tensor, Tensor], Tensor],
    ) -> Float[Tensor, "1 tokens width"]:
        """Each token once. Equal beginnings have equal rows, so that any of them will do."""
        return take_rows(rows.flatten(0, 1), self.places)[None]
