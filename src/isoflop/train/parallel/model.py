"""A `Transformer` spread over ranks: weights cut by FSDP2, experts on their own ranks.

Every layer is gathered when its turn comes and let go after it; embedding, head and last norm
stay gathered from the forward to the backward pass. Between steps each rank holds only its part
of weights, gradients and moments, and the optimiser works on these parts.

Source: PyTorch FSDP2 (`torch.distributed.fsdp.fully_shard`), ZeRO stage 3 (arXiv:1910.02054);
with `shard` 1 it is data parallelism with one all-reduce a step.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from isoflop.design.layout import cut_dimension
from isoflop.model.moe import ExpertsImplementation
from isoflop.model.router import RouterStatistics
from isoflop.model.transformer import Layer, Transformer
from isoflop.train.parallel.experts import SpreadExperts
from isoflop.train.parallel.fused import fuse
from isoflop.train.parallel.mesh import OverRanks
from isoflop.train.parallel.tensor import TensorHead, spread_layer

# True of our layers' answers, on which nothing works in place.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

SPREAD_NAME = "compute"
"""Where a layer's `SpreadExperts` lies in its `MoE`; left out of the weights' names."""


class ShardedModel(nn.Module):
    """The model of all ranks, called on this rank's tokens. Built by `shard_model`.

    All methods of the model go through `forward`, where FSDP gathers the weights.
    """

    def __init__(self, model: Transformer, head: TensorHead | None = None):
        super().__init__()
        self.model = model
        self._methods = head or model

    def forward(self, method: str, *given: Any, **named: Any) -> Any:
        """Call a method of the model."""
        return getattr(self._methods, method)(*given, **named)

    def mean_loss(
        self, tokens: Tensor, targets: Tensor, *, documents: Tensor | None = None
    ) -> tuple[Tensor, RouterStatistics]:
        """As `Transformer.mean_loss`, of this rank's tokens."""
        found: tuple[Tensor, RouterStatistics]
        found = self("mean_loss", tokens, targets, documents=documents)
        return found

    def hidden(
        self, tokens: Tensor, *, documents: Tensor | None = None
    ) -> tuple[Tensor, RouterStatistics]:
        """As `Transformer.hidden`."""
        found: tuple[Tensor, RouterStatistics] = self("hidden", tokens, documents=documents)
        return found

    def token_losses(
        self, tokens: Tensor, targets: Tensor, *, documents: Tensor | None = None
    ) -> tuple[Tensor, RouterStatistics]:
        """As `Transformer.token_losses`."""
        found: tuple[Tensor, RouterStatistics]
        found = self("token_losses", tokens, targets, documents=documents)
        if isinstance(self, FSDPModule) and not torch.is_grad_enabled():
            # No backward pass will let go what stands outside the layers.
            self.reshard()
        return found

    def weights(self) -> dict[str, DTensor]:
        """All weights under the names that they have in a `Transformer`, cut as they are."""
        found: dict[str, DTensor] = {}
        for name, weight in self.model.named_parameters():
            assert isinstance(weight, DTensor), name
            found[name.replace(f".{SPREAD_NAME}.", ".")] = weight
        return found


def shard_model(
    model: Transformer, ranks: OverRanks, experts: ExpertsImplementation
) -> ShardedModel:
    """Spread a model that is the same on every rank; it must not be used by itself afterwards."""
    meshes, layout = ranks.meshes, ranks.layout
    dense = meshes.dense["replicate", "shard"]
    for layer in model.layers:
        assert isinstance(layer, Layer)
        if layout.tensor_parallel > 1:
            spread_layer(layer, meshes.dense["tensor"], experts)
        elif layout.expert_parallel > 1:
            _spread_experts(layer, meshes.experts, experts)
        _cut(layer, dense)
    head = TensorHead(model, meshes.dense["tensor"]) if layout.tensor_parallel > 1 else None
    whole = ShardedModel(model, head)
    _cut(whole, dense)
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            # Each rank's loss is its share of the batch's, see train_step: gradients add up.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    return whole


def _cut(module: nn.Module, mesh: DeviceMesh) -> None:
    """Let FSDP2 hold this module's own weights, cut over the last axis of the mesh."""
    parts = mesh.size(mesh.ndim - 1)

    def place(weight: nn.Parameter) -> Shard:
        kept = None
        if isinstance(weight, DTensor):
            (spread,) = weight.placements
            assert isinstance(spread, Shard)
            kept = spread.dim
        return Shard(cut_dimension(tuple(weight.shape), parts, kept))

    fully_shard(module, mesh=mesh, shard_placement_fn=place)


def _spread_experts(layer: Layer, mesh: DeviceMesh, experts: ExpertsImplementation) -> None:
    moe = layer.moe
    # The same on every rank already: nothing needs to travel.
    gate_up, down = (
        nn.Parameter(
            distribute_tensor(weight.detach(), mesh["expert"], [Shard(0)], src_data_rank=None)
        )
        for weight in (moe.gate_up, moe.down)
    )
    spread = SpreadExperts(gate_up, down, moe.ops, experts, mesh["expert"].get_group())
    for name in ("gate_up", "down"):
        moe.register_parameter(name, None)
    setattr(moe, SPREAD_NAME, spread)
    _cut(spread, mesh["expert_replicate", "expert_shard"])


class ShardedGradients:
    """The local parts of weights and gradients, on which optimiser and clipping work."""

    def __init__(self, model: ShardedModel, ranks: OverRanks):
        self.model = model
        self._ranks = ranks
        self.local = {
            name: nn.Parameter(weight.to_local().detach())
            for name, weight in model.weights().items()
        }
        """Parts of the weights by name, in the same memory as the model's."""

    def before_backward(self, *, last: bool) -> None:
        """Replicas add up their gradients once a step, in its last backward pass."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.set_requires_all_reduce(last, recurse=False)

    def norm(self) -> Float[Tensor, ""]:
        """Hand the gradients to the optimiser's parts; their L2 norm over all ranks."""
        squares = torch.zeros((), dtype=torch.float32, device=self._ranks.meshes.device)
        for name, weight in self.model.weights().items():
            gradient = weight.grad
            weight.grad = None
            if gradient is None:
                continue
            assert isinstance(gradient, DTensor)
            part = gradient.to_local()
            self.local[name].grad = part
            squares += part.square().sum() / _copies(gradient, self._ranks.layout.ranks)
        return self._ranks.total_of_all(squares).sqrt()


def _copies(tensor: DTensor, ranks: int) -> int:
    """Of all ranks, those that hold the same part."""
    sizes: Iterable[int] = tensor.device_mesh.shape
    parts = [
        size
        for size, placement in zip(sizes, tensor.placements, strict=True)
        if not placement.is_replicate()
    ]
    return ranks // math.prod(parts)


def gather_weights(model: ShardedModel) -> dict[str, Tensor]:
    """All weights whole, on rank 0's CPU; empty on the others, which must call it too.

    One weight at a time is whole on the other ranks and on the device.
    """
    kept = {}
    for name, weight in model.weights().items():
        whole = weight.full_tensor()
        if dist.get_rank() == 0:
            kept[name] = whole.detach().cpu()
        del whole
    return fuse(kept)
