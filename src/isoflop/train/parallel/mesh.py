"""The processes of one run: how they find each other, and the meshes they form.

Each is started with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment, as torchrun
does it (`isoflop.sweep.launch`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from isoflop.config import UserError
from isoflop.design.layout import Layout
from isoflop.train.ranks import Ranks

PATIENCE_SECONDS = 600.0
"""How long a rank waits for the others in one exchange before the run ends; one that was killed is
noticed at once. Chosen: longer than a kept checkpoint takes to write."""

DENSE_AXES = ("replicate", "shard", "tensor")
EXPERT_AXES = ("expert_replicate", "expert_shard", "expert")


@dataclass(frozen=True)
class Meshes:
    """The ranks as grids of devices, see `Layout`."""

    dense: DeviceMesh
    """replicate x shard x tensor: the weights that all tokens use."""
    experts: DeviceMesh
    """expert_replicate x expert_shard x expert."""
    device: torch.device


class OverRanks(Ranks):
    """This process among those of its run."""

    def __init__(self, layout: Layout, device: torch.device):
        self.layout = layout
        self.rank = dist.get_rank()
        self.part, self.parts = self.rank // layout.tensor_parallel, layout.data_parallel
        kind = device.type
        dense = (layout.replicas, layout.shard, layout.tensor_parallel)
        experts = (layout.expert_replicas, layout.expert_shard, layout.expert_parallel)
        self.meshes = Meshes(
            init_device_mesh(kind, dense, mesh_dim_names=DENSE_AXES),
            init_device_mesh(kind, experts, mesh_dim_names=EXPERT_AXES),
            device,
        )
        self._data_group = None
        if layout.tensor_parallel > 1:
            sizes = (layout.data_parallel, layout.tensor_parallel)
            data = init_device_mesh(kind, sizes, mesh_dim_names=("data", "together"))["data"]
            self._data_group = data.get_group()

    def total(self, value: Tensor) -> Tensor:
        """See Ranks."""
        summed = value.detach().clone()
        dist.all_reduce(summed, group=self._data_group)
        return summed

    def total_of_all(self, value: Tensor) -> Tensor:
        """The sum over all ranks, also those that share a part of the batch."""
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    def agree(self, flag: bool) -> bool:
        """See Ranks."""
        told = torch.tensor([int(flag)], device=self.meshes.device)
        dist.broadcast(told, src=0)
        return bool(told.item())

    def together(self, own: dict[str, str]) -> dict[str, str]:
        """What every rank has, in one; a few short words each."""
        found: list[dict[str, str]] = [{} for _ in range(self.layout.ranks)]
        dist.all_gather_object(found, own)
        return {name: value for one in found for name, value in sorted(one.items())}

    def wait(self) -> None:
        """Until all ranks are here."""
        self.agree(True)


@contextmanager
def joined(
    layout: Layout,
    device: torch.device,
    patience_seconds: float = PATIENCE_SECONDS,
    meeting: str | None = None,
) -> Iterator[OverRanks]:
    """Find the other ranks, and leave them at the end.

    Args:
        meeting: URL where ranks find each other, as `torch.distributed.init_process_group` has
            it; None: MASTER_ADDR and MASTER_PORT.

    Raises:
        UserError: not started as one of the layout's ranks.
    """
    started = os.environ.get("WORLD_SIZE")
    if started is None or int(started) != layout.ranks:
        raise UserError(
            f"{started or 'no'} ranks were started, but the layout is of {layout.text()}; start "
            f"torchrun with --nproc-per-node x --nnodes = {layout.ranks}"
        )
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=meeting,
        timeout=timedelta(seconds=patience_seconds),
        rank=int(os.environ["RANK"]),
        world_size=layout.ranks,
    )
    try:
        yield OverRanks(layout, device)
    finally:
        dist.destroy_process_group()
