"""What stands between the matrix products of a layer, fused, for the CPU.

Every function computes what its namesake in `isoflop.model.ops.reference`
defines, in one pass over memory by kernels.c. What is not on a CPU, or is
stored in another precision than float32 and bfloat16, goes to the reference.

Shapes as there. One thread: a study trains many models at once, one a core.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isoflop.model.config import RouterOrder
from isoflop.model.ops import reference
from isoflop.model.ops.attention import attend_packed as attend_packed
from isoflop.model.ops.attention import attention as attention
from isoflop.model.ops.autograd import apply
from isoflop.model.ops.build import NUMBERS, call, room
from isoflop.model.ops.cached import LayerCache, NewPositions
from isoflop.model.ops.checks import checked, fits
from isoflop.model.ops.dispatch import Dispatch
from isoflop.model.ops.experts_float32 import fused_experts as fused_experts
from isoflop.model.ops.heads import rotate_heads as rotate_heads
from isoflop.model.ops.heads import take_rows as take_rows
from isoflop.model.ops.products import add_outer as add_outer
from isoflop.model.ops.products import expert_product as expert_product
from isoflop.model.ops.products import linear as linear
from isoflop.model.ops.products import product_into as product_into
from isoflop.model.router import RouterStatistics, Routing

DECODE_LANES = 16
"""Positions that decode.c scores together, LANES there; its row of scores may end so many later."""


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        delta: Tensor | None,
        weight: Tensor,
        epsilon: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        delta = None if delta is None else delta.contiguous()
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        total = x if delta is None else torch.empty_like(x)
        normed, scale = torch.empty_like(x, dtype=dtype), x.new_empty(rows)
        sizes = (epsilon, rows, width)
        call(dtype, "add_norm_forward", x, delta, weight, *sizes, total, normed, scale)
        ctx.save_for_backward(total, weight, scale)
        ctx.has_delta = delta is not None
        ctx.set_materialize_grads(False)
        # Autograd wants a new tensor for every output, so the stream passes as a view.
        return (total.view_as(total) if delta is None else total), normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        total, weight, scale = ctx.saved_tensors
        d_sum, d_normed = gradients
        if d_normed is None:
            return d_sum, (d_sum if ctx.has_delta else None), None, None, None
        d_normed, dtype = d_normed.contiguous(), d_normed.dtype
        d_sum = None if d_sum is None else d_sum.contiguous()
        rows, width = scale.numel(), weight.numel()
        d_x, d_weight = torch.empty_like(total), torch.zeros_like(weight)
        d_delta = torch.empty_like(d_normed) if ctx.has_delta else None
        given = (total, weight, scale, d_normed, d_sum, rows, width)
        call(dtype, "add_norm_backward", *given, d_x, d_delta, d_weight)
        return d_x, d_delta, d_weight, None, None


def add_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See reference."""
    own = x.dtype == weight.dtype == torch.float32 and dtype in NUMBERS
    own = own and (delta is None or delta.dtype == dtype)
    if not (own and fits(x, delta)):
        return reference.add_norm(x, delta, weight, epsilon, dtype)
    result: tuple[Tensor, Tensor] = apply(_AddNorm, x, delta, weight, epsilon, dtype)
    return result


def attend_cached(
    projected: Tensor, new: NewPositions, cache: LayerCache, num_heads: int, key_value_heads: int
) -> Tensor:
    """See reference. One new position a sequence is one pass; more are PyTorch's."""
    batch, count = new.positions.shape
    given = (projected, cache.keys, cache.values)
    one_kind = projected.dtype == cache.keys.dtype == cache.values.dtype
    tables = (new.cosine, new.sine)
    if count != 1 or not (one_kind and fits(*given, *tables)):
        return reference.attend_cached(projected, new, cache, num_heads, key_value_heads)
    width = new.cosine.shape[-1]
    positions = checked(new.positions, min(new.capacity, len(new.cosine)), "position")
    out = projected.new_empty(batch, 1, num_heads * width)
    sizes = (batch, num_heads, key_value_heads, new.capacity, width, width**-0.5)
    rooms = (room(new.capacity + DECODE_LANES), room(width), projected.new_empty(width))
    call(
        projected.dtype,
        "attend_cached",
        projected.contiguous(),
        *tables,
        positions,
        *sizes,
        *given[1:],
        *rooms,
        out,
    )
    return out


class _RouteTokens(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        top_k: int,
        order: RouterOrder,
        num_sequences: int,
        counted: Tensor | None,
        given: Tensor | None,
    ) -> tuple[Tensor, ...]:
        logits = logits.contiguous()
        counted = None if counted is None else counted.bool().contiguous()
        tokens, num_experts = logits.shape
        experts = room(tokens, top_k, dtype=torch.long)
        if given is not None:
            experts.copy_(checked(given, num_experts, "expert"))
        weights, log_total = logits.new_empty(tokens, top_k), logits.new_empty(tokens)
        probability_sum = logits.new_zeros(num_sequences, num_experts)
        counts = torch.zeros_like(probability_sum, dtype=torch.long)
        z_sum = logits.new_zeros((), dtype=torch.float64)
        ctx.sizes = (tokens, num_sequences, num_experts, top_k, int(order == "softmax_then_topk"))
        found = (logits.new_empty(num_experts), log_total, probability_sum, counts, z_sum)
        asked = (logits, counted, *ctx.sizes, int(given is not None))
        call(logits.dtype, "route_forward", *asked, experts, weights, *found)
        ctx.save_for_backward(logits, counted, experts, weights, log_total)
        ctx.mark_non_differentiable(experts, counts)
        ctx.set_materialize_grads(False)
        return weights, experts, probability_sum, counts, z_sum.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        logits, counted, experts, weights, log_total = ctx.saved_tensors
        d_weights, _, d_probability_sum, _, d_z_sum = gradients
        _, num_sequences, num_experts = ctx.sizes[:3]
        if d_probability_sum is None:
            d_probability_sum = logits.new_zeros(num_sequences, num_experts)
        d_logits, row = torch.empty_like(logits), logits.new_empty(num_experts)
        call(
            logits.dtype,
            "route_backward",
            logits,
            counted,
            experts,
            weights,
            log_total,
            None if d_weights is None else d_weights.contiguous(),
            d_probability_sum.contiguous(),
            0.0 if d_z_sum is None else d_z_sum.item(),
            *ctx.sizes,
            row,
            d_logits,
        )
        return d_logits, *[None] * 5


def route_tokens(
    logits: Tensor,
    top_k: int,
    order: RouterOrder,
    num_sequences: int,
    counted: Tensor | None,
    given: Tensor | None = None,
) -> tuple[Routing, RouterStatistics]:
    """See reference; of equal logits the first expert is chosen."""
    asked = (logits, top_k, order, num_sequences, counted, given)
    if not (fits(logits) and logits.dtype == torch.float32):
        return reference.route_tokens(*asked)
    weights, experts, probability_sum, counts, z_sum = apply(_RouteTokens, *asked)
    if counted is None:
        num_tokens = experts.new_full((num_sequences,), logits.shape[0] // num_sequences)
    else:
        num_tokens = counted.view(num_sequences, -1).sum(dim=-1)
    return Routing(weights, experts), RouterStatistics(probability_sum, counts, z_sum, num_tokens)


def make_dispatch(experts: Tensor, num_experts: int, capacity: int | None) -> Dispatch:
    """See reference.

    Raises:
        IndexError: an expert that there is not.
        ValueError: an expert that was chosen more often than `capacity`.
    """
    if experts.device.type != "cpu":
        return reference.make_dispatch(experts, num_experts, capacity)
    experts = checked(experts, num_experts, "expert")
    rows = experts.numel() if capacity is None else num_experts * capacity
    choices, slots = experts.new_full((rows,), -1), torch.empty_like(experts)
    ends = room(num_experts, dtype=torch.int32)
    given = (experts, experts.numel(), num_experts, capacity or 0, experts.new_empty(num_experts))
    if capacity is not None and experts.flatten().bincount(minlength=1).max() > capacity:
        raise ValueError(f"an expert was chosen more often than capacity={capacity}")
    call(torch.float32, "make_dispatch", *given, choices, slots, ends)
    return Dispatch(choices, slots, ends, capacity)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dispatch: Dispatch) -> Tensor:
        ctx.save_for_backward(dispatch.slots)
        rows, width = dispatch.choices.numel(), x.shape[-1]
        out = x.new_empty(rows, width)
        given = (x.contiguous(), dispatch.choices, rows, dispatch.slots.shape[1], width)
        call(x.dtype, "gather_rows", *given, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (slots,) = ctx.saved_tensors
        return _add_up(gradients[0].contiguous(), None, slots), None


def _add_up(rows: Tensor, weights: Tensor | None, slots: Tensor) -> Tensor:
    (tokens, top_k), width = slots.shape, rows.shape[-1]
    out, line = rows.new_empty(tokens, width), room(width)
    call(rows.dtype, "combine_forward", rows, weights, slots, tokens, top_k, width, line, out)
    return out


def gather_rows(x: Tensor, dispatch: Dispatch) -> Tensor:
    """See reference."""
    if not fits(x):
        return reference.gather_rows(x, dispatch)
    out: Tensor = apply(_GatherRows, x, dispatch)
    return out


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, answers: Tensor, weights: Tensor, dispatch: Dispatch) -> Tensor:
        answers, weights = answers.contiguous(), weights.contiguous()
        ctx.save_for_backward(answers, weights, dispatch.slots)
        ctx.padded = dispatch.capacity is not None
        return _add_up(answers, weights, dispatch.slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        answers, weights, slots = ctx.saved_tensors
        (tokens, top_k), width = slots.shape, answers.shape[-1]
        d_answers = torch.zeros_like(answers) if ctx.padded else torch.empty_like(answers)
        d_weights, d_out = torch.empty_like(weights), gradients[0].contiguous()
        given = (answers, weights, slots, d_out, tokens, top_k, width)
        call(answers.dtype, "combine_backward", *given, d_answers, d_weights)
        return d_answers, d_weights, None


def combine(answers: Tensor, weights: Tensor, dispatch: Dispatch) -> Tensor:
    """See reference."""
    if not (fits(answers) and weights.dtype == torch.float32):
        return reference.combine(answers, weights, dispatch)
    out: Tensor = apply(_Combine, answers, weights, dispatch)
    return out


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        rows, hidden = gate_up.shape[0], gate_up.shape[1] // 2
        ctx.save_for_backward(gate_up)
        out = gate_up.new_empty(rows, hidden)
        call(gate_up.dtype, "swiglu_forward", gate_up, rows, hidden, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gate_up,) = ctx.saved_tensors
        d_out, d_gate_up = gradients[0].contiguous(), torch.empty_like(gate_up)
        call(gate_up.dtype, "swiglu_backward", gate_up, d_out, *d_out.shape, d_gate_up)
        return d_gate_up


def swiglu(gate_up: Tensor) -> Tensor:
    """See reference."""
    if not fits(gate_up):
        return reference.swiglu(gate_up)
    out: Tensor = apply(_Swiglu, gate_up)
    return out


def row_losses(
    logits: Tensor, targets: Tensor, with_entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """See reference."""
    if not fits(logits):
        return reference.row_losses(logits, targets, with_entropy)
    targets = checked(targets, logits.shape[1], "target")
    losses, log_total = room(2, logits.shape[0])
    entropies = room(logits.shape[0] if with_entropy else 0)
    found = (losses, log_total, entropies if with_entropy else None)
    call(logits.dtype, "row_losses", logits, targets, *logits.shape, *found)
    return losses, log_total, entropies


def row_losses_slope_(logits: Tensor, targets: Tensor, log_total: Tensor, scale: Tensor) -> Tensor:
    """See reference."""
    if not fits(logits):
        return reference.row_losses_slope_(logits, targets, log_total, scale)
    targets = checked(targets, logits.shape[1], "target")
    given = (logits, targets, log_total.contiguous(), scale.contiguous())
    call(logits.dtype, "row_losses_slope", *given, *logits.shape)
    return logits
