"""Train one model: batches in, rows and checkpoints out.

    <folder>/mixture.jsonl                   MixtureRow: how often each source is read
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
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.moe import RouterLosses
from isoflop.model.transformer import Transformer, next_token_loss
from isoflop.records import LossRow, StepRow, TimingRow, read_rows, write_rows
from isoflop.tokens.batches import (
    Batch,
    Mixture,
    validation_batches,
    validation_document_numbers,
)
from isoflop.tokens.shards import Shard
from isoflop.train.config import TrainConfig
from isoflop.train.optim import learning_rate, make_optimizer
from isoflop.train.state import STATE_FILE, append_row, finish_rows, load_state, save_state

Progress = Callable[[int, int, float], None]
"""Called with steps done, steps of the run, and tokens per second."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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

    def __init__(self, model: ModelConfig):
        self.loss = 0.0
        self.gradient_norm = 0.0
        self.balance = torch.zeros(model.num_layers)
        self.z = torch.zeros(model.num_layers)
        self.expert_counts = torch.zeros(model.num_layers, model.num_experts, dtype=torch.long)
        self.num_micro_batches = 0
        self.num_steps = 0

    def add_router(self, router: list[RouterLosses]) -> None:
        """Add one micro-batch's router losses and expert counts, layer by layer."""
        for layer, losses in enumerate(router):
            self.balance[layer] += losses.balance.detach().cpu()
            self.z[layer] += losses.z.detach().cpu()
            self.expert_counts[layer] += losses.expert_counts.cpu()
        self.num_micro_batches += 1

    def row(self, step: int, tokens: int, rate: float) -> StepRow:
        """The means as a row."""
        load = self.expert_counts.double() / self.expert_counts.sum(dim=-1, keepdim=True)
        return StepRow(
            step=step,
            tokens=tokens,
            train_loss=self.loss / self.num_steps,
            learning_rate=rate,
            gradient_norm=self.gradient_norm / self.num_steps,
            balance_loss=tuple((self.balance / self.num_micro_batches).tolist()),
            z_loss=tuple((self.z / self.num_micro_batches).tolist()),
            expert_load=tuple(tuple(layer) for layer in load.tolist()),
        )


def train_run(run: TrainingRun, folder: Path, progress: Progress) -> None:
    """Train to the end, from the folder's saved state if there is one.

    Raises:
        UserError: the loss became non-finite; the batch's documents are named.
    """
    config = run.train
    model = Transformer(
        run.model, seed=run.seed, compute_dtype=DTYPES[config.precision], experts=config.experts
    ).to(run.device)
    optimizer = make_optimizer(model, config)
    write_rows(folder / "mixture.jsonl", run.mixture.usage(config.num_steps))
    first = load_state(folder, model, optimizer, run.digest) + 1
    clock = Clock(_seconds_so_far(folder))
    sums = Sums(run.model)
    for step in range(first, config.num_steps + 1):
        rate = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        _step(run, model, optimizer, step, sums)
        at_checkpoint = step in config.checkpoint_steps
        if step % config.log_steps == 0 or at_checkpoint:
            tokens = step * config.batch_tokens
            append_row(folder, "steps.jsonl", sums.row(step, tokens, rate))
            speed = sums.num_steps * config.batch_tokens / clock.lap()
            timing = TimingRow(step=step, tokens_per_second=speed, seconds=clock.seconds)
            append_row(folder, "timings.jsonl", timing)
            progress(step, config.num_steps, speed)
            sums = Sums(run.model)
        if at_checkpoint:
            _checkpoint(run, model, step, folder)
            clock.lap(counted=False)
        # Only where no sums are open: the state holds none.
        if sums.num_steps == 0 and clock.since_save() > config.resume_seconds:
            save_state(folder, step, model, optimizer, run.digest)
            clock.saved()
    finish_rows(folder)
    (folder / STATE_FILE).unlink(missing_ok=True)


def _step(
    run: TrainingRun,
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    step: int,
    sums: Sums,
) -> None:
    """One optimiser step over the micro-batches of one batch, added to `sums`."""
    config = run.train
    batch = run.mixture.batch(step - 1)
    size = config.micro_batch_sequences or config.batch_sequences
    num_micro_batches = config.batch_sequences // size
    optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    for start in range(0, config.batch_sequences, size):
        micro = _micro_batch_loss(run, model, batch, slice(start, start + size), sums)
        (micro.objective / num_micro_batches).backward()
        loss += micro.train_loss / num_micro_batches
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm).item()
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise UserError(
            f"step {step}: train loss {loss} and gradient norm {norm} must be finite; lower "
            f"peak_learning_rate={config.peak_learning_rate} or look at the batch's documents: "
            + _named(run.mixture.documents(step - 1))
        )
    optimizer.step()
    sums.loss += loss
    sums.gradient_norm += norm
    sums.num_steps += 1


MAX_NAMED_DOCUMENTS = 40
"""Documents named in an error; chosen so that the line can still be read."""


def _named(documents: list[str]) -> str:
    more = len(documents) - MAX_NAMED_DOCUMENTS
    return ", ".join(documents[:MAX_NAMED_DOCUMENTS]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class MicroBatch:
    """Losses of one forward pass."""

    objective: Tensor
    """What is minimised: train loss and router losses."""
    train_loss: float
    """Next-token cross-entropy alone, in nats."""


def _micro_batch_loss(
    run: TrainingRun, model: Transformer, batch: Batch, rows: slice, sums: Sums
) -> MicroBatch:
    tokens = torch.from_numpy(batch.tokens[rows]).to(run.device)
    documents = None
    if run.train.reset_attention:
        documents = torch.from_numpy(batch.document_numbers[rows, :-1]).to(run.device)
    output = model(tokens[:, :-1], documents=documents)
    loss = next_token_loss(output.logits, tokens[:, 1:]).mean()
    balance = torch.stack([layer.balance for layer in output.router]).sum()
    z = torch.stack([layer.z for layer in output.router]).sum()
    objective = loss + run.train.balance_coefficient * balance + run.train.z_coefficient * z
    sums.add_router(output.router)
    return MicroBatch(objective, loss.item())


def _checkpoint(run: TrainingRun, model: Transformer, step: int, folder: Path) -> None:
    """Keep the weights and validate them on every source.

    Raises:
        UserError: a loss is not finite.
    """
    save_checkpoint(model, folder / "checkpoints" / f"step-{step:08d}")
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
        output = model(batch[:, :-1], documents=documents)
        losses = next_token_loss(output.logits, batch[:, 1:])
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
