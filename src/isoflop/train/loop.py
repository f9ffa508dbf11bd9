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
from isoflop.model.checkpoint import CHECKPOINTS, STEP_PREFIX
from isoflop.model.config import ModelConfig
from isoflop.records import LossRow, StepRow, TimingRow, read_rows
from isoflop.tokens.batches import (
    Mixture,
    validation_batches,
    validation_document_numbers,
)
from isoflop.tokens.shards import Shard
from isoflop.train.computation import Computation, OneProcess
from isoflop.train.config import TrainConfig
from isoflop.train.optim import learning_rate
from isoflop.train.ranks import ALONE, Ranks
from isoflop.train.state import RowWriter
from isoflop.train.step import Decoder, StepResult

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


def train_run(
    run: TrainingRun, folder: Path, progress: Progress, computation: Computation | None = None
) -> None:
    """Train to the end, from the folder's saved state if there is one, which stays: see `forget_state`.

    Args:
        computation: Who computes; None: this process alone. Of several ranks each calls this,
            and rank 0 writes the rows.

    Raises:
        UserError: the loss became non-finite; the batch's documents are named.
    """
    config = run.train
    computation = computation or OneProcess(run.model, config, run.seed, run.device, folder)
    ranks, rows = computation.ranks, RowWriter(folder, computation.ranks.rank == 0)
    rows.replace("mixture.jsonl", run.mixture.usage(config.num_steps))
    first = computation.load(folder, run.digest) + 1
    clock = Clock(_seconds_so_far(folder))
    sums = Sums()
    for step in range(first, config.num_steps + 1):
        rate = learning_rate(step, config)
        computation.set_learning_rate(rate)
        sums.steps.append(_step(run, computation, step))
        at_checkpoint = step in config.checkpoint_steps
        if step % config.log_steps == 0 or at_checkpoint:
            tokens = step * config.batch_tokens
            rows.append("steps.jsonl", sums.row(step, tokens, rate))
            speed = len(sums.steps) * config.batch_tokens / clock.lap()
            timing = TimingRow(step=step, tokens_per_second=speed, seconds=clock.seconds)
            rows.append("timings.jsonl", timing)
            progress(step, config.num_steps, speed)
            sums = Sums()
        if at_checkpoint:
            _checkpoint(run, computation, step, rows)
            clock.lap(counted=False)
        # Only where no sums are open: the state holds none.
        if not sums.steps and ranks.agree(clock.since_save() > config.resume_seconds):
            computation.save(folder, step, run.digest)
            clock.saved()
    rows.finish()


def _step(run: TrainingRun, computation: Computation, step: int) -> StepResult:
    """The optimiser step over one batch, of which each rank reads its own part."""
    ranks = computation.ranks
    batch = run.mixture.batch(step - 1, part=ranks.part, parts=ranks.parts)
    numbers = batch.document_numbers if run.train.reset_attention else None
    result = computation.step(batch.tokens, numbers)
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


def _checkpoint(run: TrainingRun, computation: Computation, step: int, rows: RowWriter) -> None:
    """Keep the weights and validate them on every source.

    Raises:
        UserError: a loss is not finite.
    """
    computation.keep(rows.folder / CHECKPOINTS / f"{STEP_PREFIX}{step:08d}")
    tokens = step * run.train.batch_tokens
    for source, split in sorted(run.validation):
        held = run.validation[source, split]
        # Too little text for one prediction: not measured, so no row.
        if not held.sequences:
            continue
        row = validate(
            computation.model,
            held,
            step=step,
            tokens=tokens,
            source=source,
            split=split,
            ranks=computation.ranks,
        )
        if not math.isfinite(row.loss):
            raise UserError(
                f"step {step}: {split} loss of {source!r} is {row.loss}, it must be finite; lower "
                f"peak_learning_rate={run.train.peak_learning_rate}"
            )
        rows.append("losses.jsonl", row)


VALIDATION_BATCH_SEQUENCES = 16
"""Sequences validated at once; chosen small, memory grows with it."""


@torch.no_grad()
def validate(
    model: Decoder,
    held: ValidationSet,
    *,
    step: int,
    tokens: int,
    source: str,
    split: str,
    ranks: Ranks = ALONE,
) -> LossRow:
    """Mean next-token loss over all tokens, and its standard error over sequences of equal length."""
    count, length = len(held.sequences), len(held.sequences[0]) - 1
    # Ranks compute together, so all of them as often: those without a sequence repeat the first.
    own = [n if n < count else 0 for n in range(ranks.part, count + ranks.parts - 1, ranks.parts)]
    own = own[: -(-count // ranks.parts)]
    device = next(model.parameters()).device
    found = torch.zeros(count, dtype=torch.float64, device=device)
    for start in range(0, len(own), VALIDATION_BATCH_SEQUENCES):
        rows = own[start : start + VALIDATION_BATCH_SEQUENCES]
        batch = torch.from_numpy(np.stack([held.sequences[n] for n in rows])).to(device)
        documents = None
        if held.document_numbers is not None:
            numbers = np.stack([held.document_numbers[n] for n in rows])[:, :-1]
            documents = torch.from_numpy(numbers).to(device)
        losses, _ = model.token_losses(batch[:, :-1], batch[:, 1:], documents=documents)
        for place, number in enumerate(rows):
            if start + place < len(range(ranks.part, count, ranks.parts)):
                found[number] = losses[place].double().sum()
    sums = ranks.total(found).tolist()
    means = np.array(sums) / length
    error = float(means.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    return LossRow(
        step=step,
        tokens=tokens,
        source=source,
        split=split,
        loss=sum(sums) / (length * count),
        standard_error=error,
        num_tokens=length * count,
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
