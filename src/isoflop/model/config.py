"""The shape of a Mixtral-type decoder.

Source: the optimal-sparsity study (arXiv:2508.18672), section 3.1 and its
released launch scripts; the router's two orders are Megatron-LM's pre-softmax option.
"""

import math
from dataclasses import dataclass
from typing import Literal

from isoflop.config import UserError

RouterOrder = Literal["topk_then_softmax", "softmax_then_topk"]

MAX_SEQUENCE_LENGTH = 1 << 24
"""Rotary positions are float32 numbers, exact up to here."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape and initialisation of one Mixture-of-Experts decoder."""

    vocabulary_size: int
    """Rows of the embedding, padding included."""
    num_layers: int
    d_model: int
    """Width of the residual stream."""
    num_heads: int
    """Attention heads."""
    d_expert: int
    """Hidden width of one expert; the study uses 2 x d_model."""
    num_experts: int
    """Experts in every layer, E."""
    top_k: int
    """Experts that see each token, k. Dense is top_k = num_experts."""
    sequence_length: int
    """Longest sequence the model is trained on."""
    num_key_value_heads: int | None = None
    """Heads of keys and values, shared by equal groups of attention heads (arXiv:2305.13245).
    None: one for each attention head, as in the study."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies; the study keeps 1e4, not Mixtral's 1e6."""
    norm_epsilon: float = 1e-5
    init_std: float = 0.02
    """Standard deviation of all weights; the two output projections of a layer
    use init_std / sqrt(2 num_layers), Megatron-LM's default."""
    router_order: RouterOrder = "topk_then_softmax"
    """Softmax over the chosen logits (weights sum to 1), or over all before choosing."""

    def __post_init__(self) -> None:
        sizes = ("vocabulary_size", "num_layers", "d_model", "num_heads", "d_expert")
        for name in (*sizes, "num_experts", "top_k", "sequence_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if self.top_k > self.num_experts:
            raise UserError(
                f"top_k={self.top_k} must be between 1 and num_experts={self.num_experts}"
            )
        if self.d_model % self.num_heads or (self.d_model // self.num_heads) % 2:
            raise UserError(
                f"d_model={self.d_model} must split into num_heads={self.num_heads} heads of an "
                "even width (rotary positions turn pairs)"
            )
        if not 1 <= self.key_value_heads <= self.num_heads or self.num_heads % self.key_value_heads:
            raise UserError(
                f"num_key_value_heads={self.num_key_value_heads} must divide "
                f"num_heads={self.num_heads}"
            )
        if self.top_k == 1 and self.num_experts > 1 and self.router_order == "topk_then_softmax":
            raise UserError(
                "top_k=1 with router_order='topk_then_softmax' gives every token the weight 1, so "
                "the router learns nothing; use router_order='softmax_then_topk'"
            )
        if self.sequence_length > MAX_SEQUENCE_LENGTH:
            raise UserError(
                f"sequence_length={self.sequence_length} must be at most {MAX_SEQUENCE_LENGTH}: "
                "float32 does not tell later positions apart"
            )
        for name, least in (("init_std", 0), ("norm_epsilon", 0), ("rope_base", 1)):
            # Turned round, not a number would pass.
            if not least < getattr(self, name) < math.inf:
                raise UserError(f"{name}={getattr(self, name)} must be above {least} and finite")

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values: num_key_value_heads, or num_heads where it is None."""
        return self.num_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def query_key_value_width(self) -> int:
        """Rows of the joint projection to queries, keys and values."""
        return (self.num_heads + 2 * self.key_value_heads) * self.head_width

    @property
    def sparsity(self) -> float:
        """Share of experts idle per token, 1 - k/E. 0 is dense."""
        return 1 - self.top_k / self.num_experts

    @property
    def density(self) -> float:
        """k/E."""
        return self.top_k / self.num_experts
