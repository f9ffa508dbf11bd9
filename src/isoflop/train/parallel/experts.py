"""Expert parallelism: each rank holds some experts, and tokens travel to them and back.

Four steps, of which only the second and fourth are new against one process: sort the (token,
expert) pairs by expert; exchange them, so that each rank gets those of its experts; compute; send
the answers back and add them up. No token is dropped, so how many pairs a rank gets is told by
counts that travel first.

Shapes in this file:
    tokens   every position of every sequence of this rank, flattened
    rows     (token, chosen expert) pairs of this rank, sorted by expert
    held     rows that came to this rank's experts, by the rank they came from, then by expert
    local    experts of this rank

Source: all-to-all dispatch, GShard (arXiv:2006.16668), section 3.2; here without capacity.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from isoflop.model.moe import EXPERTS, ExpertsImplementation
from isoflop.model.ops import Ops
from isoflop.model.router import Routing


class _Exchange(torch.autograd.Function):
    """Rows to other ranks; their gradients come back the same way."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _exchange(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        back = _exchange(gradients[0].contiguous(), ctx.received, ctx.sent, ctx.group)
        return back, None, None, None


def _exchange(
    rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup
) -> Tensor:
    out = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(out, rows, received, sent, group=group)
    return out


def exchange_counts(
    counts: Int[Tensor, "ranks local"], group: dist.ProcessGroup
) -> Int[Tensor, "ranks local"]:
    """How many rows each rank sends to each of this rank's experts."""
    received = torch.empty_like(counts)
    dist.all_to_all_single(received, counts, group=group)
    return received


class SpreadExperts(nn.Module):
    """The experts of one layer that lie on this rank; called as `isoflop.model.moe` calls experts.

    The weights are DTensors whose first axis is cut over `group`; between the exchanges the
    layer's usual computation runs on this rank's rows, each with its one expert.
    """

    def __init__(
        self,
        gate_up: nn.Parameter,
        down: nn.Parameter,
        ops: Ops,
        experts: ExpertsImplementation,
        group: dist.ProcessGroup,
    ):
        super().__init__()
        self.gate_up = gate_up
        self.down = down
        self._ops = ops
        self._compute = EXPERTS[experts]
        self._group = group

    def forward(
        self, x: Float[Tensor, "tokens d_model"], routing: Routing, *_: Any
    ) -> Float[Tensor, "tokens d_model"]:
        """Add up each token's chosen experts, wherever they lie."""
        gate_up, down = (w.to_local() for w in (self.gate_up, self.down) if isinstance(w, DTensor))
        ranks, local = dist.get_world_size(self._group), gate_up.shape[0]
        dispatch = self._ops.make_dispatch(routing.experts, ranks * local, None)
        ends = dispatch.ends.long()
        counts = torch.diff(ends, prepend=ends.new_zeros(1)).view(ranks, local)
        received = exchange_counts(counts, self._group)
        # The only wait for a GPU: how much travels must be known here.
        sent, got = torch.stack([counts.sum(dim=1), received.sum(dim=1)]).tolist()
        rows = self._ops.gather_rows(x, dispatch)
        held: Tensor = _Exchange.apply(rows, sent, got, self._group)
        answers = self._compute(held, _one_each(received, held), gate_up, down, self._ops)
        back: Tensor = _Exchange.apply(answers, got, sent, self._group)
        return self._ops.combine(back, routing.weights, dispatch)


def _one_each(received: Int[Tensor, "ranks local"], held: Float[Tensor, "held d_model"]) -> Routing:
    """Each row's one expert, with weight 1: the router's weights are applied where it came from."""
    local = torch.arange(received.shape[1], device=held.device)
    experts = local.repeat(received.shape[0]).repeat_interleave(received.flatten())
    weights = torch.ones(held.shape[0], 1, device=held.device)
    return Routing(weights, experts[:, None])
