"""Over how many processes one run is trained, and what each of them holds.

A rank is one process of a run. Every rank trains on its own part of each batch, or shares it with
the ranks that compute one model together (`tensor_parallel`). What else is spread over ranks is
weights, gradients and optimiser (`shard`), and experts (`expert_parallel`).
Results do not depend on the layout but for rounding, so it is no part of an experiment.
"""

from dataclasses import dataclass
from typing import Literal

from isoflop.config import UserError
from isoflop.model.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one run is spread over processes.

    The dense weights lie on a mesh of `replicas` x `shard` x `tensor_parallel`, spread experts on one
    of `expert_replicas` x `expert_shard` x `expert_parallel`; ranks are counted along the last axis
    first, so that the ranks that exchange most are neighbours.
    """

    ranks: int = 1
    """Processes of the run."""
    shard: int = 1
    """Ranks over which weights, gradients and moments are cut; 1: every rank holds all of them."""
    expert_parallel: int = 1
    """Ranks over which each layer's experts are spread; tokens reach them by all-to-all."""
    tensor_parallel: int = 1
    """Ranks that share a part of the batch and compute each layer's heads, experts' widths and the
    head's vocabulary together."""

    def __post_init__(self) -> None:
        for name in ("ranks", "shard", "expert_parallel", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("shard", "expert_parallel"):
            if self.ranks % getattr(self, name):
                raise UserError(f"{name}={getattr(self, name)} must divide ranks={self.ranks}")
        if self.tensor_parallel > 1:
            self._check_tensor_parallel()
        if self.shard % self.expert_parallel and self.expert_parallel % self.shard:
            raise UserError(
                f"of shard={self.shard} and expert_parallel={self.expert_parallel} one must divide "
                "the other: experts are cut further over whole groups of ranks"
            )

    def _check_tensor_parallel(self) -> None:
        if self.expert_parallel > 1:
            raise UserError(
                f"expert_parallel={self.expert_parallel} and tensor_parallel={self.tensor_parallel} "
                "do not go together: each spreads the experts; set one of them to 1"
            )
        if self.ranks % (self.shard * self.tensor_parallel):
            raise UserError(
                f"shard={self.shard} x tensor_parallel={self.tensor_parallel} must divide "
                f"ranks={self.ranks}"
            )

    @property
    def data_parallel(self) -> int:
        """Parts of a batch that are trained on at once."""
        return self.ranks // self.tensor_parallel

    @property
    def replicas(self) -> int:
        """Copies of the dense weights."""
        return self.data_parallel // self.shard

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
        if self.ranks == 1:
            return "1 rank"
        tensor = f", tensor parallel {self.tensor_parallel}" if self.tensor_parallel > 1 else ""
        return f"{self.ranks} ranks, shard {self.shard}, expert parallel {self.expert_parallel}{tensor}"

    def check_model(self, model: ModelConfig, cell: str = "model") -> None:
        """Refuse a model whose experts, heads or widths cannot be spread so.

        Raises:
            UserError: names the field and what it must be.
        """
        if model.num_experts % self.expert_parallel:
            raise UserError(
                f"{cell}: expert_parallel={self.expert_parallel} must divide "
                f"num_experts={model.num_experts}"
            )
        for name in ("num_heads", "key_value_heads", "d_expert", "vocabulary_size"):
            if getattr(model, name) % self.tensor_parallel:
                raise UserError(
                    f"{cell}: tensor_parallel={self.tensor_parallel} must divide "
                    f"{name}={getattr(model, name)}"
                )
        if self.tensor_parallel > 1 and model.d_model % self.shard:
            raise UserError(f"{cell}: shard={self.shard} must divide d_model={model.d_model}")
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
        own, rest = divmod(batch_sequences, self.data_parallel)
        if rest:
            parts = f"ranks={self.ranks}" + (
                f" / tensor_parallel={self.tensor_parallel}" if self.tensor_parallel > 1 else ""
            )
            raise UserError(
                f"batch_sequences={batch_sequences} must be a multiple of {parts}: every rank "
                "trains on equally many"
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


def cut_dimension(shape: tuple[int, ...], parts: int, kept: int | None = None) -> int:
    """Along which dimension a weight is cut into parts: the first that needs no padding.

    Args:
        kept: a dimension along which the weight is spread over other ranks already.

    >>> cut_dimension((4, 64, 128), 8), cut_dimension((100, 64), 3), cut_dimension((64, 64), 2, 0)
    (1, 0, 1)
    """
    free = [place for place in range(len(shape)) if place != kept]
    even = [place for place in free if shape[place] % parts == 0]
    return even[0] if even else free[0]
