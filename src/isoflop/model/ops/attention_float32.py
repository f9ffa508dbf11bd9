"""Causal attention of float32 heads in one call of attention_float32.c: scores never leave the cache.

Of whole sequences, or of rows that sequences share: then each row's answer is computed once, and
its gradients as key and value are added up over the sequences.

Shapes in this file:
    sequences  sequences
    heads      heads of a sequence
    tokens     rows of a head: positions, or with `packing` the tokens of all sequences that differ
    width      width of one head
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isoflop.model.ops.build import call, room
from isoflop.model.ops.checks import checked
from isoflop.model.ops.packing import Packing

OCTET, COLUMNS, HALF = 8, 32, 16
"""As defined in octet.h and attention_float32.c."""

GROUP = 64
"""Queries taken at a time, so that keys are read from memory for many at once. At 43 to 1,024
positions 16 to 128 were within 10% of each other (docs/log.md, 2026-11-26)."""

FORWARD_SCORES = 1 << 15
"""Scores that the forward pass holds at once, 128 KiB, but of no less than two octets. Half and
twice as many were within 10% (docs/log.md, 2026-11-26)."""


def takes(width: int, *values: Tensor) -> bool:
    """Whether the kernels take heads of this width, of such values."""
    alike = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in values)
    return alike and width % HALF == 0


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


class FusedAttention(torch.autograd.Function):
    """Scores of a group of queries in the cache; only the logarithm of each row's sum is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        documents: Tensor | None,
        packing: Packing | None,
    ) -> Tensor:
        sequences, heads, tokens, width = query.shape
        longest = tokens
        shared: tuple[Tensor | None, ...] = (None, None, None)
        if packing is not None:
            (sequences, longest), shared = packing.spread.shape, _checked(packing, tokens)
        ctx.places = (*shared, documents)
        ctx.sizes = (sequences, heads, key.shape[1], tokens, longest, width)
        padded = _round_up(longest, COLUMNS)
        group = FORWARD_SCORES // max(1, padded) // OCTET * OCTET
        group = min(_group(longest), max(2 * OCTET, group))
        begins = None if documents is None else room(padded, dtype=torch.int32)
        place = room(2 * padded * width + group * (2 * width + padded + HALF + 1))
        out, log_total = torch.empty_like(query), room(*query.shape[:3])
        given = (query, key, value, *ctx.places, *ctx.sizes, group, width**-0.5)
        call(query.dtype, "attention_float32_forward", *given, place, begins, out, log_total)
        ctx.save_for_backward(query, key, value, out, log_total)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, out, log_total = ctx.saved_tensors
        longest, width = ctx.sizes[4:]
        group, padded = _group(longest), _round_up(longest, COLUMNS)
        begins = None if ctx.places[-1] is None else room(padded, dtype=torch.int32)
        place = room(5 * padded * width + group * (3 * width + 2 * COLUMNS + 2))
        found = (torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value))
        given = (query, key, value, gradients[0].contiguous(), out, log_total, *ctx.places)
        sizes = (*ctx.sizes, group, width**-0.5)
        call(query.dtype, "attention_float32_backward", *given, *sizes, place, begins, *found)
        return *found, None, None


def _group(longest: int) -> int:
    return min(GROUP, _round_up(longest, OCTET))


def _checked(packing: Packing, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the kernels read of it, within the memory there is."""
    longest = packing.spread.shape[1]
    return (
        checked(packing.spread, tokens, "token"),
        checked(packing.lengths, longest + 1, "length"),
        checked(packing.firsts, longest + 1, "position"),
    )
