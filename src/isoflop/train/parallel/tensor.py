"""Tensor parallelism: ranks that read the same tokens compute each layer and the loss together.

Each of T ranks has some heads of attention, a part of every expert's hidden width, and a part of
the head's vocabulary. Norms, router and embedding are computed by all, from the same bits. What a
rank's part reads is shared (its gradients are added up), what the parts answer is added up; so two
sums a layer forward and three backward. The loss sees no rank's logits but its own.

Shapes in this file:
    tokens   every position of every sequence of these ranks, flattened
    part     tokens of the vocabulary whose rows of the head this rank has, from `first`

Source: Megatron-LM (arXiv:1909.08053), sections 3 and, for the loss, 3's last paragraph.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from isoflop.model.loss import CHUNK_BYTES
from isoflop.model.moe import EXPERTS, ExpertsImplementation
from isoflop.model.ops import Ops
from isoflop.model.ops.reference import join_heads
from isoflop.model.router import RouterStatistics, Routing
from isoflop.model.transformer import Layer, Transformer


class _Shared(torch.autograd.Function):
    """The same on all ranks; each rank's part of the model gives a part of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _added(gradients[0], ctx.group), None


class _Added(torch.autograd.Function):
    """The sum of all ranks' parts, whose gradient every part has."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _added(part, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def _added(part: Tensor, group: dist.ProcessGroup) -> Tensor:
    whole = part.contiguous().clone()
    dist.all_reduce(whole, group=group)
    return whole


def _spread(weight: Tensor, mesh: DeviceMesh, place: int) -> nn.Parameter:
    """This rank's part along one dimension; the whole is the same on every rank already."""
    whole = weight.detach().contiguous()
    return nn.Parameter(distribute_tensor(whole, mesh, [Shard(place)], src_data_rank=None))


def _own(weight: Tensor) -> Tensor:
    assert isinstance(weight, DTensor)
    return weight.to_local()


class TensorAttention(nn.Module):
    """Some heads of one layer's attention; called as `isoflop.model.attention.Attention`."""

    def __init__(self, layer: Layer, mesh: DeviceMesh):
        super().__init__()
        whole, ranks = layer.attention, mesh.size()
        self.heads = (whole.num_heads // ranks, whole.key_value_heads // ranks)
        self._ops, self._group = whole.ops, mesh.get_group()
        queries = whole.output.shape[0]
        keys = (whole.query_key_value.shape[0] - queries) // 2
        parts = whole.query_key_value.detach().split([queries, keys, keys])
        # Three weights: a whole number of heads of each, however many ranks there are.
        self.query, self.key, self.value = (_spread(part, mesh, 0) for part in parts)
        self.output = _spread(whole.output, mesh, 1)

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        cosine: Tensor,
        sine: Tensor,
        documents: Tensor | None = None,
        packing: None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """Mix each position with those before it, and in its document where `documents` are given."""
        assert packing is None, "packed sequences are GRPO's, which one process computes"
        weight = torch.cat([_own(self.query), _own(self.key), _own(self.value)])
        shared: Tensor = _Shared.apply(x, self._group)
        projected = self._ops.linear(shared, weight)
        query, key, value = self._ops.rotate_heads(projected, cosine, sine, *self.heads)
        mixed = join_heads(self._ops.attention(query, key, value, documents))
        answer: Tensor = _Added.apply(self._ops.linear(mixed, _own(self.output)), self._group)
        return answer


class TensorExperts(nn.Module):
    """A part of every expert's width; called as `isoflop.model.moe` calls experts."""

    def __init__(self, layer: Layer, mesh: DeviceMesh, experts: ExpertsImplementation):
        super().__init__()
        gate, up = layer.moe.gate_up.detach().chunk(2, dim=-1)
        self.gate, self.up = _spread(gate, mesh, 2), _spread(up, mesh, 2)
        self.down = _spread(layer.moe.down, mesh, 1)
        self._compute, self._group = EXPERTS[experts], mesh.get_group()

    def forward(
        self, x: Float[Tensor, "tokens d_model"], routing: Routing, *given: Any
    ) -> Float[Tensor, "tokens d_model"]:
        """Add up each token's chosen experts."""
        ops: Ops = given[-1]
        gate_up = torch.cat([_own(self.gate), _own(self.up)], dim=-1)
        weights: Tensor = _Shared.apply(routing.weights, self._group)
        shared: Tensor = _Shared.apply(x, self._group)
        own = Routing(weights, routing.experts)
        part = self._compute(shared, own, gate_up, _own(self.down), ops)
        answer: Tensor = _Added.apply(part, self._group)
        return answer


def spread_layer(layer: Layer, mesh: DeviceMesh, experts: ExpertsImplementation) -> None:
    """Leave this rank its part of a layer."""
    spread = TensorExperts(layer, mesh, experts)
    for name in ("gate_up", "down"):
        layer.moe.register_parameter(name, None)
    layer.moe.compute = spread
    layer.attention = TensorAttention(layer, mesh)  # type: ignore[assignment]


class TensorHead:
    """The methods of a `Transformer` whose head is spread over the vocabulary."""

    def __init__(self, model: Transformer, mesh: DeviceMesh):
        self._model, self._group = model, mesh.get_group()
        self._first = mesh.get_local_rank() * (model.head.shape[0] // mesh.size())
        model.head = _spread(model.head, mesh, 0)

    def hidden(
        self, tokens: Tensor, *, documents: Tensor | None = None
    ) -> tuple[Tensor, RouterStatistics]:
        """As `Transformer.hidden`."""
        return self._model.hidden(tokens, documents=documents)

    def mean_loss(
        self, tokens: Tensor, targets: Tensor, *, documents: Tensor | None = None
    ) -> tuple[Tensor, RouterStatistics]:
        """As `Transformer.mean_loss`."""
        hidden, router = self._model.hidden(tokens, documents=documents)
        shared: Tensor = _Shared.apply(hidden.flatten(0, 1), self._group)
        head = _own(self._model.head)
        loss: Tensor = _MeanLoss.apply(shared, head, targets.flatten(), self._first, self._group)
        return loss, router

    @torch.no_grad()
    def token_losses(
        self, tokens: Tensor, targets: Tensor, *, documents: Tensor | None = None
    ) -> tuple[Tensor, RouterStatistics]:
        """As `Transformer.token_losses`, without gradients."""
        hidden, router = self._model.hidden(tokens, documents=documents)
        flat, head = hidden.flatten(0, 1), _own(self._model.head)
        found = [
            part_losses(logits, targets.flatten()[chunk], self._first, self._group)[0]
            for chunk, logits in _chunks(flat, head.to(flat.dtype))
        ]
        return torch.cat(found).view_as(targets), router


def part_losses(
    logits: Float[Tensor, "tokens part"],
    targets: Int[Tensor, " tokens"],
    first: int,
    group: dist.ProcessGroup,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Each token's cross-entropy in nats, and the logarithm of its total, over all ranks' parts."""
    greatest = logits.amax(dim=-1)
    dist.all_reduce(greatest, dist.ReduceOp.MAX, group=group)
    places, own = _places(targets, first, logits.shape[1])
    target = logits.gather(1, places[:, None]).squeeze(1).where(own, 0.0)
    sums = torch.stack([(logits - greatest[:, None]).exp().sum(dim=-1), target])
    dist.all_reduce(sums, group=group)
    log_total = greatest + sums[0].log()
    return log_total - sums[1], log_total


def _places(targets: Tensor, first: int, part: int) -> tuple[Tensor, Tensor]:
    """Where the targets lie in this rank's part, and which of them do."""
    places = targets - first
    own = (places >= 0) & (places < part)
    return places.clamp(0, part - 1), own


def _chunks(hidden: Tensor, weights: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some tokens after others with their logits in float32."""
    rows = max(1, CHUNK_BYTES // (weights.shape[0] * 4))
    for start in range(0, hidden.shape[0], rows):
        chunk = slice(start, start + rows)
        yield chunk, (hidden[chunk] @ weights.t()).float()


class _MeanLoss(torch.autograd.Function):
    """Mean cross-entropy; its gradients are made with it, as in `isoflop.model.loss.mean_loss`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, first: int, group: Any
    ) -> Tensor:
        weights = head.to(hidden.dtype)
        gradients = torch.empty_like(hidden), torch.zeros_like(head)
        losses = []
        for chunk, logits in _chunks(hidden, weights):
            found, log_total = part_losses(logits, targets[chunk], first, group)
            losses.append(found)
            places, own = _places(targets[chunk], first, logits.shape[1])
            slope = (logits - log_total[:, None]).exp_()
            slope.scatter_add_(1, places[:, None], -own[:, None].to(slope.dtype))
            slope = slope.div_(targets.numel()).to(hidden.dtype)
            torch.mm(slope, weights, out=gradients[0][chunk])
            gradients[1].add_(slope.t() @ hidden[chunk])
        ctx.save_for_backward(*gradients)
        return torch.cat(losses).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return *(part * gradients[0] for part in ctx.saved_tensors), None, None, None
