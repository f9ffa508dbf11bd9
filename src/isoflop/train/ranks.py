"""The processes that train one model together, as a training step sees them.

`Ranks` itself is a process alone; `isoflop.train.parallel.mesh.OverRanks` is one of several.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Ranks:
    """One process alone: it has the whole batch and all weights, and nothing is added up."""

    rank: int = 0
    """Number of this process; 0 writes the rows."""
    part: int = 0
    """Which part of each batch this process trains on."""
    parts: int = 1
    """Parts of a batch that are trained on at once."""

    def total(self, value: Tensor) -> Tensor:
        """The sum over all parts of the batch, the same bits on each rank."""
        return value

    def agree(self, flag: bool) -> bool:
        """What rank 0 says, so that all ranks do the same."""
        return flag

    def before_backward(self, *, last: bool) -> None:
        """Told before each micro-batch's backward pass; `last`: gradients are complete after it."""

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
        """L2 norm of all gradients, which from here on are where the optimiser reads them."""
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


ALONE = Ranks()
