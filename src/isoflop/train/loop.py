"""Train one model: batches in, rows and checkpoints out.

    <folder>/mixture.jsonl                   MixtureRow: how often each source is read
    <folder>/engine.jsonl                    EngineRow: how it is computed, chosen at the first start
    <folder>/steps.jsonl, losses.jsonl       rows, the same bytes for the same config and seed
    <folder>/timings.jsonl                   speed, which differs from run to run
    <folder>/checkpoints/step-00000100/      kept checkpoints, see model.checkpoint

Killed at any moment and started again, the run ends with the same rows.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from isoflop.config import UserError
from isoflop.model.checkpoint import CHECKPOINTS, STEP_PREFIX, save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer
from isoflop.records import LossRow, StepRow, TimingRow, read_rows, write_rows
from isoflop.tokens.batches import (
    Mixture,
    validation_batches,
    validation_document_numbers,
)
from isoflop.tokens.shards import Shard
from isoflop.train.config import TrainConfig
from isoflop.train.engine import build_model, settle_engine
from isoflop.train.optim import learning_rate, make_optimizer
from isoflop.train.state import STATE_FILE, append_row, finish_rows, load_state, save_state
from isoflop.train.step import StepResult, train_step

Progress = Callable[[int, int, float], None]
"""Called with steps done, steps of the run, and tokens per second."""


@dataclass(frozen=True)
class ValidationSet:
    """Sequences of one split of one source, in file order."""

    sequences: list[np.ndarray]
    """Tokens, one more than are predicted."""
    document_numbers: list[np.ndarray] | None
    """As in `Batch`, where attention stops at document ends; else None."""

    @classmethod
    def of(cls, shard: Shard, config: TrainConfig) -> "ValidationSet":
        """The shard's first sequences, as many as the config asks."""
        asked = (shard, config.sequence_length, config.validation_sequences)
        numbers = validation_document_numbers(*asked) if config.reset_attention else None
        return cls(validation_batches(*asked), numbers)


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Everything that decides the rows of one run."""

    model: ModelConfig
    train: TrainConfig
    mixture: Mixture
    validation: dict[tuple[str, str], ValidationSet]
    """(source, split) -> what to validate on; a set without sequences is left out."""
    seed: int
    """Of the weights; the batches' order has its own in the mixture."""
    digest: str
    """Of config and inputs; a saved state of another digest is refused."""
    device: str = "cpu"


class Sums:
    """What has been added up since the last row."""

    def __init__(self) -> None:
        self.steps: list[StepResult] = []

    def row(self, step: int, tokens: int, rate: float) -> StepRow:
        """The means as a row."""
        counts = torch.stack([one.expert_counts for one in self.steps]).sum(dim=0)
        load = counts.double() / counts.sum(dim=-1, keepdim=True)
        return StepRow(
            step=step,
            tokens=tokens,
            train_loss=sum(one.train_loss for one in self.steps) / len(self.steps),
            learning_rate=rate,
            gradient_norm=sum(one.gradient_norm for one in self.steps) / len(self.steps),
            balance_loss=_mean([one.balance_loss for one in self.steps]),
            z_loss=_mean([one.z_loss for one in self.steps]),
            expert_load=tuple(tuple(layer) for layer in load.tolist()),
        )


def _mean(layers: list[Tensor]) -> tuple[float, ...]:
    return tuple(torch.stack(layers).mean(dim=0).tolist())


def train_run(run: TrainingRun, folder: Path, progress: Progress) -> None:
    """Train to the end, from the folder's saved state if there is one.

    Raises:
        UserError: the loss became non-finite; the batch's documents are named.
    """
    config = run.train
    engine = settle_engine(folder, run.model, config, run.device)
    model = build_model(run.model, config, engine, run.seed).to(run.device)
    optimizer = make_optimizer(model, config)
    write_rows(folder / "mixture.jsonl", run.mixture.usage(config.num_steps))
    first = load_state(folder, model, optimizer, run.digest) + 1
    clock = Clock(_seconds_so_far(folder))
    sums = Sums()
    for step in range(first, config.num_steps + 1):
        rate = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        sums.steps.append(_step(run, model, optimizer, step))
        at_checkpoint = step in config.checkpoint_steps
        if step % config.log_steps == 0 or at_checkpoint:
            tokens = step * config.batch_tokens
            append_row(folder, "steps.jsonl", sums.row(step, tokens, rate))
            speed = len(sums.steps) * config.batch_tokens / clock.lap()
            timing = TimingRow(step=step, tokens_per_second=speed, seconds=clock.seconds)
            append_row(folder, "timings.jsonl", timing)
            progress(step, config.num_steps, speed)
            sums = Sums()
        if at_checkpoint:
            _checkpoint(run, model, step, folder)
            clock.lap(counted=False)
        # Only where no sums are open: the state holds none.
        if not sums.steps and clock.since_save() > config.resume_seconds:
            save_state(folder, step, model, optimizer, run.digest)
            clock.saved()
    finish_rows(folder)
    (folder / STATE_FILE).unlink(missing_ok=True)


def _step(
    run: TrainingRun, model: Transformer, optimizer: torch.optim.Optimizer, step: int
) -> StepResult:
    """The optimiser step over one batch."""
    batch = run.mixture.batch(step - 1)
    documents = None
    if run.train.reset_attention:
        documents = torch.from_numpy(batch.document_numbers[:, :-1]).to(run.device)
    tokens = torch.from_numpy(batch.tokens).to(run.device)
    result = train_step(model, optimizer, run.train, tokens, documents)
    if not (math.isfinite(result.train_loss) and math.isfinite(result.gradient_norm)):
        raise UserError(
            f"step {step}: train loss {result.train_loss} and gradient norm {result.gradient_norm} "
            f"must be finite; lower peak_learning_rate={run.train.peak_learning_rate} or look at "
            "the batch's documents: " + _named(run.mixture.documents(step - 1))
        )
    return result


MAX_NAMED_DOCUMENTS = 40
"""Documents named in an error; chosen so that the line can still be read."""


def _named(documents: list[str]) -> str:
    more = len(documents) - MAX_NAMED_DOCUMENTS
    return ", ".join(documents[:MAX_NAMED_DOCUMENTS]) + (f" and {more} more" if more > 0 else "")


def _checkpoint(run: TrainingRun, model: Transformer, step: int, folder: Path) -> None:
    """Keep the weights and validate them on every source.

    Raises:
        UserError: a loss is not finite.
    """
    save_checkpoint(model, folder / CHECKPOINTS / f"{STEP_PREFIX}{step:08d}")
    tokens = step * run.train.batch_tokens
    for source, split in sorted(run.validation):
        held = run.validation[source, split]
        # Too little text for one prediction: not measured, so no row.
        if not held.sequences:
            continue
        row = validate(model, held, step=step, tokens=tokens, source=source, split=split)
        if not math.isfinite(row.loss):
            raise UserError(
                f"step {step}: {split} loss of {source!r} is {row.loss}, it must be finite; lower "
                f"peak_learning_rate={run.train.peak_learning_rate}"
            )
        append_row(folder, "losses.jsonl", row)


VALIDATION_BATCH_SEQUENCES = 16
"""Sequences validated at once; chosen small, memory grows with it."""


@torch.inference_mode()
def validate(
    model: Transformer,
    held: ValidationSet,
    *,
    step: int,
    tokens: int,
    source: str,
    split: str,
) -> LossRow:
    """Mean next-token loss over all tokens, and its standard error over sequences of equal length."""
    sums, counts = [], []
    device = model.embedding.device
    for start in range(0, len(held.sequences), VALIDATION_BATCH_SEQUENCES):
        rows = slice(start, start + VALIDATION_BATCH_SEQUENCES)
        batch = torch.from_numpy(np.stack(held.sequences[rows])).to(device)
        documents = None
        if held.document_numbers is not None:
            numbers = np.stack(held.document_numbers[rows])[:, :-1]
            documents = torch.from_numpy(numbers).to(device)
        losses, _ = model.token_losses(batch[:, :-1], batch[:, 1:], documents=documents)
        sums += losses.double().sum(dim=1).tolist()
        counts += [losses.shape[1]] * losses.shape[0]
    means = np.array(sums) / np.array(counts)
    error = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else None
    return LossRow(
        step=step,
        tokens=tokens,
        source=source,
        split=split,
        loss=sum(sums) / sum(counts),
        standard_error=error,
        num_tokens=sum(counts),
    )


class Clock:
    """Training seconds, interruptions left out, and the time since the last saved state."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._lap = self._save = time.monotonic()

    def lap(self, *, counted: bool = True) -> float:
        """Seconds since the last lap; those not counted stay out of the training time."""
        now = time.monotonic()
        passed, self._lap = now - self._lap, now
        self.seconds += passed if counted else 0.0
        return passed

    def since_save(self) -> float:
        """Seconds since the last saved state."""
        return time.monotonic() - self._save

    def saved(self) -> None:
        """A state has just been saved."""
        self._save = time.monotonic()


def _seconds_so_far(folder: Path) -> float:
    rows = list(read_rows(folder / "timings.jsonl", TimingRow))
    return rows[-1].seconds if rows else 0.0
