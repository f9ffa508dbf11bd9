"""One more token for each of many sequences: the step that sampling repeats.

For a small model on a CPU the time of a step is not the arithmetic but what PyTorch does around each of
some thirty operations. `PreparedDecoder` therefore makes every buffer once, and with it every
kernel's call; a step is then a list of calls. Where that does not fit, `PlainDecoder` runs
`Transformer.hidden_cached`, which defines what both compute.

Shapes in this file:
    batch   sequences decoded together
    choices batch x top_k, rows of the experts' products
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from isoflop.model.moe import MoE, grouped_experts
from isoflop.model.ops import NATIVE_OPS
from isoflop.model.ops.build import prepare, room
from isoflop.model.ops.cached import LayerCache
from isoflop.model.ops.native import DECODE_LANES
from isoflop.model.ops.reference import GROUPED_ROW_BYTES
from isoflop.model.transformer import Layer, Transformer

Call = Callable[[], object]

FEW_ROWS_BYTES = 1 << 20
"""An expert's weights that stay in a core's cache while its few rows pass: up to here decode.c's own
product is used, which starts at once. Chosen; a product of 8 experts, 32 to 128 wide, took 37 us in
PyTorch (docs/log.md, 2026-11-26)."""


class Decoder(ABC):
    """Computes steps over one cache."""

    @abstractmethod
    def step(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> Float[Tensor, "batch vocabulary"]:
        """Logits after each sequence's newest token, which stands at its position; fills the cache.

        The next step may write over them.
        """

    @abstractmethod
    def experts(self) -> Int[Tensor, "layers batch top_k"]:
        """That the last step chose; the next may write over them."""


def make_decoder(model: Transformer, cache: list[LayerCache]) -> Decoder:
    """The faster of the two that fits."""
    return PreparedDecoder(model, cache) if _fits(model, cache) else PlainDecoder(model, cache)


def _fits(model: Transformer, cache: list[LayerCache]) -> bool:
    moes = [module for module in model.modules() if isinstance(module, MoE)]
    tensors = (*model.parameters(), *(part for one in cache for part in (one.keys, one.values)))
    widths = (model.config.d_model, model.config.d_expert)
    return (
        model.ops is NATIVE_OPS
        and model.compute_dtype == torch.float32
        and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in tensors)
        and all(moe.compute is grouped_experts and moe.noise is None for moe in moes)
        and not any(width * torch.float32.itemsize % GROUPED_ROW_BYTES for width in widths)
    )


class PlainDecoder(Decoder):
    """By `Transformer.hidden_cached`."""

    def __init__(self, model: Transformer, cache: list[LayerCache]):
        self._model, self._cache = model, cache
        self._record: list[Tensor] = []

    @torch.inference_mode()
    def step(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> Float[Tensor, "batch vocabulary"]:
        """See `Decoder`."""
        device = self._model.embedding.device
        new, at = (torch.from_numpy(one)[:, None].to(device) for one in (tokens, positions))
        self._record = []
        hidden, _ = self._model.hidden_cached(new, at, self._cache, self._record)
        return self._model.logits(hidden[:, -1])

    def experts(self) -> Int[Tensor, "layers batch top_k"]:
        """See `Decoder`."""
        return torch.stack(self._record)[:, :, 0]


class PreparedDecoder(Decoder):
    """By calls that are prepared once. The weights' values may change, their memory may not."""

    @torch.inference_mode()
    def __init__(self, model: Transformer, cache: list[LayerCache]):
        self._model = model
        batch, width = cache[0].keys.shape[0], model.config.d_model
        self._capacity = min(cache[0].keys.shape[2], len(model.cosine))
        self._tokens, self._positions = (room(batch, dtype=torch.long) for _ in range(2))
        # The stream is added up from one buffer into another: kernels do not write what they read.
        self._stream = [room(batch, width) for _ in range(2)]
        self._first = self._stream[0]
        self._normed, self._delta, self._scale = room(batch, width), room(batch, width), room(batch)
        self._logits = room(batch, model.config.vocabulary_size)
        self._experts: list[Tensor] = []
        self._calls: list[Call] = []
        delta: Tensor | None = None
        for layer, stored in zip(model._layers(), cache, strict=True):
            self._calls += self._attention(layer, stored, delta)
            self._calls += self._moe(layer)
            delta = self._delta
        self._calls.append(self._norm(model.norm.weight, delta))
        self._calls.append(_product(self._normed, model.head, self._logits))

    def _norm(self, weight: Tensor, delta: Tensor | None) -> Call:
        """The stream with the newest answer, and its norm."""
        x, total = self._stream
        if delta is not None:
            self._stream.reverse()
        sizes = (self._model.config.norm_epsilon, *x.shape)
        found = (x if delta is None else total, self._normed, self._scale)
        return prepare(torch.float32, "add_norm_forward", x, delta, weight, *sizes, *found)

    def _attention(self, layer: Layer, cache: LayerCache, delta: Tensor | None) -> list[Call]:
        attention, (batch, _) = layer.attention, self._normed.shape
        _, key_value_heads, capacity, width = cache.keys.shape
        heads = attention.num_heads
        projected = room(batch, len(attention.query_key_value))
        mixed = room(batch, heads * width)
        tables = (self._model.cosine, self._model.sine, self._positions)
        sizes = (batch, heads, key_value_heads, capacity, width, width**-0.5)
        rooms = (room(capacity + DECODE_LANES), room(width), room(width))
        stored = (cache.keys, cache.values)
        given = (projected, *tables, *sizes, *stored, *rooms, mixed)
        return [
            self._norm(layer.attention_norm.weight, delta),
            _product(self._normed, attention.query_key_value, projected),
            prepare(torch.float32, "attend_cached", *given),
            _product(mixed, attention.output, self._delta),
        ]

    def _moe(self, layer: Layer) -> list[Call]:
        moe, (batch, width) = layer.moe, self._normed.shape
        num_experts, top_k = len(moe.router), moe.top_k
        logits, weights = room(batch, num_experts), room(batch, top_k)
        experts, slots = (room(batch, top_k, dtype=torch.long) for _ in range(2))
        self._experts.append(experts)
        choices, ends = room(batch * top_k, dtype=torch.long), room(num_experts, dtype=torch.int32)
        order = int(moe.router_order == "softmax_then_topk")
        # Statistics are of no use here; the kernel needs a place for them.
        statistics = (room(num_experts), room(num_experts, dtype=torch.long))
        unused = (room(num_experts), room(batch), *statistics, room(1, dtype=torch.float64))
        sizes = (None, batch, 1, num_experts, top_k, order, 0)
        next_rows = room(num_experts, dtype=torch.long)
        dispatched = (batch * top_k, num_experts, 0, next_rows, choices, slots, ends)
        rows, hidden = room(batch * top_k, width), room(batch * top_k, moe.down.shape[1])
        wide, answers = room(batch * top_k, 2 * hidden.shape[1]), torch.empty_like(rows)
        combined = (answers, weights, slots, batch, top_k, width, room(width), self._delta)
        return [
            self._norm(layer.moe_norm.weight, self._delta),
            _product(self._normed, moe.router, logits),
            prepare(torch.float32, "route_forward", logits, *sizes, experts, weights, *unused),
            prepare(torch.float32, "make_dispatch", experts, *dispatched),
            prepare(
                torch.float32, "gather_rows", self._normed, choices, len(rows), top_k, width, rows
            ),
            _expert_product(rows, moe.gate_up, ends, wide),
            prepare(torch.float32, "swiglu_forward", wide, *hidden.shape, hidden),
            _expert_product(hidden, moe.down, ends, answers),
            prepare(torch.float32, "combine_forward", *combined),
        ]

    @torch.inference_mode()
    def step(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> Float[Tensor, "batch vocabulary"]:
        """See `Decoder`.

        Raises:
            IndexError: a position for which the cache has no room; C would write behind it.
        """
        if positions.min() < 0 or positions.max() >= self._capacity:
            raise IndexError(f"positions must be within 0 to {self._capacity - 1}")
        self._positions.copy_(torch.from_numpy(positions))
        self._tokens.copy_(torch.from_numpy(tokens))
        torch.index_select(self._model.embedding, 0, self._tokens, out=self._first)
        for one in self._calls:
            one()
        return self._logits

    def experts(self) -> Int[Tensor, "layers batch top_k"]:
        """See `Decoder`."""
        return torch.stack(self._experts)


def _expert_product(rows: Tensor, weight: Tensor, ends: Tensor, out: Tensor) -> Call:
    """out = each expert's rows times its weight (experts, depth, width)."""
    if weight[0].numel() * weight.element_size() <= FEW_ROWS_BYTES:
        return prepare(torch.float32, "few_rows_product", rows, weight, ends, *weight.shape, out)
    return lambda: out.copy_(NATIVE_OPS.expert_product(rows, weight, ends))


def _product(x: Tensor, weight: Tensor, out: Tensor) -> Call:
    """out = x weight^T."""
    transposed = weight.t()
    return lambda: torch.mm(x, transposed, out=out)
