"""SwiGLU experts of one layer in float32 in one pass, where products_float32.c is the faster one.

What lies between the products stays in the cache, a block of rows at a time (experts_float32.c).

Shapes in this file:
    tokens   every position of every sequence, flattened
    experts  routed experts, E
    top_k    experts that see one token, k
    rows     tokens x top_k, sorted by expert
    hidden   hidden width of one expert
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isoflop.model.ops.autograd import apply
from isoflop.model.ops.build import call, room
from isoflop.model.ops.checks import fits
from isoflop.model.ops.dispatch import Dispatch
from isoflop.model.ops.products import (
    FLOAT32_LEFT_ROW,
    float32_tiles_available,
    many_rows,
)

PANEL = 32
"""Columns of a panel at most, see panels.h."""

BLOCK_ROWS = 128
"""Rows that go through an expert together. Measured: 48 to 256 are within 5% up to d256 (docs/log.md)."""


def _padded(width: int) -> int:
    return -(-width // PANEL) * PANEL


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        gate_up: Tensor,
        down: Tensor,
        dispatch: Dispatch,
        keep: bool,
    ) -> Tensor:
        x, weights = x.contiguous(), weights.contiguous()
        gate_up, down = gate_up.contiguous(), down.contiguous()
        (num_experts, hidden, width), top_k = down.shape, weights.shape[1]
        inner = x.new_empty(dispatch.choices.numel(), 2 * hidden) if keep else None
        panels = width * _padded(2 * hidden) + hidden * _padded(width)
        rooms = room(panels + BLOCK_ROWS * (2 * width + 3 * hidden))
        given = (x, weights, gate_up, down, dispatch.choices, dispatch.ends)
        sizes = (num_experts, top_k, width, hidden, BLOCK_ROWS)
        out = torch.zeros_like(x)
        call(torch.float32, "experts_forward", *given, *sizes, rooms, inner, out)
        ctx.save_for_backward(*given, inner)
        ctx.sizes = sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        *given, inner = ctx.saved_tensors
        x, weights, gate_up, down, *_ = given
        width, hidden = ctx.sizes[2:4]
        panels = 2 * hidden * _padded(width) + width * _padded(hidden)
        rows = 3 * width + 4 * hidden + _padded(max(2 * hidden, width))
        rooms = room(panels + BLOCK_ROWS * (rows + FLOAT32_LEFT_ROW))
        found = torch.zeros_like(x), *(torch.empty_like(one) for one in (weights, gate_up, down))
        given = (*given, *ctx.sizes, inner, gradients[0].contiguous(), rooms)
        call(torch.float32, "experts_backward", *given, *found)
        return *found, None, None


def fused_experts(
    x: Tensor, weights: Tensor, dispatch: Dispatch, gate_up: Tensor, down: Tensor
) -> Tensor | None:
    """See reference."""
    given = (x, weights, gate_up, down)
    own = all(one.dtype == torch.float32 for one in given) and dispatch.capacity is None
    if not (own and fits(*given) and many_rows(dispatch.choices.numel(), gate_up.shape[0])):
        return None
    if not float32_tiles_available():
        return None
    out: Tensor = apply(_Experts, *given, dispatch, torch.is_grad_enabled())
    return out
