"""What stands between the matrix products of a layer, in plain PyTorch: the definitions.

Runs on every device. `isoflop.model.ops.native` computes the same on a CPU in
fewer passes over memory; tests hold it against this file.

Shapes in this file:
    tokens  every position of every sequence, flattened
    rows    (token, chosen expert) pairs, sorted by expert; with padding, if any
    top_k   experts that see one token, k
    hidden  hidden width of one expert
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from isoflop.config import UserError
from isoflop.model.config import RouterOrder
from isoflop.model.ops.cached import LayerCache, NewPositions
from isoflop.model.ops.dispatch import Dispatch
from isoflop.model.ops.packing import Packing
from isoflop.model.router import RouterStatistics, Routing, route, router_statistics


def add_norm(
    x: Float[Tensor, "*tokens d_model"],
    delta: Float[Tensor, "*tokens d_model"] | None,
    weight: Float[Tensor, " d_model"],
    epsilon: float,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "*tokens d_model"], Float[Tensor, "*tokens d_model"]]:
    """The residual stream after adding `delta`, and its RMSNorm in `dtype`; both made in float32."""
    if delta is not None:
        x = x + delta
    return x, functional.rms_norm(x, (x.shape[-1],), weight, epsilon).to(dtype)


def rotate_heads(
    projected: Float[Tensor, "batch position width"],
    cosine: Float[Tensor, "*_ position head_width"],
    sine: Float[Tensor, "*_ position head_width"],
    num_heads: int,
    key_value_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (batch, heads, position, head width), positions turned in.

    Each pair (i, i + head width / 2) of queries and keys turns by its position's angle
    (Su et al., arXiv:2104.09864), in the half-split layout of Llama and Mixtral.
    """
    head_width = cosine.shape[-1]
    heads = projected.unflatten(-1, (-1, head_width)).transpose(1, 2)
    query, key, value = heads.split([num_heads, key_value_heads, key_value_heads], dim=1)
    return rotate(query, cosine, sine), rotate(key, cosine, sine), value


def rotate(
    x: Float[Tensor, "batch heads position head_width"],
    cosine: Float[Tensor, "*_ position head_width"],
    sine: Float[Tensor, "*_ position head_width"],
) -> Float[Tensor, "batch heads position head_width"]:
    """Turn each pair (i, i + head width / 2) by its position's angle, in float32."""
    first, second = x.chunk(2, dim=-1)
    return (x * cosine + torch.cat([-second, first], dim=-1) * sine).to(x.dtype)


def attention(
    query: Float[Tensor, "batch heads position head_width"],
    key: Float[Tensor, "batch key_value_heads position head_width"],
    value: Float[Tensor, "batch key_value_heads position head_width"],
    documents: Int[Tensor, "batch position"] | None,
) -> Float[Tensor, "batch heads position head_width"]:
    """Causal attention; with `documents`, positions see their own document only."""
    mask = None if documents is None else document_mask(documents)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )


def attend_cached(
    projected: Float[Tensor, "batch position width"],
    new: NewPositions,
    cache: LayerCache,
    num_heads: int,
    key_value_heads: int,
) -> Float[Tensor, "batch position d_model"]:
    """Store the new positions' keys and values, then mix each with all at or before it.

    A sequence must have been stored without gaps up to its first new position.
    """
    query, key, value = rotate_heads(projected, *new.angles, num_heads, key_value_heads)
    cache.store(key, value, new.positions)
    mixed = functional.scaled_dot_product_attention(
        query, cache.keys, cache.values, attn_mask=new.mask, enable_gqa=True
    )
    return join_heads(mixed)


def attend_packed(
    projected: Float[Tensor, "1 tokens width"],
    cosine: Float[Tensor, "length head_width"],
    sine: Float[Tensor, "length head_width"],
    packing: Packing,
    num_heads: int,
    key_value_heads: int,
) -> Float[Tensor, "1 tokens d_model"]:
    """Mix each token with those before it in its sequence; the tables are of positions."""
    length = packing.spread.shape[1]
    whole = packing.unpack(projected, take_rows)
    heads = rotate_heads(whole, cosine[:length], sine[:length], num_heads, key_value_heads)
    return packing.pack(join_heads(attention(*heads, None)), take_rows)


def join_heads(
    mixed: Float[Tensor, "batch heads position head_width"],
) -> Float[Tensor, "batch position d_model"]:
    """The heads of a position side by side."""
    return mixed.transpose(1, 2).flatten(2)


def document_mask(
    documents: Int[Tensor, "batch position"],
) -> Bool[Tensor, "batch 1 position position"]:
    """True where a position may look: not ahead, and not into another document."""
    same = documents[:, :, None] == documents[:, None, :]
    return (same & torch.ones_like(same).tril())[:, None]


def route_tokens(
    logits: Float[Tensor, "tokens experts"],
    top_k: int,
    order: RouterOrder,
    num_sequences: int,
    counted: Bool[Tensor, " tokens"] | None,
    given: Int[Tensor, "tokens top_k"] | None = None,
) -> tuple[Routing, RouterStatistics]:
    """Where the tokens go, and the sums of which the router's losses are made.

    With `given` experts nothing is chosen: they are weighed by these logits.
    """
    routing = route(logits, top_k, order, given)
    return routing, router_statistics(logits, routing.experts, num_sequences, counted)


class _GatherRows(torch.autograd.Function):
    """The gradient gathers the rows back and sums over top_k.

    Indexing's own backward adds row by row: slower, and in no fixed order on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dispatch: Dispatch) -> Tensor:
        ctx.dispatch = dispatch
        return dispatch.blank_padding(x.index_select(0, dispatch.tokens))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows = gradients[0].index_select(0, ctx.dispatch.slots.flatten())
        return rows.view(*ctx.dispatch.slots.shape, -1).sum(dim=1), None


class _Ungather(torch.autograd.Function):
    """Rows back into the order of the tokens; the gradient permutes back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, dispatch: Dispatch) -> Tensor:
        ctx.dispatch = dispatch
        return rows.index_select(0, dispatch.slots.flatten())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        choices = ctx.dispatch.choices.clamp(min=0)
        return ctx.dispatch.blank_padding(gradients[0].index_select(0, choices)), None


def gather_rows(
    x: Float[Tensor, "tokens d_model"], dispatch: Dispatch
) -> Float[Tensor, "rows d_model"]:
    """Each token's vector, once for every chosen expert, sorted by expert."""
    rows: Tensor = _GatherRows.apply(x, dispatch)
    return rows


def linear(
    x: Float[Tensor, "*rows depth"], weight: Float[Tensor, "width depth"]
) -> Float[Tensor, "*rows width"]:
    """The product with a float32 weight, in the precision of `x`."""
    return functional.linear(x, weight.to(x.dtype))


def product_into(
    out: Float[Tensor, "rows width"],
    rows: Float[Tensor, "rows depth"],
    weight: Float[Tensor, "..."],
    transposed: bool,
) -> Float[Tensor, "rows width"]:
    """`out`, with the product of rows and weight (depth, width), or (width, depth) if transposed.

    Knows nothing of gradients, as `add_outer`.
    """
    return torch.mm(rows, weight.t() if transposed else weight, out=out)


def add_outer(
    out: Float[Tensor, "depth width"],
    left: Float[Tensor, "rows depth"],
    right: Float[Tensor, "rows width"],
) -> None:
    """Add to `out` the sum over the rows of left times right, in their precision."""
    if out.dtype == left.dtype:
        out.addmm_(left.t(), right)
    else:
        out += left.t() @ right


GROUPED_ROW_BYTES = 16
"""Rows of a grouped matrix product must be a multiple of this: `torch.nn.functional.grouped_mm`."""


def expert_product(
    rows: Float[Tensor, "rows depth"],
    weight: Float[Tensor, "experts depth width"],
    ends: Int[Tensor, " experts"],
) -> Float[Tensor, "rows width"]:
    """Each expert's rows, up to its end, with its float32 weight, in the precision of `rows`.

    Raises:
        UserError: a width that grouped products do not take in this precision.
    """
    multiple = GROUPED_ROW_BYTES // rows.element_size()
    for width in weight.shape[1:]:
        if width % multiple:
            raise UserError(
                f"d_model and d_expert must be multiples of {multiple} for experts='grouped' in "
                f"{str(rows.dtype).removeprefix('torch.')}, got {width}; change it or use "
                "experts='padded'"
            )
    return functional.grouped_mm(rows, weight.to(rows.dtype), offs=ends)


def fused_experts(
    x: Float[Tensor, "tokens d_model"],
    weights: Float[Tensor, "tokens top_k"],
    dispatch: Dispatch,
    gate_up: Float[Tensor, "experts d_model two_hidden"],
    down: Float[Tensor, "experts hidden d_model"],
) -> Float[Tensor, "tokens d_model"] | None:
    """`gather_rows`, two `expert_product`s around `swiglu`, and `combine`; None: not in one pass."""
    del x, weights, dispatch, gate_up, down
    return None


def swiglu(gate_up: Float[Tensor, "rows two_hidden"]) -> Float[Tensor, "rows hidden"]:
    """silu(gate) x up (Shazeer, arXiv:2002.05202); the gate stands first."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def combine(
    answers: Float[Tensor, "rows d_model"],
    weights: Float[Tensor, "tokens top_k"],
    dispatch: Dispatch,
) -> Float[Tensor, "tokens d_model"]:
    """Each token's answers, weighted and added up."""
    ordered: Tensor = _Ungather.apply(answers, dispatch)
    ordered = ordered.view(*dispatch.slots.shape, -1)
    return (ordered * weights.to(answers.dtype)[..., None]).sum(dim=1)


def make_dispatch(
    experts: Int[Tensor, "tokens top_k"], num_experts: int, capacity: int | None
) -> Dispatch:
    """Sort the choices by expert, stably; with `capacity`, that many rows for every expert."""
    chosen = experts.flatten()
    order = chosen.argsort(stable=True)
    numbers = torch.arange(num_experts, device=order.device)
    # Not by bincount, which waits for a GPU to learn how long its answer is.
    ends = torch.searchsorted(chosen[order], numbers, right=True)
    places = torch.arange(order.numel(), device=order.device)
    choices = order
    if capacity is not None:
        # Row of the i-th sorted choice: its expert's block, then its place within the expert.
        sorted_experts = chosen[order]
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        places = sorted_experts * capacity + places - starts[sorted_experts]
        choices = torch.full((num_experts * capacity,), -1, device=order.device)
        choices[places] = order
    slots = torch.empty_like(order)
    slots[order] = places
    return Dispatch(choices, slots.view_as(experts), ends.int(), capacity)


def take_rows(
    x: Float[Tensor, "rows width"], places: Int[Tensor, " taken"]
) -> Float[Tensor, "taken width"]:
    """The rows at these places; one may be taken often, or never."""
    return x.index_select(0, places)


def row_losses(
    logits: Float[Tensor, "tokens vocabulary"],
    targets: Int[Tensor, " tokens"],
    with_entropy: bool = False,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"], Float[Tensor, " tokens_or_none"]]:
    """Cross-entropy of each row in nats, the logarithm of its softmax's denominator, and its entropy.

    Without `with_entropy` the last is empty.
    """
    log_total = logits.float().logsumexp(dim=-1)
    losses = log_total - logits.gather(-1, targets[:, None]).squeeze(-1)
    if not with_entropy:
        return losses, log_total, losses.new_empty(0)
    log_p = logits.float() - log_total[:, None]
    return losses, log_total, -(log_p.exp() * log_p).sum(dim=-1)


def row_losses_slope_(
    logits: Float[Tensor, "tokens vocabulary"],
    targets: Int[Tensor, " tokens"],
    log_total: Float[Tensor, " tokens"],
    scale: Float[Tensor, " tokens"],
) -> Float[Tensor, "tokens vocabulary"]:
    """The gradient of sum(scale x row_losses) by the logits, written over the logits."""
    slope = (logits.float() - log_total[:, None]).exp_().mul_(scale[:, None])
    slope.scatter_add_(-1, targets[:, None], -scale[:, None])
    return logits.copy_(slope)
