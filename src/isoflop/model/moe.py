"""A Mixture-of-Experts feed-forward layer: route, compute, combine.

Shapes in this file:
    tokens   every position of every sequence, flattened
    experts  routed experts, E
    top_k    experts that see one token, k
    rows     tokens x top_k, one row for every (token, chosen expert)
    hidden   hidden width of one expert
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from isoflop.model.config import ModelConfig
from isoflop.model.ops import Ops
from isoflop.model.ops.reference import GROUPED_ROW_BYTES
from isoflop.model.router import RouterStatistics, Routing, router_logits

ExpertsImplementation = Literal["grouped", "padded", "loop"]

CAPACITY_MULTIPLE = 8
"""Padded products round the fullest expert's rows up to this; chosen, whole vector registers."""

MAX_PADDED_SHARE = 2.0
"""Padded products give way to the loop where they would compute this many times the rows:
one expert that takes all would cost E times the work. Chosen, not tuned."""


def grouped_experts(
    x: Float[Tensor, "tokens d_model"],
    routing: Routing,
    gate_up: Float[Tensor, "experts d_model two_hidden"],
    down: Float[Tensor, "experts hidden d_model"],
    ops: Ops,
) -> Float[Tensor, "tokens d_model"]:
    """All experts in two grouped matrix products over rows sorted by expert.

    Raises:
        UserError: a width that grouped products do not take in this precision.
    """
    dispatch = ops.make_dispatch(routing.experts, gate_up.shape[0], None)
    fused = ops.fused_experts(x, routing.weights, dispatch, gate_up, down)
    if fused is not None:
        return fused
    rows = ops.gather_rows(x, dispatch)
    hidden = ops.swiglu(ops.expert_product(rows, gate_up, dispatch.ends))
    answers = ops.expert_product(hidden, down, dispatch.ends)
    return ops.combine(answers, routing.weights, dispatch)


def padded_experts(
    x: Float[Tensor, "tokens d_model"],
    routing: Routing,
    gate_up: Float[Tensor, "experts d_model two_hidden"],
    down: Float[Tensor, "experts hidden d_model"],
    ops: Ops,
) -> Float[Tensor, "tokens d_model"]:
    """All experts in two batched matrix products, every expert's rows padded to the fullest's.

    One call for all experts instead of one each: faster where experts are many and small
    and evenly used. No token is dropped: where use is very uneven, `loop_experts` computes them.
    """
    num_experts, d_model = gate_up.shape[0], x.shape[-1]
    fullest = int(torch.bincount(routing.experts.flatten(), minlength=num_experts).max())
    capacity = -(-fullest // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
    if num_experts * capacity > MAX_PADDED_SHARE * max(routing.experts.numel(), num_experts):
        return loop_experts(x, routing, gate_up, down, ops)
    dispatch = ops.make_dispatch(routing.experts, num_experts, capacity)
    rows = ops.gather_rows(x, dispatch).view(num_experts, capacity, d_model)
    hidden = ops.swiglu(torch.bmm(rows, gate_up.to(x.dtype)).flatten(0, 1))
    hidden = hidden.view(num_experts, capacity, -1)
    answers = torch.bmm(hidden, down.to(x.dtype)).flatten(0, 1)
    return ops.combine(answers, routing.weights, dispatch)


def loop_experts(
    x: Float[Tensor, "tokens d_model"],
    routing: Routing,
    gate_up: Float[Tensor, "experts d_model two_hidden"],
    down: Float[Tensor, "experts hidden d_model"],
    ops: Ops | None = None,
) -> Float[Tensor, "tokens d_model"]:
    """One expert after the other: the definition of the layer, and the oracle of the tests."""
    del ops  # Nothing but plain PyTorch here.
    gate_up, down = gate_up.to(x.dtype), down.to(x.dtype)
    out = torch.zeros_like(x)
    for expert in range(gate_up.shape[0]):
        tokens, slots = (routing.experts == expert).nonzero(as_tuple=True)
        gate, up = (x[tokens] @ gate_up[expert]).chunk(2, dim=-1)
        answers = (functional.silu(gate) * up) @ down[expert]
        weights = routing.weights[tokens, slots].to(x.dtype)
        out = out.index_add(0, tokens, answers * weights[:, None])
    return out


def fitting_experts(config: ModelConfig) -> ExpertsImplementation:
    """A fast way that takes the config's widths in every precision."""
    widths = (config.d_model, config.d_expert)
    multiple = GROUPED_ROW_BYTES // torch.bfloat16.itemsize
    return "grouped" if all(width % multiple == 0 for width in widths) else "padded"


class SelectionNoise:
    """Normal noise on the logits by which experts are chosen, not on their weights.

    What a sampling engine does to a trained router that rounds otherwise: some tokens go to other
    experts. The weights stay the router's, so that the same choices give the same model.
    """

    def __init__(self, std: float, generator: torch.Generator):
        self.std, self.generator = std, generator

    def choose(
        self, logits: Float[Tensor, "tokens experts"], top_k: int
    ) -> Int[Tensor, "tokens top_k"]:
        """The experts of highest logit after the noise."""
        noise = torch.randn(logits.shape, generator=self.generator, device=logits.device)
        return (logits.detach() + self.std * noise).topk(top_k, dim=-1).indices


EXPERTS = {"grouped": grouped_experts, "padded": padded_experts, "loop": loop_experts}


class MoE(nn.Module):
    """Router and SwiGLU experts of one layer; returns the router's statistics with the output."""

    def __init__(self, config: ModelConfig, ops: Ops, experts: ExpertsImplementation = "grouped"):
        super().__init__()
        self.top_k = config.top_k
        self.router_order = config.router_order
        self.ops = ops
        self.compute = EXPERTS[experts]
        self.noise: SelectionNoise | None = None
        """Set only to study what happens where an engine's router chooses other experts."""
        self.router = nn.Parameter(torch.empty(config.num_experts, config.d_model))
        self.gate_up = nn.Parameter(
            torch.empty(config.num_experts, config.d_model, 2 * config.d_expert)
        )
        self.down = nn.Parameter(torch.empty(config.num_experts, config.d_expert, config.d_model))

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        counted: Bool[Tensor, "batch position"] | None = None,
        given: Int[Tensor, "batch position top_k"] | None = None,
        record: list[Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch position d_model"], RouterStatistics]:
        """Add up each token's chosen experts, weighted by the router.

        Args:
            counted: True where a token counts in the statistics. None: everywhere.
            given: experts that each token goes to, weighted by the router; None: it chooses.
            record: takes the experts (batch, position, top_k) that the router chose, which with
                `given` may be others than those the tokens went to.
        """
        tokens = x.flatten(0, 1)
        logits = router_logits(tokens, self.router)
        experts = None if given is None else given.flatten(0, 1)
        if experts is None and self.noise is not None:
            experts = self.noise.choose(logits, self.top_k)
        routing, statistics = self.ops.route_tokens(
            logits,
            self.top_k,
            self.router_order,
            x.shape[0],
            None if counted is None else counted.flatten(),
            experts,
        )
        if record is not None:
            chosen = routing.experts if given is None else logits.topk(self.top_k, dim=-1).indices
            record.append(chosen.detach().view(*x.shape[:2], self.top_k))
        out = self.compute(tokens, routing, self.gate_up, self.down, self.ops)
        return out.view_as(x), statistics
