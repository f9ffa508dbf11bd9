"""A training step of several ranks in one process: `train_step` itself, one thread a rank.

Threads instead of processes, so that whatever holds in this process, a planted bug too, holds in
every rank. What ranks tell each other goes through memory instead of gloo or NCCL, and gradients are
summed here instead of by FSDP2; what these add is tested where they are (`train.parallel`).
"""

import copy
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isoflop.model.transformer import Transformer
from isoflop.train.config import TrainConfig
from isoflop.train.optim import make_optimizer
from isoflop.train.ranks import Ranks
from isoflop.train.step import StepResult, train_step

PATIENCE_SECONDS = 300.0
"""How long a rank waits for the others in one exchange. Chosen: far more than a step takes."""


class _Meeting:
    """Where the ranks of one step add up."""

    def __init__(self, size: int):
        self.barrier = threading.Barrier(size, timeout=PATIENCE_SECONDS)
        self._told: list[Tensor | None] = [None] * size

    def total(self, rank: int, value: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each."""
        self._told[rank] = value.detach()
        self.barrier.wait()
        summed = torch.stack([one for one in self._told if one is not None]).sum(dim=0)
        # Nobody may tell the next value before all have read this one.
        self.barrier.wait()
        return summed


class _RankOfThread(Ranks):
    """One of several."""

    def __init__(self, rank: int, size: int, meeting: _Meeting):
        self.rank = self.part = rank
        self.parts = size
        self._meeting = meeting

    def total(self, value: Tensor) -> Tensor:
        """See Ranks."""
        return self._meeting.total(self.rank, value)

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
        """See Ranks."""
        own = list(parameters)
        for parameter in own:
            gradient = parameter.grad
            parameter.grad = self.total(
                torch.zeros_like(parameter) if gradient is None else gradient
            )
        return super().gradient_norm(own)


def step_of_ranks(
    model: Transformer, config: TrainConfig, tokens: Int[Tensor, "batch position"], size: int
) -> StepResult:
    """One step at a learning rate of 0 by `size` ranks, each with its share of the batch.

    The gradients, which are the same on every rank, are left at the model's parameters.

    Raises:
        Exception: the first that a rank raised.
    """
    meeting = _Meeting(size)
    copies = [_with_own_gradients(model) for _ in range(size)]

    def work(rank: int) -> StepResult:
        try:
            optimizer = make_optimizer(copies[rank], config)
            for group in optimizer.param_groups:
                group["lr"] = 0.0
            share = tokens.chunk(size)[rank]
            ranks = _RankOfThread(rank, size, meeting)
            return train_step(
                copies[rank],
                optimizer,
                config,
                share,
                ranks=ranks,
                micro_batch_sequences=len(share),
            )
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(work, rank) for rank in range(size)]
    errors = [future.exception() for future in futures]
    # Those whose wait was broken off only say that another failed.
    own = [e for e in errors if e is not None and not isinstance(e, threading.BrokenBarrierError)]
    for error in (*own, *(e for e in errors if e is not None)):
        raise error
    for parameter, found in zip(model.parameters(), copies[0].parameters(), strict=True):
        parameter.grad = found.grad
    return futures[0].result()


def _with_own_gradients(model: Transformer) -> Transformer:
    """The same weights, in the same memory, as parameters of their own."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.detach()) for p in model.parameters()}
    memo |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, memo)
