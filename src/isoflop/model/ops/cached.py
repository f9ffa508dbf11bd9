"""Attention of new positions over the keys and values of those before.

Shapes in this file:
    batch     sequences decoded together
    position  new tokens of each
    capacity  positions that the cache has room for
    width     width of one head
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isoflop.model.config import ModelConfig


@dataclass
class LayerCache:
    """Keys and values of one layer for the positions decoded so far."""

    keys: Float[Tensor, "batch head capacity width"]
    values: Float[Tensor, "batch head capacity width"]

    @classmethod
    def empty(cls, config: ModelConfig, batch: int, capacity: int, like: Tensor) -> "LayerCache":
        """Room for `capacity` positions, with the dtype and device of `like`."""
        shape = (batch, config.key_value_heads, capacity, config.head_width)
        return cls(like.new_zeros(shape), like.new_zeros(shape))

    def store(
        self,
        keys: Float[Tensor, "batch head position width"],
        values: Float[Tensor, "batch head position width"],
        positions: Int[Tensor, "batch position"],
    ) -> None:
        """Write keys and values at each sequence's own `positions`."""
        rows = torch.arange(positions.shape[0], device=positions.device)[:, None]
        self.keys[rows, :, positions] = keys.transpose(1, 2)
        self.values[rows, :, positions] = values.transpose(1, 2)


@dataclass
class NewPositions:
    """Where each sequence's new tokens stand; what follows from it is made once for all layers."""

    positions: Int[Tensor, "batch position"]
    cosine: Float[Tensor, "all_positions width"]
    """Of every position's angles, as `sine`."""
    sine: Float[Tensor, "all_positions width"]
    capacity: int

    @cached_property
    def angles(self) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the new positions, (batch, 1, position, width)."""
        # Filling behind a sequence may lie beyond the tables; nothing looks at it.
        within = self.positions.clamp(max=len(self.cosine) - 1)
        return self.cosine[within][:, None], self.sine[within][:, None]

    @cached_property
    def mask(self) -> Bool[Tensor, "batch 1 position capacity"]:
        """True where a new position may look: at every stored one at or before it."""
        keys = torch.arange(self.capacity, device=self.positions.device)
        return (keys <= self.positions[:, :, None])[:, None]
