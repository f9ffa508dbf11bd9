"""Memory and time of a training run, estimated before anything is built.

Estimates are for choosing what to run, not for reporting: memory leaves out the
interpreter and its libraries, time leaves out evaluation and checkpoints.
`isoflop bench memory` holds the memory against what is measured.

Letters as in `isoflop.model.count`: L layers, d width, h hidden width of one
expert, V vocabulary, E experts, k experts a token, n heads; c is the width in
bytes of one number in the matrix products.
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
Ops = Literal["native", "torch"]

FUSED_WIDTH = 16
"""Head widths that `isoflop.model.ops.attention_float32` takes are multiples of this."""
Recompute = Literal["none", "layers"]

FLOAT32_BYTES = 4
"""Weights, gradients, optimiser, residual stream, norms, router and loss are float32."""

COMPUTE_BYTES: dict[ComputePrecision, int] = {"float32": 4, "bfloat16": 2}

INT64_BYTES = 8

DISPATCH_NUMBERS = 3
"""Whole numbers for each chosen expert: its own, and its row and back (`isoflop.model.ops.Dispatch`)."""

LOSS_CHUNK_BYTES = 1 << 27
"""`isoflop.model.loss.CHUNK_BYTES`, which cannot be imported without torch; a test holds them equal."""

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
    """Bytes that training needs at its peak, by what needs them."""

    weights: int
    optimiser: int
    """The two moments of AdamW."""
    gradients: int
    weight_copies: int
    """The layers' matrices in the precision of the products, where these are not read in place."""
    activations: int
    """What the forward pass of one micro-batch keeps for the backward pass."""
    loss: int
    """One chunk's logits and what it adds to the head's gradient, while the loss is made."""
    backward: int
    """What the backward pass of one layer needs for itself; computed again, its activations too."""

    @property
    def total(self) -> int:
        """All of it: gradients come while activations go, but rarely into the same places.

        glibc, as a study's workers set it, keeps freed blocks, and a gradient is of another size
        than what was freed. With the system's own settings the peak is up to a fifth lower.
        """
        states = self.weights + self.optimiser + self.gradients + self.weight_copies
        return states + self.activations + self.loss + self.backward


def estimate_memory(
    model: ModelConfig,
    *,
    micro_batch_tokens: int,
    precision: ComputePrecision = "float32",
    ops: Ops = "native",
    recompute: Recompute = "none",
    fused_experts: bool = False,
) -> MemoryEstimate:
    """Peak memory of training on micro-batches of `micro_batch_tokens` tokens.

    Sixteen bytes a parameter for weight, gradient and AdamW; `layer_bytes_per_token` for every
    token and layer; the head's gradient is one of the gradients, made with the loss.

    Args:
        ops: As in `isoflop.model.ops`. "native" is what a CPU with a C compiler and bfloat16
            instructions uses; "torch" what all others use, GPUs among them.
        recompute: As in `isoflop.train.config.TrainConfig`.
        fused_experts: Whether float32 experts are computed in one pass, as `ops="native"` does on
            some processors (`isoflop.design.processor`); they then keep gates and ups alone. False
            plans for processors that do not. Without meaning in bfloat16 and with `ops="torch"`.

    Raises:
        UserError: no tokens.
    """
    if micro_batch_tokens < 1:
        raise UserError(f"micro_batch_tokens={micro_batch_tokens} must be at least 1")
    weights = FLOAT32_BYTES * total_params(model)
    fused_experts = fused_experts and (precision, ops) == ("float32", "native")
    per_layer = micro_batch_tokens * layer_bytes_per_token(model, precision, ops, fused_experts)
    again = recompute == "layers"
    kept_layer = micro_batch_tokens * _input_bytes(model, precision) if again else per_layer
    outside = micro_batch_tokens * _outside_bytes(model, precision, ops)
    copies = _weight_copy_bytes(model, precision, ops)
    own = micro_batch_tokens * _backward_bytes(model, precision, fused_experts)
    return MemoryEstimate(
        weights=weights,
        optimiser=ADAMW_MOMENTS * weights,
        gradients=weights,
        weight_copies=copies // model.num_layers if again else copies,
        activations=model.num_layers * kept_layer + outside,
        loss=_loss_bytes(model, precision, ops, micro_batch_tokens),
        backward=own + per_layer if again else own,
    )


def layer_bytes_per_token(
    model: ModelConfig,
    precision: ComputePrecision = "float32",
    ops: Ops = "native",
    fused_experts: bool = False,
) -> int:
    """Bytes that one token keeps in one layer between forward and backward pass, grouped experts.

    Both keep, in the precision c of the products: what the projections read (the first norm's
    output, d) and each of k experts' input and answer (2d), gate and up (2h) and their product
    (h); in float32: both norms' inputs (2d) and scales, the router's input (d), the softmax's
    sum of each head and the chosen weights; and the chosen experts' numbers as integers.

    "native" keeps queries, keys and values once for each head (3d; in float32 those of shared
    heads once, where the head's width is a multiple of FUSED_WIDTH), attention's output before
    and after its heads are joined (2d), and the router's logits (E). "torch" keeps the joint
    projection, since values are a view of it, turned queries and keys, attention's output (d),
    the activated gate (k h), both norms' outputs before scaling (2d) and the router's logits and
    probabilities (2E). Experts in one pass keep gates and ups alone (2h).
    Attention scores are never stored whole. Counted on `isoflop.model`; a test compares all with
    what PyTorch saves.
    """
    narrow = COMPUTE_BYTES[precision]
    d_model, hidden, top_k = model.d_model, model.d_expert, model.top_k
    products = d_model + top_k * (2 * hidden if fused_experts else 2 * d_model + 3 * hidden)
    # Two norms' scales, the router's logarithm of a sum.
    float32 = 3 * d_model + model.num_heads + top_k + 3
    if ops == "native":
        fused = precision == "float32" and model.head_width % FUSED_WIDTH == 0
        products += 2 * d_model + (model.query_key_value_width if fused else 3 * d_model)
        float32 += model.num_experts
    else:
        keys = model.key_value_heads * model.head_width
        products += model.query_key_value_width + d_model + keys + d_model + top_k * hidden
        float32 += 2 * d_model + 2 * model.num_experts
    return narrow * products + FLOAT32_BYTES * float32 + DISPATCH_NUMBERS * INT64_BYTES * top_k


def _input_bytes(model: ModelConfig, precision: ComputePrecision) -> int:
    """Of one token, when a layer is computed again: the residual stream and what is to be added."""
    return model.d_model * (FLOAT32_BYTES + COMPUTE_BYTES[precision])


def _outside_bytes(model: ModelConfig, precision: ComputePrecision, ops: Ops) -> int:
    """Of one token outside the layers: the last norm's input, and the gradient of its output."""
    norm = 1 if ops == "native" else 2
    return model.d_model * (norm * FLOAT32_BYTES + COMPUTE_BYTES[precision])


def _loss_bytes(model: ModelConfig, precision: ComputePrecision, ops: Ops, tokens: int) -> int:
    """One chunk's logits and its part of the head's gradient; torch makes float32 copies of logits."""
    narrow = COMPUTE_BYTES[precision]
    head = model.vocabulary_size * model.d_model
    logits = narrow * tokens * model.vocabulary_size
    # At least one row, whatever the vocabulary.
    chunk = min(logits, max(LOSS_CHUNK_BYTES, narrow * model.vocabulary_size))
    copies = 0 if ops == "native" else 2 * FLOAT32_BYTES * chunk // narrow
    head_copy = 0 if precision == "float32" else narrow * head
    return chunk + copies + narrow * head + head_copy


def _backward_bytes(model: ModelConfig, precision: ComputePrecision, fused_experts: bool) -> int:
    """Of one token in one layer's backward pass at its fullest: gradients of the residual stream,
    and of the experts' answers, gates, ups and products, which one pass never holds."""
    experts = 0 if fused_experts else model.top_k * (model.d_model + 3 * model.d_expert)
    return FLOAT32_BYTES * 2 * model.d_model + COMPUTE_BYTES[precision] * experts


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


def _weight_copy_bytes(model: ModelConfig, precision: ComputePrecision, ops: Ops) -> int:
    """Attention's and experts' matrices; native products read float32 weights in place."""
    if precision == "float32" or ops == "native":
        return 0
    norms = (2 * model.num_layers + 1) * model.d_model
    matrices = total_params(model) - router_params(model) - norms - embedding_params(model)
    return COMPUTE_BYTES[precision] * matrices
