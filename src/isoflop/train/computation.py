"""Who computes a run's steps: one process here, several in `isoflop.train.parallel`.

The loop of `isoflop.train.loop` is the same for both; on several ranks each runs it.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int

from isoflop.config import UserError
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.train.config import TrainConfig
from isoflop.train.engine import build_model, settle_engine
from isoflop.train.optim import make_optimizer
from isoflop.train.ranks import ALONE, Ranks
from isoflop.train.state import RANKS_STATE, load_state, save_state
from isoflop.train.step import Decoder, StepResult, train_step


@runtime_checkable
class Computation(Protocol):
    """Model and optimiser of a run, and where they are kept between steps."""

    @property
    def ranks(self) -> Ranks:
        """The processes of the run."""

    @property
    def model(self) -> Decoder:
        """The model, for validation."""

    def load(self, folder: Path, digest: str) -> int:
        """Go back to the saved state and drop later rows; its step, 0 for a fresh run."""

    def save(self, folder: Path, step: int, digest: str) -> None:
        """Replace the saved state by that after `step`."""

    def keep(self, folder: Path) -> None:
        """Write the weights as a checkpoint."""

    def set_learning_rate(self, rate: float) -> None:
        """Of the next step."""

    def step(
        self,
        tokens: Int[np.ndarray, "batch positions"],
        document_numbers: Int[np.ndarray, "batch positions"] | None,
    ) -> StepResult:
        """Change the weights once by this rank's part of the batch; the result is the batch's."""


class OneProcess:
    """The whole model and the whole batch in this process."""

    ranks: Ranks = ALONE

    def __init__(
        self, model: ModelConfig, config: TrainConfig, seed: int, device: str, folder: Path
    ):
        engine = settle_engine(folder, model, config, device)
        self.config = config
        self.device = device
        self.model = build_model(model, config, engine, seed).to(device)
        self.optimizer = make_optimizer(self.model, config)

    def load(self, folder: Path, digest: str) -> int:
        """See Computation.

        Raises:
            UserError: as `load_state`, or several ranks were at work here.
        """
        if (folder / RANKS_STATE).exists():
            raise UserError(
                f"{folder / RANKS_STATE}: this run was begun by several ranks; go on with --ranks "
                "(1 is enough), or delete the folder to begin again"
            )
        return load_state(folder, self.model, self.optimizer, digest)

    def save(self, folder: Path, step: int, digest: str) -> None:
        """See Computation."""
        save_state(folder, step, self.model, self.optimizer, digest)

    def keep(self, folder: Path) -> None:
        """See Computation."""
        save_checkpoint(self.model, folder)

    def set_learning_rate(self, rate: float) -> None:
        """See Computation."""
        set_learning_rate(self.optimizer, rate)

    def step(
        self,
        tokens: Int[np.ndarray, "batch positions"],
        document_numbers: Int[np.ndarray, "batch positions"] | None,
    ) -> StepResult:
        """See Computation."""
        given = on_device(tokens, document_numbers, self.device)
        return train_step(self.model, self.optimizer, self.config, *given)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of all parameters, for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def on_device(
    tokens: Int[np.ndarray, "batch positions"],
    document_numbers: Int[np.ndarray, "batch positions"] | None,
    device: str,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tokens, and the document numbers of the inputs, as tensors."""
    documents = None
    if document_numbers is not None:
        documents = torch.from_numpy(document_numbers[:, :-1]).to(device)
    return torch.from_numpy(tokens).to(device), documents
