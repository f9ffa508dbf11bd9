"""Rows on their way into attention and out of it: cut into heads and turned, taken by their places.

By kernels.c, see `isoflop.model.ops.native`. Shapes as in `isoflop.model.ops.reference`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isoflop.model.ops import reference
from isoflop.model.ops.autograd import apply
from isoflop.model.ops.build import call
from isoflop.model.ops.checks import checked, fits


class _RotateHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, cosine: Tensor, sine: Tensor, heads: int, key_value_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length = projected.shape[:2]
        width = cosine.shape[-1]
        query = projected.new_empty(batch, heads, length, width)
        key = projected.new_empty(batch, key_value_heads, length, width)
        value = torch.empty_like(key)
        cosine, sine = cosine.contiguous(), sine.contiguous()
        stride = length * width if cosine.ndim > 2 and cosine.shape[0] > 1 else 0
        ctx.tables = (cosine, sine, stride, batch, length, heads, key_value_heads, width)
        parts = (projected.contiguous(), query, key, value)
        call(projected.dtype, "rotate_heads", 0, *parts, *ctx.tables)
        return query, key, value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value = (gradient.contiguous() for gradient in gradients)
        _, _, _, batch, length, heads, key_value_heads, width = ctx.tables
        projected = query.new_empty(batch, length, (heads + 2 * key_value_heads) * width)
        call(query.dtype, "rotate_heads", 1, projected, query, key, value, *ctx.tables)
        return projected, None, None, None, None


def rotate_heads(
    projected: Tensor, cosine: Tensor, sine: Tensor, num_heads: int, key_value_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See reference."""
    given = (projected, cosine, sine, num_heads, key_value_heads)
    batch, length = projected.shape[:2]
    if cosine.shape[-2] != length or (cosine.ndim > 2 and cosine.shape[0] not in (1, batch)):
        raise ValueError(f"tables of shape {tuple(cosine.shape)} for {batch} x {length} positions")
    if not (fits(projected, cosine, sine) and cosine.dtype == sine.dtype == torch.float32):
        return reference.rotate_heads(*given)
    result: tuple[Tensor, Tensor, Tensor] = apply(_RotateHeads, *given)
    return result


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.rows = x.shape[0]
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (places,), d_out = ctx.saved_tensors, gradients[0].contiguous()
        d_x = torch.zeros(ctx.rows, d_out.shape[1])
        call(d_out.dtype, "take_rows_backward", d_out, places, *d_out.shape, d_x)
        return d_x.to(d_out.dtype), None


def take_rows(x: Tensor, places: Tensor) -> Tensor:
    """See reference."""
    if not fits(x):
        return reference.take_rows(x, places)
    out: Tensor = apply(_TakeRows, x, checked(places, x.shape[0], "row"))
    return out
