"""Causal attention on a CPU, some query positions at a time: memory is linear in the length.

In float32, where the width of a head is a multiple of 16, by attention_float32.c; in bfloat16,
where the processor has the instructions, by attention.c; else by PyTorch's batched products with
kernels.c between them. All keep the logarithm of each row's sum and make the probabilities again
in the backward pass (FlashAttention's idea, arXiv:2205.14135).

Shapes in this file:
    heads     heads of all sequences, flattened
    length    positions of a sequence
    width     width of one head
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isoflop.model.ops import reference
from isoflop.model.ops.attention_float32 import FusedAttention, takes
from isoflop.model.ops.autograd import apply
from isoflop.model.ops.build import NUMBERS, call, room
from isoflop.model.ops.heads import rotate_heads, take_rows
from isoflop.model.ops.packing import Packing
from isoflop.model.ops.products import COLUMNS, ROWS, tiles_available

ATTENTION_BLOCK_BYTES = 1 << 24
"""Of the scores held at once, 16 MiB: memory does not grow with the square of the sequence. At
4,096 positions, 4 heads of 128, blocks of 4, 8 and 16 MiB took 556, 501 and 481 ms forward and
backward, PyTorch's own attention 645 (docs/log.md, 2026-11-22)."""

TILE_SCORES = 1 << 16
"""Scores of a group of queries that attention.c holds at once, 256 KiB twice. From a quarter to
four times as many were within 10% of each other (docs/log.md, 2026-11-22)."""

LEAST_GROUP = 48
"""Queries of a group at least: four tiles, so that packed keys are read for more than one. Of a
block too: fewer would spend their time on adding up the keys' gradients."""


def _blocks(heads: int, length: int, element_size: int) -> list[tuple[int, int]]:
    """First position and number of the query positions to take at a time."""
    fit = ATTENTION_BLOCK_BYTES // max(1, heads * length * element_size)
    count = max(1, min(length, max(fit, LEAST_GROUP)))
    return [(first, min(count, length - first)) for first in range(0, length, count)]


class _BlockAttention(torch.autograd.Function):
    """By batched products: scores of some query positions against all keys at or before them."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None
    ) -> Tensor:
        heads, length, width = query.shape
        out, log_total = (
            torch.empty_like(query),
            query.new_empty((heads, length), dtype=torch.float32),
        )
        row = log_total.new_empty(length)
        ctx.per_sequence = heads if documents is None else heads // documents.shape[0]
        for first, count in _blocks(heads, length, query.element_size()):
            keys = first + count
            scores = torch.bmm(query[:, first:keys], key[:, :keys].mT)
            sizes = (heads, ctx.per_sequence, length, first, count, keys, width**-0.5)
            call(query.dtype, "attention_softmax", scores, documents, *sizes, row, log_total)
            out[:, first:keys] = torch.bmm(scores, value[:, :keys])
        ctx.save_for_backward(query, key, value, documents, out, log_total)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, documents, out, log_total = ctx.saved_tensors
        d_out = gradients[0].contiguous()
        heads, length, width = query.shape
        dots = torch.empty_like(log_total)
        call(query.dtype, "row_dots", d_out, out, heads * length, width, dots)
        d_query = torch.empty_like(query)
        d_key = torch.zeros_like(key, dtype=torch.float32)
        d_value = torch.zeros_like(value, dtype=torch.float32)
        for first, count in _blocks(heads, length, query.element_size()):
            keys = first + count
            part = slice(first, keys)
            scores = torch.bmm(query[:, part], key[:, :keys].mT)
            slope = torch.bmm(d_out[:, part], value[:, :keys].mT)
            sizes = (heads, ctx.per_sequence, length, first, count, keys, width**-0.5)
            given = (scores, slope, documents, log_total, dots)
            call(query.dtype, "attention_softmax_backward", *given, *sizes)
            d_value[:, :keys] += torch.bmm(scores.mT, d_out[:, part])
            d_query[:, part] = torch.bmm(slope, key[:, :keys])
            d_key[:, :keys] += torch.bmm(slope.mT, query[:, part])
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), None


class _TileAttention(torch.autograd.Function):
    """The same in one call of attention.c, with scores in float32."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None
    ) -> Tensor:
        heads, length, width = query.shape
        out, log_total = torch.empty_like(query), room(heads, length)
        per_sequence = heads if documents is None else heads // documents.shape[0]
        place = _Room(length, width)
        ctx.sizes = (heads, per_sequence, length, width, place.group, width**-0.5)
        given = (query, key, value, documents, *ctx.sizes, place.panels(2), place.scores())
        call(query.dtype, "attention_forward", *given, out, log_total)
        ctx.save_for_backward(query, key, value, documents, log_total)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, documents, log_total = ctx.saved_tensors
        _, length, width = query.shape
        place, d_out = _Room(length, width), gradients[0].contiguous()
        found = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value))
        given = (query, key, value, d_out, documents, log_total, *ctx.sizes)
        sums = room(2 * length * width)
        rooms = (place.panels(3), place.scores(), place.left(), sums)
        call(query.dtype, "attention_backward", *given, *rooms, *found)
        return *found, None


class _Room:
    """Memory that attention.c works in, and how many queries fit in it at a time."""

    def __init__(self, length: int, width: int):
        self.stride, self.span = (-(-size // COLUMNS) * COLUMNS for size in (length, width))
        fit = TILE_SCORES // self.stride
        self.group = min(self.stride, max(LEAST_GROUP, fit // 2 * 2))

    def panels(self, number: int) -> Tensor:
        """Packed heads, and one packed group."""
        size = number * self.stride * self.span // 2 + self.group * COLUMNS
        return room(size, dtype=torch.int32)

    def scores(self) -> Tensor:
        """Scores and their gradients of a group, in float32, and in bfloat16."""
        return room(3 * self.group * self.stride)

    def left(self) -> Tensor:
        """Packed probabilities of a group."""
        return room(self.group * (self.stride + ROWS), dtype=torch.int32)


def attention(query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None) -> Tensor:
    """See reference."""
    if query.device.type != "cpu" or query.dtype not in NUMBERS:
        return reference.attention(query, key, value, documents)
    if documents is not None and documents.shape != (query.shape[0], query.shape[2]):
        raise ValueError(f"documents of shape {tuple(documents.shape)} for {tuple(query.shape)}")
    documents = None if documents is None else documents.long().contiguous()
    alike = key.shape == value.shape == (query.shape[0], key.shape[1], *query.shape[2:])
    if alike and takes(query.shape[-1], query, key, value):
        whole = (part.contiguous() for part in (query, key, value))
        mixed: Tensor = apply(FusedAttention, *whole, documents, None)
        return mixed
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    flat = (part.flatten(0, 1).contiguous() for part in (query, key, value))
    tiles = query.dtype == torch.bfloat16 and query.shape[-1] % 2 == 0 and tiles_available()
    function = _TileAttention if tiles else _BlockAttention
    out: Tensor = apply(function, *flat, documents)
    return out.view_as(query)


def attend_packed(
    projected: Tensor,
    cosine: Tensor,
    sine: Tensor,
    packing: Packing,
    num_heads: int,
    key_value_heads: int,
) -> Tensor:
    """See reference; where the kernel takes the heads, no sequence is made whole."""
    counts = (num_heads, key_value_heads)
    if takes(cosine.shape[-1], projected):
        positions = packing.positions
        heads = rotate_heads(projected, cosine[positions], sine[positions], *counts)
        mixed: Tensor = apply(FusedAttention, *heads, None, packing)
        return reference.join_heads(mixed)
    length = packing.spread.shape[1]
    whole = packing.unpack(projected, take_rows)
    heads = rotate_heads(whole, cosine[:length], sine[:length], *counts)
    return packing.pack(reference.join_heads(attention(*heads, None)), take_rows)
