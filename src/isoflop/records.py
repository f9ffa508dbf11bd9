"""Typed rows in which the stages meet, and how they are written and read.

A row is a frozen dataclass and one line of JSON. A file of rows appears when it is complete; a line
that does not fit is an error that names file and line. What was not measured is None, never 0.
Units: losses in nats per token unless the name says bits; times in seconds.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from isoflop.config import UserError, from_dict

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One training text. Written by corpus, read by tokens."""

    id: str
    """Unique within its source and stable from the raw file to the report."""
    text: str


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """One input that could not be used, and why. Written by corpus."""

    where: str
    """File and line, or file."""
    reason: str
    """That can be counted, e.g. "not UTF-8"; `detail` says what exactly."""
    detail: str


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """What one source of text holds. Written by corpus, one a source."""

    source: str
    num_documents: int
    """Training documents."""
    num_validation_documents: int
    num_set_aside: int
    num_bytes: int
    """UTF-8 bytes of the training documents."""
    information_bits: float | None
    """What an ideal memory must store to know every fact; None for texts that are no probe."""


@dataclass(frozen=True, kw_only=True)
class FunnelRow:
    """What one step of preparing a source left. Written by corpus, in the order of the steps."""

    source: str
    step: str
    """"read", "usable", then the filters by name."""
    num_documents: int
    """Documents left after the step, for training and validation together."""
    num_bytes: int
    """UTF-8 bytes of them."""


@dataclass(frozen=True, kw_only=True)
class EvaluationItem:
    """One question with its gold answer. Written by corpus, read by evaluate."""

    id: str
    task: str
    """Name of the task, e.g. "memory"."""
    split: str
    """"seen": the training text states it; "held_out": it does not."""
    prompt: str
    answer: str
    """Gold continuation of the prompt, up to and without the stop text."""
    final_answer: str
    """What the grader compares: the whole answer, or its last step."""


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """Tokens of one source. Written by tokens, one a source."""

    source: str
    train_tokens: int
    validation_tokens: int
    num_documents: int


@dataclass(frozen=True, kw_only=True)
class MixtureRow:
    """How one run uses one source. Written by train."""

    source: str
    share: float
    """Asked share of the training tokens."""
    unique_tokens: int
    """Tokens the source holds."""
    used_tokens: int
    """Tokens the run reads."""
    epochs: float
    """used_tokens / unique_tokens."""


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One optimiser step, or the mean of the steps since the last row. Written by train."""

    step: int
    """Steps done, 1 for the first."""
    tokens: int
    """Training tokens read so far."""
    train_loss: float
    """Cross-entropy of the next token in nats, without any router loss."""
    learning_rate: float
    gradient_norm: float
    """L2 norm before clipping."""
    balance_loss: tuple[float, ...]
    """Switch balance loss of each layer; 1.0 is even use, for every top_k."""
    z_loss: tuple[float, ...]
    """Mean squared logsumexp of the router logits of each layer."""
    expert_load: tuple[tuple[float, ...], ...]
    """Share of the routed tokens that each expert of each layer received; sums to 1 a layer."""


@dataclass(frozen=True, kw_only=True)
class TimingRow:
    """Speed of training. Apart from StepRow, since times differ from run to run."""

    step: int
    tokens_per_second: float
    seconds: float
    """Training time so far, interruptions left out."""


@dataclass(frozen=True, kw_only=True)
class EngineRow:
    """How a run is computed, chosen once: another way would differ by rounding. Written by train."""

    ops: str
    """What computes between the matrix products: "native" or "torch", see `isoflop.model.ops`."""
    kernels: str | None
    """Names source, compiler and processor of native kernels. None: no kernels."""
    experts: str
    """How experts' products are computed, see `isoflop.model.moe`."""
    timed: tuple[tuple[str, float], ...] | None
    """Ways that were timed, with seconds a step. None: the config named one."""


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """Loss on one split of one source at one checkpoint. Written by train."""

    step: int
    tokens: int
    source: str
    split: str
    """"validation", or "train": as many sequences of the training documents."""
    loss: float
    """Cross-entropy of the next token in nats."""
    standard_error: float | None
    """Over validation sequences; None for fewer than two."""
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One task on one checkpoint. Written by evaluate, read by analysis.

    Counts are None only where a table of another's runs does not give them."""

    step: int
    tokens: int
    task: str
    split: str
    num_items: int | None
    """Items of the task."""
    num_scored: int | None
    """Items that entered the means; the others were left out."""
    num_ungradable: int | None
    """Answers no grader could read, which count as wrong, and num_not_finite. None: no answers."""
    accuracy: float | None
    accuracy_standard_error: float | None
    bits_per_byte: float | None
    """Mean over items of the gold answer's bits given its prompt / its UTF-8 bytes."""
    bits_per_byte_standard_error: float | None
    bits_per_token: float | None
    bits_per_token_standard_error: float | None
    answer_bits: float | None
    """Mean bits of a whole gold answer."""
    answer_probability: float | None
    """Mean over items of 2^-bits: the accuracy of sampling once, as far as the loss tells."""
    num_joined: int | None
    """Items in which a token spans the join of prompt and answer."""
    num_not_finite: int | None = None
    """Items whose logits are not finite, which are in no mean. None: not counted."""


@dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """One item on one checkpoint. Written by evaluate."""

    step: int
    item: str
    task: str
    split: str
    generated: str | None
    correct: bool | None
    """None: not gradable."""
    answer_bits: float | None
    num_answer_tokens: int
    num_answer_bytes: int
    joined: bool
    reason: str | None = None
    """Why it is not gradable, in a few words; None where it is."""


@dataclass(frozen=True, kw_only=True)
class CheckpointRow:
    """Every figure ever measured on one checkpoint. Joined by sweep.ledger, read by analysis.

    Shape and training figures are None only where a table of another's runs does not give them."""

    experiment: str
    cell: str
    """Name of the cell, e.g. "E16-k2"."""
    seed: int
    run: str
    """Name of the training folder: cell, seed and digest."""
    step: int
    tokens: int
    final: bool
    """Whether this is the run's last checkpoint."""
    num_layers: int | None
    d_model: int | None
    d_expert: int | None
    num_experts: int
    top_k: int
    sparsity: float
    density: float
    total_params: int
    active_params: int
    """Parameters that touch one token, embeddings included, router left out."""
    train_flops: int
    """Forward and backward of the tokens so far, by Megatron-LM's count."""
    train_flops_6n: int
    """6 x active_params x tokens."""
    tpp: float
    """tokens / total_params."""
    active_tpp: float
    """tokens / active_params."""
    train_loss: float | None
    """Mean of the steps since the previous checkpoint, in nats, without router losses."""
    balance_loss: float | None
    """Mean over layers."""
    max_expert_load: float | None
    """Largest share of a layer's routed tokens on one expert x num_experts; 1.0 is even."""
    tokens_per_second: float | None
    seconds: float | None
    losses: tuple[LossRow, ...]
    scores: tuple[ScoreRow, ...]


@dataclass(frozen=True, kw_only=True)
class CellState:
    """Where one cell of a study stands. Kept by sweep.ledger."""

    cell: str
    seed: int
    run: str
    state: str
    """"waiting", "running", "done" or "failed"."""
    reason: str | None
    """Why it failed, in one line."""


def storable(text: str) -> str:
    """The text with lone surrogates, which a file in UTF-8 cannot hold, written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def storable_or_none(text: str | None) -> str | None:
    """As `storable`; None stays None."""
    return None if text is None else storable(text)


def row_to_line(row: Any) -> str:
    """One line of JSON without its line end."""
    return json.dumps(row, default=_fields, ensure_ascii=False, allow_nan=False)


def _fields(row: Any) -> dict[str, Any]:
    """What JSON takes in place of a record; unlike `dataclasses.asdict`, without copying values."""
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def write_rows(path: Path, rows: Iterable[Any], *, survives_power_cut: bool = True) -> None:
    """Write one record a line; the file appears only when complete, see `atomic_file`."""
    atomic = atomic_file(path, survives_power_cut=survives_power_cut)
    with atomic as part, part.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(row_to_line(row) + "\n")


def read_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """The rows of a file, in order.

    Raises:
        UserError: the file is missing or a line is no `kind`; file and line are named.
    """
    try:
        lines = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of {kind.__name__} rows") from None
    with lines:
        for number, line in enumerate(lines, start=1):
            try:
                data = json.loads(line.decode("utf-8"))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not JSON: {error}") from None
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 at byte {error.start}") from None
            yield from_dict(kind, data, f"{path}:{number}")


def read_json(path: Path, *, missing: str, remedy: str) -> Any:
    """The value in a small JSON file.

    Args:
        missing: what the user should know where there is no such file.
        remedy: what to do where it is damaged.

    Raises:
        UserError: no such file, not UTF-8, or not JSON; the file, and the line where there is one.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: {missing}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; {remedy}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}; {remedy}") from None


class atomic_file:  # noqa: N801 - used as a context manager, like open()
    """``with atomic_file(path) as part``: write to `part`; `path` appears when the block ends well.

    The bytes are on disk before the name is: after a power cut there is the old
    file, the new file, or none, never half of one. An error leaves `path` as it was.

    With `survives_power_cut=False` that holds for a killed process alone, and nobody waits for the
    disk: for what lasts seconds and is checked when it is read.
    """

    def __init__(self, path: Path, *, survives_power_cut: bool = True):
        self.path = path
        self.survives_power_cut = survives_power_cut
        self.part = path.with_name(path.name + ".part")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.part

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, OSError) and error.filename is None:
            # A full disk does not say where; the user needs to know.
            error.filename = str(self.path)
        try:
            if kind is None and self.survives_power_cut:
                flush_to_disk(self.part)
                self.part.replace(self.path)
                flush_to_disk(self.path.parent)
            elif kind is None:
                self.part.replace(self.path)
        finally:
            # Also where a full disk is noticed only now; after a replace there is none.
            self.part.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
