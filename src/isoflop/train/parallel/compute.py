"""A run's steps computed by several ranks; the loop is that of `isoflop.train.loop`."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isoflop.model.checkpoint import save_weights
from isoflop.model.config import ModelConfig
from isoflop.model.moe import ExpertsImplementation
from isoflop.train.computation import on_device, set_learning_rate
from isoflop.train.config import TrainConfig
from isoflop.train.engine import build_model, settle_engine
from isoflop.train.optim import make_optimizer
from isoflop.train.parallel.mesh import OverRanks
from isoflop.train.parallel.model import ShardedGradients, gather_weights, shard_model
from isoflop.train.parallel.state import (
    load_ranks_state,
    make_moments,
    save_ranks_state,
)
from isoflop.train.ranks import Ranks
from isoflop.train.step import StepResult, train_step


class _TrainingRanks(Ranks):
    """The ranks, with the gradients of the model that they train."""

    def __init__(self, ranks: OverRanks, gradients: ShardedGradients):
        self.rank, self.part, self.parts = ranks.rank, ranks.part, ranks.parts
        self._ranks, self._gradients = ranks, gradients

    def total(self, value: Tensor) -> Tensor:
        """See Ranks."""
        return self._ranks.total(value)

    def agree(self, flag: bool) -> bool:
        """See Ranks."""
        return self._ranks.agree(flag)

    def before_backward(self, *, last: bool) -> None:
        """See Ranks."""
        self._gradients.before_backward(last=last)

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
        """See Ranks; the parameters are the model's, whose gradients are known here."""
        del parameters
        return self._gradients.norm()


class ManyProcesses:
    """This rank's part of model and batch; every rank of the run makes one and does the same."""

    def __init__(
        self, model: ModelConfig, config: TrainConfig, seed: int, ranks: OverRanks, folder: Path
    ):
        """Build and spread the model.

        Raises:
            UserError: a model or batch that the layout cannot spread.
        """
        layout, self.device = ranks.layout, str(ranks.meshes.device)
        layout.check_model(model)
        micro = layout.micro_batch_sequences(
            config.batch_sequences, config.micro_batch_sequences, config.balance_scope
        )
        if ranks.rank == 0:
            settle_engine(folder, model, config, self.device)
        ranks.wait()
        engine = settle_engine(folder, model, config, self.device)
        whole = build_model(model, config, engine, seed).to(self.device)
        self._config, self._micro_batch_sequences = config, micro
        self._model_config, self._ranks = model, ranks
        self.model = shard_model(whole, ranks, cast(ExpertsImplementation, engine.experts))
        self._gradients = ShardedGradients(self.model, ranks)
        self.ranks: Ranks = _TrainingRanks(ranks, self._gradients)
        self._optimizer = make_optimizer(nn.ParameterList(self._gradients.local.values()), config)
        make_moments(self._gradients, self._optimizer)

    def load(self, folder: Path, digest: str) -> int:
        """See Computation."""
        given = (self._gradients, self._optimizer, self._ranks)
        return load_ranks_state(folder, *given, digest)

    def save(self, folder: Path, step: int, digest: str) -> None:
        """See Computation."""
        given = (self._gradients, self._optimizer, self._ranks)
        save_ranks_state(folder, step, *given, digest)

    def keep(self, folder: Path) -> None:
        """See Computation."""
        weights = gather_weights(self.model)
        if self.ranks.rank == 0:
            save_weights(self._model_config, weights, folder)

    def set_learning_rate(self, rate: float) -> None:
        """See Computation."""
        set_learning_rate(self._optimizer, rate)

    def step(
        self,
        tokens: Int[np.ndarray, "batch positions"],
        document_numbers: Int[np.ndarray, "batch positions"] | None,
    ) -> StepResult:
        """See Computation."""
        given = on_device(tokens, document_numbers, self.device)
        return train_step(
            self.model,
            self._optimizer,
            self._config,
            *given,
            ranks=self.ranks,
            micro_batch_sequences=self._micro_batch_sequences,
        )

    def state_bytes(self) -> int:
        """Bytes of this rank's weights, gradients and moments between steps."""
        locals_ = self._gradients.local.values()
        held = [one.untyped_storage().nbytes() for one in locals_]
        held += [part.nbytes for one in locals_ for part in _moments(self._optimizer, one)]
        held += [one.grad.nbytes for one in locals_ if one.grad is not None]
        return sum(held)


def _moments(optimizer: torch.optim.Optimizer, local: nn.Parameter) -> list[Tensor]:
    return [value for name, value in optimizer.state[local].items() if name != "step"]
