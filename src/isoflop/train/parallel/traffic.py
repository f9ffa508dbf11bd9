"""Count the bytes that a rank sends, collective by collective, while it trains.

The counterpart of `isoflop.design.ranks.estimate_rank_traffic`, by the same formulas of what a
collective over n ranks sends, but on the tensors that are really given to it.
"""

from collections import Counter
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class CountedTraffic(TorchDispatchMode):
    """Inside ``with CountedTraffic() as counted:`` `counted.sent` adds up bytes by collective.

    "all_to_all_whole" also has what stays on the rank.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count, then do what was asked."""
        if func.namespace == "c10d":
            self._count(func.__name__.split(".")[0], args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "_allgather_base_":
            out, given = args[:2]
            self.sent["all_gather"] += out.nbytes - given.nbytes
        elif name == "_reduce_scatter_base_":
            out, given = args[:2]
            self.sent["reduce_scatter"] += given.nbytes - out.nbytes
        elif name == "allreduce_":
            ranks = dist.ProcessGroup.unbox(args[1]).size()
            num_bytes = sum(tensor.nbytes for tensor in args[0])
            self.sent["all_reduce"] += 2 * num_bytes * (ranks - 1) // ranks
        elif name == "alltoall_base_":
            self._count_all_to_all(args)

    def _count_all_to_all(self, args: tuple[Any, ...]) -> None:
        given: Tensor = args[1]
        group = dist.ProcessGroup.unbox(args[2])
        splits = args[4] or [given.shape[0] // group.size()] * group.size()
        row = given[0].nbytes if given.shape[0] else 0
        self.sent["all_to_all_whole"] += given.nbytes
        self.sent["all_to_all"] += given.nbytes - splits[group.rank()] * row
