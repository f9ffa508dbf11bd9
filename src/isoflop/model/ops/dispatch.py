"""Which row of the experts' products belongs to which token.

Shapes in this file:
    tokens  every position of every sequence, flattened
    top_k   experts that see one token, k
    rows    (token, chosen expert) pairs, sorted by expert; with padding, if any
"""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class Dispatch(NamedTuple):
    """The choices of all tokens sorted by expert, and the way back."""

    choices: Int[Tensor, " rows"]
    """For each row its choice, token x k + place among the token's choices; -1 where it is padding."""
    slots: Int[Tensor, "tokens top_k"]
    """For each choice its row."""
    ends: Int[Tensor, " experts"]
    """Choices of all experts up to and with this one."""
    capacity: int | None
    """Rows of every expert, padding included; None: no padding."""

    @property
    def tokens(self) -> Int[Tensor, " rows"]:
        """For each row its token; any token for padding."""
        return self.choices.clamp(min=0) // self.slots.shape[1]

    def blank_padding(self, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """`rows` with zeros where there is padding."""
        if self.capacity is None:
            return rows
        return rows * (self.choices >= 0)[:, None].to(rows.dtype)
