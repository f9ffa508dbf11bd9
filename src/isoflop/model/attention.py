"""Causal self-attention with rotary positions.

Shapes in this file:
    batch      sequences
    position   tokens of a sequence
    head       attention heads
    width      width of one head

Sources: rotary positions, Su et al. (arXiv:2104.09864), in the half-split
layout of Llama and Mixtral checkpoints.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isoflop.model.config import ModelConfig
from isoflop.model.ops import Ops
from isoflop.model.ops.cached import LayerCache, NewPositions
from isoflop.model.ops.packing import Packing
from isoflop.model.ops.reference import join_heads


def rotary_tables(
    config: ModelConfig, num_positions: int
) -> tuple[Float[Tensor, "position width"], Float[Tensor, "position width"]]:
    """Cosine and sine of every position's angles, each half of the width alike."""
    # float32 throughout, as transformers, vLLM and Megatron-LM have it: at far positions more
    # exact angles would give other logits than theirs on the same weights.
    half = torch.arange(0, config.head_width, 2).float() / config.head_width
    angles = torch.outer(torch.arange(num_positions).float(), 1.0 / config.rope_base**half)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


class Attention(nn.Module):
    """Multi-head attention without biases."""

    def __init__(self, config: ModelConfig, ops: Ops):
        super().__init__()
        self.num_heads = config.num_heads
        self.key_value_heads = config.key_value_heads
        self.ops = ops
        self.query_key_value = nn.Parameter(
            torch.empty(config.query_key_value_width, config.d_model)
        )
        self.output = nn.Parameter(torch.empty(config.d_model, config.d_model))

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        cosine: Float[Tensor, "length head_width"],
        sine: Float[Tensor, "length head_width"],
        documents: Int[Tensor, "batch position"] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """Mix each position with those before it, and in its document where `documents` are given.

        With `packing`, `x` holds the tokens that differ, (1, tokens, d_model); so does what returns.
        """
        projected = self.ops.linear(x, self.query_key_value)
        heads = (self.num_heads, self.key_value_heads)
        if packing is None:
            query, key, value = self.ops.rotate_heads(projected, cosine, sine, *heads)
            mixed = join_heads(self.ops.attention(query, key, value, documents))
        elif documents is None:
            mixed = self.ops.attend_packed(projected, cosine, sine, packing, *heads)
        else:
            raise ValueError("sequences that are packed hold one document each")
        return self.ops.linear(mixed, self.output)

    def forward_cached(
        self, x: Float[Tensor, "batch position d_model"], new: NewPositions, cache: LayerCache
    ) -> Float[Tensor, "batch position d_model"]:
        """Store the new positions' keys and values, then mix each with all at or before it."""
        projected = self.ops.linear(x, self.query_key_value)
        mixed = self.ops.attend_cached(projected, new, cache, self.num_heads, self.key_value_heads)
        return self.ops.linear(mixed, self.output)
