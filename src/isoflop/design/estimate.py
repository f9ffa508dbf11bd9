"""Memory and time of a training run, estimated before anything is built.

Estimates are for choosing what to run, not for reporting: memory leaves out the
allocator's and the interpreter's own needs, time leaves out evaluation and
checkpoints.

Letters as in `isoflop.model.count`: L layers, d width, h hidden width of one
expert, V vocabulary, E experts, k experts a token; c is the width in bytes of
one number in the matrix products.
"""

from dataclasses import dataclass
from typing import Literal

from isoflop.config import UserError
from isoflop.model.config import ModelConfig
from isoflop.model.count import (
    embedding_params,
    router_params,
    total_params,
    train_flops_per_token_with_router,
)

ComputePrecision = Literal["float32", "bfloat16"]

FLOAT32_BYTES = 4
"""Weights, gradients, optimiser, residual stream, norms, router and loss are float32."""

COMPUTE_BYTES: dict[ComputePrecision, int] = {"float32": 4, "bfloat16": 2}

ADAMW_MOMENTS = 2
"""Running mean of the gradient and of its square, float32 each (arXiv:1711.05101)."""

OPTIMISER_BYTES_PER_PARAMETER = 40
"""Memory traffic of one step for each parameter, in bytes: clipping reads and writes the gradient
(its norm reads it once more), AdamW reads weight, gradient and two moments and writes three of
them. Ten float32 numbers, by counting; caches only help."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Speeds that one training process reaches in practice."""

    flops_per_second: float
    """Of the matrix products, router included (`train_flops_per_token_with_router`)."""
    memory_bytes_per_second: float
    """Of reading and writing large arrays; decides the time of optimiser steps."""

    def __post_init__(self) -> None:
        if not (self.flops_per_second > 0 and self.memory_bytes_per_second > 0):
            raise UserError("flops_per_second and memory_bytes_per_second must be above 0")


ONE_CPU_CORE = Machine(flops_per_second=2.6e10, memory_bytes_per_second=4e9)
"""One core of a server CPU in float32 at the demo's width (d = 32), one thread. Fitted to the demo's
measured speeds, 66,000 (E2) to 49,500 (E64) tokens a second (docs/log.md, 2026-11-22); a wide
model reaches more FLOPs a second than this."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that training holds at its peak, by what holds them."""

    weights: int
    gradients: int
    optimiser: int
    """The two moments of AdamW."""
    weight_copies: int
    """The matrices in the precision of the products; 0 for float32, which needs no copy."""
    activations: int
    """What the forward pass of one micro-batch keeps for the backward pass, and the logits."""

    @property
    def total(self) -> int:
        """All of it."""
        states = self.weights + self.gradients + self.optimiser
        return states + self.weight_copies + self.activations


def estimate_memory(
    model: ModelConfig, *, micro_batch_tokens: int, precision: ComputePrecision = "float32"
) -> MemoryEstimate:
    """Peak memory of training one micro-batch of `micro_batch_tokens` tokens.

    Sixteen bytes a parameter for weight, gradient and AdamW; for bfloat16
    products two more for every matrix of attention, experts and head; and
    `activation_bytes_per_token` for every token.

    Raises:
        UserError: no tokens.
    """
    if micro_batch_tokens < 1:
        raise UserError(f"micro_batch_tokens={micro_batch_tokens} must be at least 1")
    weights = FLOAT32_BYTES * total_params(model)
    per_token = activation_bytes_per_token(model, precision)
    return MemoryEstimate(
        weights=weights,
        gradients=weights,
        optimiser=ADAMW_MOMENTS * weights,
        weight_copies=_weight_copy_bytes(model, precision),
        activations=micro_batch_tokens * per_token,
    )


def activation_bytes_per_token(model: ModelConfig, precision: ComputePrecision = "float32") -> int:
    """Bytes that one token keeps between forward and backward pass, grouped experts, no recomputing.

    A layer keeps, in the precision c of the products: both norms' outputs (2d),
    queries, keys and values before and after rotation (3d + 2d), attention's
    output (d), and for each of k experts its input and answer (2d), gate and up
    (2h), the activated gate and its product with up (2h). In float32: both
    norms' inputs before and after scaling (4d), the router's own copy of its
    input (d, where c is not float32), and logits and probabilities (2E). Outside
    the layers the last norm keeps 2d + d, and the loss holds logits, their log
    probabilities and their gradient (3V). Attention scores are never stored
    whole. Counted on `isoflop.model`; a test compares it with what PyTorch saves.
    """
    narrow = COMPUTE_BYTES[precision]
    d_model, experts = model.d_model, model.num_experts
    layer_narrow = 8 * d_model + model.top_k * (2 * d_model + 4 * model.d_expert)
    router_input = 0 if precision == "float32" else d_model
    layer_float32 = 4 * d_model + router_input + 2 * experts
    layer = narrow * layer_narrow + FLOAT32_BYTES * layer_float32
    outside = narrow * d_model + FLOAT32_BYTES * (2 * d_model + 3 * model.vocabulary_size)
    return model.num_layers * layer + outside


def estimate_seconds(
    model: ModelConfig,
    *,
    train_tokens: int,
    batch_tokens: int,
    sequence_length: int,
    machine: Machine = ONE_CPU_CORE,
) -> float:
    """Training time of one run in seconds: matrix products, then optimiser steps.

    tokens x FLOPs / speed + steps x parameters x 40 bytes / memory speed. The
    second term is why a sparse model of equal FLOPs takes longer: the optimiser
    touches every expert in every step.

    Args:
        train_tokens: Tokens of the run, in steps of `batch_tokens`; a rest makes no step.
    """
    flops = train_tokens * train_flops_per_token_with_router(model, sequence_length)
    steps = train_tokens // batch_tokens
    traffic = steps * total_params(model) * OPTIMISER_BYTES_PER_PARAMETER
    return flops / machine.flops_per_second + traffic / machine.memory_bytes_per_second


def seconds_at(train_tokens: int, *, tokens_per_second: float) -> float:
    """Training time of one run in seconds at a measured speed.

    Raises:
        UserError: the speed is not above 0.
    """
    if not tokens_per_second > 0:
        raise UserError(f"tokens_per_second={tokens_per_second} must be above 0")
    return train_tokens / tokens_per_second


def _weight_copy_bytes(model: ModelConfig, precision: ComputePrecision) -> int:
    """Attention, experts and head; router, norms and embedding stay float32."""
    if precision == "float32":
        return 0
    norms = (2 * model.num_layers + 1) * model.d_model
    embedding = embedding_params(model) // 2
    return COMPUTE_BYTES[precision] * (
        total_params(model) - router_params(model) - norms - embedding
    )
