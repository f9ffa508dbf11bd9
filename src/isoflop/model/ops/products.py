"""Products with float32 weights, for which experts' numbers of rows are new in every step.

bfloat16 rows: by products.c where the processor has bfloat16 instructions, see there for why; else,
and where its matrix unit earns back what PyTorch spends on a new number of rows, by PyTorch, as
`isoflop.model.ops.reference` does. float32 rows: by products_float32.c on processors of 8 lanes.

Shapes in this file:
    rows     (token, chosen expert) pairs, sorted by expert
    experts  experts of a layer; 1 for a plain product
    depth    the summed axis
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isoflop.model.ops import reference
from isoflop.model.ops.autograd import apply
from isoflop.model.ops.build import call, library, room

PAIRS, CHUNK, COLUMNS, ROWS = 256, 256, 32, 12
"""As defined in tile.h, which says why."""

FLOAT32_DEPTH, FLOAT32_CHUNK = 256, 256
FLOAT32_LEFT_ROW = 12 * 8
"""As defined in panels.h, which says why; the last is a block's tiles times LEFT."""

MIN_FLOAT32_ROWS = 4
"""Of an expert on average, from which on packing its weights pays: with 2 rows it did from d64 to d256
on AMD's Zen 5, with 1 it did not at d128 (docs/log.md, 2026-11-26)."""

MAX_PLAIN_DEPTH = 8192
"""Longest summed axis of a plain product done here; longer ones, a vocabulary, are done by
PyTorch, whose number of rows does not change. Chosen, not tuned."""


MATRIX_UNIT_FLOPS = 1 << 29
"""Of one expert's product, from which on PyTorch's are faster where the processor has AMX: there a
new kernel costs milliseconds and then runs at three times our speed. Measured between 2^27, where
ours won, and 2^30, where PyTorch's did (docs/log.md, 2026-11-26)."""


@functools.cache
def tiles_available() -> bool:
    """Whether the processor has what tile.h needs."""
    return bool(library(torch.bfloat16).tiles_available())


@functools.cache
def float32_tiles_available() -> bool:
    """Whether products_float32.c was measured to be the faster one on such a processor."""
    return bool(library(torch.float32).float32_tiles_available())


def many_rows(rows: int, num_experts: int) -> bool:
    """Whether float32 rows are enough for the packing of weights to pay."""
    return rows >= MIN_FLOAT32_ROWS * num_experts


@functools.cache
def matrix_unit_available() -> bool:
    """Whether PyTorch's products have AMX."""
    return bool(library(torch.bfloat16).matrix_unit_available())


def _fits(x: Tensor, weight: Tensor, num_experts: int) -> bool:
    """Whether this product is done here: it can be, and PyTorch would not be faster.

    Decided by shapes alone: the same model and batch are computed in the same way in every step.
    """
    if weight.dtype != torch.float32 or not x.device.type == weight.device.type == "cpu":
        return False
    if x.dtype == torch.float32:
        return many_rows(x.numel() // x.shape[-1], num_experts) and float32_tiles_available()
    # The product sums over one of the weight's last two axes, the gradient of its rows over the other.
    even = not any(n % 2 for n in weight.shape[-2:])
    if not (x.dtype == torch.bfloat16 and even and tiles_available()):
        return False
    flops = 2 * x.numel() // x.shape[-1] * weight.numel() // num_experts**2
    return flops < MATRIX_UNIT_FLOPS or not matrix_unit_available()


class _Product(torch.autograd.Function):
    """rows (rows, depth) x weight (experts, depth, width), or (experts, width, depth) transposed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, ends: Tensor, transposed: bool) -> Tensor:
        rows, weight = rows.contiguous(), weight.contiguous()
        ctx.save_for_backward(rows, weight, ends)
        ctx.transposed = transposed
        return _product(rows, weight, ends, transposed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, weight, ends = ctx.saved_tensors
        d_out = gradients[0].contiguous()
        d_rows = _product(d_out, weight, ends, not ctx.transposed)
        # A transposed weight has the gradient of its own layout: the factors change places.
        left, right = (d_out, rows) if ctx.transposed else (rows, d_out)
        return d_rows, _weight_gradient(left, right, ends), None, None


def _product(rows: Tensor, weight: Tensor, ends: Tensor, transposed: bool) -> Tensor:
    depth, width = rows.shape[1], weight.shape[1] if transposed else weight.shape[2]
    out = rows.new_empty(rows.shape[0], width)
    if rows.dtype == torch.float32:
        _float32_product(rows, weight, ends, transposed, out)
        return out
    given = (rows, weight, ends, weight.shape[0], depth, width, int(transposed))
    panels = room(PAIRS * CHUNK, dtype=torch.int32)
    sums = room(rows.shape[0] * CHUNK)
    call(torch.bfloat16, "grouped_product", *given, panels, sums, out)
    return out


def _float32_product(
    rows: Tensor, weight: Tensor, ends: Tensor, transposed: bool, out: Tensor
) -> None:
    sizes = (weight.shape[0], rows.shape[1], out.shape[1], int(transposed))
    panels = room(FLOAT32_DEPTH * FLOAT32_CHUNK)
    call(torch.float32, "grouped_product_float32", rows, weight, ends, *sizes, panels, out)


def _weight_gradient(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    depth, width = left.shape[1], right.shape[1]
    out = room(ends.numel(), depth, width)
    if left.dtype == torch.float32:
        _float32_weight_gradient(left, right, ends, out, add=False)
        return out
    given = (left, right, ends, ends.numel(), depth, width)
    pairs = room(PAIRS * (depth + ROWS), dtype=torch.int32)
    panels = room(PAIRS * CHUNK, dtype=torch.int32)
    call(torch.bfloat16, "grouped_weight_gradient", *given, pairs, panels, out)
    return out


def _float32_weight_gradient(
    left: Tensor, right: Tensor, ends: Tensor, out: Tensor, *, add: bool
) -> None:
    sizes = (ends.numel(), left.shape[1], right.shape[1], int(add))
    tiles, panels = room(FLOAT32_DEPTH * FLOAT32_LEFT_ROW), room(FLOAT32_DEPTH * FLOAT32_CHUNK)
    name = "grouped_weight_gradient_float32"
    call(torch.float32, name, left, right, ends, *sizes, tiles, panels, out)


def expert_product(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """See reference."""
    if not _fits(rows, weight, weight.shape[0]):
        return reference.expert_product(rows, weight, ends)
    out: Tensor = apply(_Product, rows, weight, ends, False)
    return out


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """See reference."""
    width, depth = weight.shape
    if max(width, depth) > MAX_PLAIN_DEPTH or not _fits(x, weight, 1):
        return reference.linear(x, weight)
    ends = _all_rows(x.numel() // depth)
    out: Tensor = apply(_Product, x.reshape(-1, depth), weight[None], ends, True)
    return out.view(*x.shape[:-1], width)


def _all_rows(rows: int) -> Tensor:
    """Where the rows of a plain product's only expert end."""
    return torch.tensor([rows], dtype=torch.int32, device="cpu")


def _plain_float32(left: Tensor, right: Tensor) -> bool:
    """Whether a product outside autograd is done here."""
    alike = left.dtype == right.dtype == torch.float32
    whole = left.is_contiguous() and right.is_contiguous()
    return (
        alike
        and whole
        and max(*left.shape[1:], *right.shape) <= MAX_PLAIN_DEPTH
        and _fits(left, right, 1)
    )


def product_into(out: Tensor, rows: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    """See reference."""
    if not (_plain_float32(rows, weight) and out.is_contiguous()):
        return reference.product_into(out, rows, weight, transposed)
    _float32_product(rows, weight[None], _all_rows(len(rows)), transposed, out)
    return out


def add_outer(out: Tensor, left: Tensor, right: Tensor) -> None:
    """See reference."""
    if not (_plain_float32(left, right) and out.is_contiguous() and out.dtype == torch.float32):
        return reference.add_outer(out, left, right)
    _float32_weight_gradient(left, right, _all_rows(len(left)), out, add=True)
    return None
