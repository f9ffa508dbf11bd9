"""A Mixture-of-Experts feed-forward layer: route, compute, combine.

Shapes in this file:
    tokens   every position of every sequence, flattened
    experts  routed experts, E
    top_k    experts that see one token, k
    rows     tokens x top_k, one row for every (token, chosen expert)
    hidden   hidden width of one expert

Sources: router and losses of the optimal-sparsity study (arXiv:2508.18672,
sections 2.1 and 3.1): dropless token choice, top-k on the logits, softmax over
the chosen; balance loss, Switch Transformer eq. 4 (arXiv:2101.03961) divided by
k so that even use costs 1 for every k; z-loss, ST-MoE eq. 5 (arXiv:2202.08906).
"""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from isoflop.config import UserError
from isoflop.model.config import ModelConfig, RouterOrder

ExpertsImplementation = Literal["grouped", "loop"]

GROUPED_ROW_BYTES = 16
"""Rows of a grouped matrix product must be a multiple of this: `torch.nn.functional.grouped_mm`."""


class Routing(NamedTuple):
    """Where each token goes, and how much each expert's answer counts."""

    weights: Float[Tensor, "tokens top_k"]
    experts: Int[Tensor, "tokens top_k"]
    logits: Float[Tensor, "tokens experts"]


class RouterLosses(NamedTuple):
    """What the router of one layer is penalised for, and how it used its experts."""

    balance: Float[Tensor, ""]
    z: Float[Tensor, ""]
    expert_counts: Int[Tensor, " experts"]


def route(logits: Float[Tensor, "tokens experts"], top_k: int, order: RouterOrder) -> Routing:
    """Send each token to its `top_k` experts of highest logit."""
    # float32: in bfloat16 two close logits tie, and the tie decides the expert.
    logits = logits.float()
    if order == "topk_then_softmax":
        chosen, experts = logits.topk(top_k, dim=-1)
        return Routing(chosen.softmax(dim=-1), experts, logits)
    weights, experts = logits.softmax(dim=-1).topk(top_k, dim=-1)
    return Routing(weights, experts, logits)


def router_losses(routing: Routing) -> RouterLosses:
    """Balance loss, exactly 1.0 for even use, and z-loss, mean squared logsumexp of the logits."""
    num_experts = routing.logits.shape[-1]
    counts = torch.bincount(routing.experts.flatten(), minlength=num_experts)
    share = counts / routing.experts.numel()
    probability = routing.logits.softmax(dim=-1).mean(dim=0)
    balance = num_experts * (share * probability).sum()
    return RouterLosses(balance, routing.logits.logsumexp(dim=-1).square().mean(), counts)


class _ToExperts(torch.autograd.Function):
    """Copy each token to its rows; the gradient gathers the rows back and sums over top_k.

    The same as ``x[order // top_k]``, whose own backward adds row by row: slower,
    and in no fixed order on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.top_k = top_k
        return x.index_select(0, order // top_k)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (inverse,) = ctx.saved_tensors
        rows = gradients[0].index_select(0, inverse)
        return rows.view(-1, ctx.top_k, rows.shape[-1]).sum(dim=1), None, None, None


class _FromExperts(torch.autograd.Function):
    """Put the experts' rows back into the order of the tokens; the gradient permutes back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return rows.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (order,) = ctx.saved_tensors
        return gradients[0].index_select(0, order), None, None


def grouped_experts(
    x: Float[Tensor, "tokens d_model"],
    routing: Routing,
    gate_up: Float[Tensor, "experts d_model two_hidden"],
    down: Float[Tensor, "experts hidden d_model"],
) -> Float[Tensor, "tokens d_model"]:
    """All experts in two grouped matrix products over rows sorted by expert.

    Raises:
        UserError: a width that grouped products do not take in this precision.
    """
    _check_widths(x, d_model=x.shape[-1], d_expert=down.shape[1])
    top_k = routing.experts.shape[-1]
    chosen = routing.experts.flatten()
    order = chosen.argsort(stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.numel(), device=order.device)
    ends = torch.bincount(chosen, minlength=gate_up.shape[0]).cumsum(0).int()
    rows = _ToExperts.apply(x, order, inverse, top_k)
    gate, up = functional.grouped_mm(rows, gate_up, offs=ends).chunk(2, dim=-1)
    rows = functional.grouped_mm(functional.silu(gate) * up, down, offs=ends)
    answers: Tensor = _FromExperts.apply(rows, order, inverse)
    answers = answers.view(-1, top_k, x.shape[-1])
    return (answers * routing.weights.to(answers.dtype)[..., None]).sum(dim=1)


def _check_widths(x: Tensor, **widths: int) -> None:
    """Refuse widths whose rows do not fill whole blocks of GROUPED_ROW_BYTES."""
    multiple = GROUPED_ROW_BYTES // x.element_size()
    for name, width in widths.items():
        if width % multiple:
            raise UserError(
                f"{name}={width} must be a multiple of {multiple} for experts='grouped' in "
                f"{str(x.dtype).removeprefix('torch.')}; change it or use experts='loop'"
            )


def loop_experts(
    x: Float[Tensor, "tokens d_model"],
    routing: Routing,
    gate_up: Float[Tensor, "experts d_model two_hidden"],
    down: Float[Tensor, "experts hidden d_model"],
) -> Float[Tensor, "tokens d_model"]:
    """One expert after the other: the definition of the layer, and the oracle of the tests."""
    out = torch.zeros_like(x)
    for expert in range(gate_up.shape[0]):
        tokens, slots = (routing.experts == expert).nonzero(as_tuple=True)
        gate, up = (x[tokens] @ gate_up[expert]).chunk(2, dim=-1)
        answers = (functional.silu(gate) * up) @ down[expert]
        weights = routing.weights[tokens, slots].to(x.dtype)
        out = out.index_add(0, tokens, answers * weights[:, None])
    return out


EXPERTS = {"grouped": grouped_experts, "loop": loop_experts}


class MoE(nn.Module):
    """Router and SwiGLU experts of one layer; returns the router's losses with the output."""

    def __init__(self, config: ModelConfig, experts: ExpertsImplementation = "grouped"):
        super().__init__()
        self.top_k = config.top_k
        self.router_order: RouterOrder = config.router_order
        self.compute = EXPERTS[experts]
        self.router = nn.Parameter(torch.empty(config.num_experts, config.d_model))
        self.gate_up = nn.Parameter(
            torch.empty(config.num_experts, config.d_model, 2 * config.d_expert)
        )
        self.down = nn.Parameter(torch.empty(config.num_experts, config.d_expert, config.d_model))

    def forward(
        self, x: Float[Tensor, "tokens d_model"]
    ) -> tuple[Float[Tensor, "tokens d_model"], RouterLosses]:
        """Add up each token's chosen experts, weighted by the router."""
        # float32 also when the products are bfloat16: the logits decide which expert learns.
        logits = functional.linear(x.float(), self.router)
        routing = route(logits, self.top_k, self.router_order)
        out = self.compute(x, routing, self.gate_up.to(x.dtype), self.down.to(x.dtype))
        return out, router_losses(routing)
