"""Over how many processes one run is trained, and what each of them holds.

A rank is one process of a run. Every rank trains on its own part of each batch. What else is
spread over ranks is weights, gradients and optimiser (`shard`), and experts (`expert_parallel`).
Results do not depend on the layout but for rounding, so it is no part of an experiment.
"""

from dataclasses import dataclass
from typing import Literal

from isoflop.config import UserError
from isoflop.model.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one run is spread over processes.

    With n = `ranks` the dense weights lie on a mesh of `replicas` x `shard`, the experts on one of
    `expert_replicas` x `expert_shard` x `expert_parallel`; ranks are counted along the last axis
    first, so that the ranks that exchange most are neighbours.
    """

    ranks: int = 1
    """Processes of the run."""
    shard: int = 1
    """Ranks over which weights, gradients and moments are cut; 1: every rank holds all of them."""
    expert_parallel: int = 1
    """Ranks over which each layer's experts are spread; tokens reach them by all-to-all."""

    def __post_init__(self) -> None:
        for name in ("ranks", "shard", "expert_parallel"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("shard", "expert_parallel"):
            if self.ranks % getattr(self, name):
                raise UserError(f"{name}={getattr(self, name)} must divide ranks={self.ranks}")
        if self.shard % self.expert_parallel and self.expert_parallel % self.shard:
            raise UserError(
                f"of shard={self.shard} and expert_parallel={self.expert_parallel} one must divide "
                "the other: experts are cut further over whole groups of ranks"
            )

    @property
    def replicas(self) -> int:
        """Copies of the dense weights."""
        return self.ranks // self.shard

    @property
    def expert_shard(self) -> int:
        """Ranks over which one expert's matrices are cut."""
        return max(1, self.shard // self.expert_parallel)

    @property
    def expert_replicas(self) -> int:
        """Copies of each expert."""
        return self.ranks // (self.expert_shard * self.expert_parallel)

    def text(self) -> str:
        """For environments and messages."""
        return (
            f"{self.ranks} ranks, shard {self.shard}, expert parallel {self.expert_parallel}"
            if self.ranks > 1
            else "1 rank"
        )

    def check_model(self, model: ModelConfig, cell: str = "model") -> None:
        """Refuse a model whose experts cannot be spread so.

        Raises:
            UserError: names the field and what it must be.
        """
        if model.num_experts % self.expert_parallel:
            raise UserError(
                f"{cell}: expert_parallel={self.expert_parallel} must divide "
                f"num_experts={model.num_experts}"
            )
        for name in ("d_model", "d_expert"):
            if self.expert_parallel > 1 and getattr(model, name) % self.expert_shard:
                raise UserError(
                    f"{cell}: {name}={getattr(model, name)} must be a multiple of "
                    f"{self.expert_shard}, over which shard={self.shard} cuts every expert; "
                    "lower shard"
                )

    def micro_batch_sequences(
        self,
        batch_sequences: int,
        micro_batch_sequences: int | None,
        balance_scope: Literal["micro", "sequence", "global"],
    ) -> int:
        """Sequences of one forward pass of one rank.

        Raises:
            UserError: a batch that ranks cannot share, or a balance loss that would change.
        """
        own, rest = divmod(batch_sequences, self.ranks)
        if rest:
            raise UserError(
                f"batch_sequences={batch_sequences} must be a multiple of ranks={self.ranks}: "
                "every rank trains on equally many"
            )
        asked = batch_sequences if micro_batch_sequences is None else micro_batch_sequences
        if asked > own and balance_scope == "micro":
            raise UserError(
                f"balance_scope='micro' is over {asked} sequences, and {self.ranks} ranks have {own} "
                f"each; set train.micro_batch_sequences={own} or train.balance_scope=global"
            )
        micro = min(asked, own)
        if own % micro:
            raise UserError(
                f"micro_batch_sequences={micro} must divide the {own} sequences of each of "
                f"{self.ranks} ranks"
            )
        return micro


def cut_dimension(shape: tuple[int, ...], parts: int, first: int = 0) -> int:
    """Along which dimension a weight is cut into parts: the first that needs no padding.

    Args:
        first: dimensions before it are not cut (experts already spread over ranks).

    >>> cut_dimension((4, 64, 128), 8), cut_dimension((100, 64), 3)
    (1, 0)
    """
    even = [place for place in range(first, len(shape)) if shape[place] % parts == 0]
    return even[0] if even else first
