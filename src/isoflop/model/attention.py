"""Causal self-attention with rotary positions, and the cache that decoding reads.

Shapes in this file:
    batch      sequences
    position   tokens of a sequence
    head       attention heads
    width      width of one head

Sources: rotary positions, Su et al. (arXiv:2104.09864), in the half-split
layout of Llama and Mixtral checkpoints.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from isoflop.model.config import ModelConfig


@dataclass
class LayerCache:
    """Keys and values of one layer for the positions decoded so far."""

    keys: Float[Tensor, "batch head capacity width"]
    values: Float[Tensor, "batch head capacity width"]

    @classmethod
    def empty(cls, config: ModelConfig, batch: int, capacity: int, like: Tensor) -> "LayerCache":
        """Room for `capacity` positions, with the dtype and device of `like`."""
        shape = (batch, config.num_heads, capacity, config.head_width)
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


def rotary_tables(
    config: ModelConfig, num_positions: int
) -> tuple[Float[Tensor, "position width"], Float[Tensor, "position width"]]:
    """Cosine and sine of every position's angles, each half of the width alike."""
    half = torch.arange(0, config.head_width, 2, dtype=torch.float64) / config.head_width
    angles = torch.outer(torch.arange(num_positions).double(), config.rope_base**-half)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(
    x: Float[Tensor, "batch head position width"],
    cosine: Float[Tensor, "*batch position width"],
    sine: Float[Tensor, "*batch position width"],
) -> Float[Tensor, "batch head position width"]:
    """Turn each pair (i, i + width/2) of a head by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x * cosine + turned * sine


def document_mask(
    documents: Int[Tensor, "batch position"],
) -> Bool[Tensor, "batch 1 position position"]:
    """True where a position may look: not ahead, and not into another document."""
    same = documents[:, :, None] == documents[:, None, :]
    return (same & torch.ones_like(same).tril())[:, None]


class Attention(nn.Module):
    """Multi-head attention without biases; every head has its own keys and values."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.head_width = config.head_width
        self.query_key_value = nn.Parameter(torch.empty(3 * config.d_model, config.d_model))
        self.output = nn.Parameter(torch.empty(config.d_model, config.d_model))

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        cosine: Float[Tensor, "*_ position width"],
        sine: Float[Tensor, "*_ position width"],
        mask: Bool[Tensor, "#batch 1 position keys"] | None = None,
        cache: LayerCache | None = None,
        positions: Int[Tensor, "batch position"] | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """Mix positions. `mask` None means causal; with a cache, new keys are stored first."""
        batch, length, d_model = x.shape
        projected = functional.linear(x, self.query_key_value.to(x.dtype))
        projected = projected.view(batch, length, 3, self.num_heads, self.head_width)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        cosine, sine = cosine.to(x.dtype), sine.to(x.dtype)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        if cache is not None and positions is not None:
            cache.store(key, value, positions)
            key, value = cache.keys, cache.values
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None
        )
        mixed = mixed.transpose(1, 2).reshape(batch, length, d_model)
        return functional.linear(mixed, self.output.to(x.dtype))
