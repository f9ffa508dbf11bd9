"""Two gaps kept apart: between training text and new text, and between loss and accuracy.

    train-test gap        bits per byte of held-out answers minus bits per byte of seen answers.
                          Above 0 the model knows its training text better than new text.
    train-validation gap  the same for a source of text: validation loss minus loss on training
                          documents, in nats per token.
    loss-accuracy gap     accuracy minus answer_probability. The second is the mean probability
                          that one random sample is the gold answer, which is all the loss tells;
                          the gap is what taking the most probable token at every step, and
                          grading the last step only, gets above (or below) that.

Source: the optimal-sparsity study (arXiv:2508.18672) separates the two; definitions in these
units are ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from isoflop.analysis.families import Cell, answer_split, score, source_loss, sources, tasks
from isoflop.analysis.statistics import Estimate, estimate
from isoflop.records import CheckpointRow

GapKind = Literal["train-test", "train-validation", "loss-accuracy"]

GAP_UNIT: dict[GapKind, str] = {
    "train-test": "bits per byte",
    "train-validation": "nats per token",
    "loss-accuracy": "share of answers",
}


@dataclass(frozen=True, kw_only=True)
class Gap:
    """One gap of one cell with the spread of its seeds."""

    cell: str
    total_params: int
    density: float
    kind: GapKind
    subject: str
    """Task or source."""
    values: tuple[float, ...]
    """One a seed; () where nothing was measured."""
    estimate: Estimate | None
    reason: str | None
    """Why there is no gap; None where there is one."""


def train_test_gap(row: CheckpointRow, task: str) -> float | None:
    """Bits per byte, held out minus seen; None unless both were measured."""
    seen, held_out = score(row, task, "seen"), score(row, task, "held_out")
    if seen is None or held_out is None:
        return None
    if seen.bits_per_byte is None or held_out.bits_per_byte is None:
        return None
    return held_out.bits_per_byte - seen.bits_per_byte


def train_validation_gap(row: CheckpointRow, source: str) -> float | None:
    """Validation loss minus loss on training documents, in nats; None unless both exist."""
    seen, unseen = source_loss(row, source, "train"), source_loss(row, source, "validation")
    return None if seen is None or unseen is None else unseen.loss - seen.loss


def loss_accuracy_gap(row: CheckpointRow, task: str, split: str) -> float | None:
    """Accuracy minus the probability of the gold answer; None unless both were measured."""
    found = score(row, task, split)
    if found is None or found.accuracy is None or found.answer_probability is None:
        return None
    return found.accuracy - found.answer_probability


def all_gaps(cells: Sequence[Cell], memory_tasks: frozenset[str]) -> tuple[Gap, ...]:
    """Every gap of every cell: tasks first, then sources; cells in the order given."""
    rows = [row for cell in cells for row in cell.rows]
    gaps = []
    for task in tasks(rows):
        split = answer_split(rows, task, memory_tasks)
        for cell in cells:
            if task in memory_tasks:
                reason = "nothing can be held out: a fact that was never stated cannot be known"
                gaps.append(_gap(cell, "train-test", task, (), reason))
            else:
                values = (train_test_gap(row, task) for row in cell.rows)
                gaps.append(_gap(cell, "train-test", task, values, "seen or held out not measured"))
        for cell in cells:
            values = (loss_accuracy_gap(row, task, split or "") for row in cell.rows)
            reason = "accuracy or answer probability not measured"
            gaps.append(_gap(cell, "loss-accuracy", task, values, reason))
    for source in sources(rows):
        for cell in cells:
            values = (train_validation_gap(row, source) for row in cell.rows)
            reason = "loss on training or validation documents not measured"
            gaps.append(_gap(cell, "train-validation", source, values, reason))
    return tuple(gaps)


def without_unmeasured(gaps: Sequence[Gap]) -> tuple[Gap, ...]:
    """The gaps of every kind and subject that any cell has."""
    measured = {(gap.kind, gap.subject) for gap in gaps if gap.values}
    return tuple(gap for gap in gaps if (gap.kind, gap.subject) in measured)


def unmeasured_text(gaps: Sequence[Gap]) -> str:
    """Which gaps no cell has, and why, in a sentence; "" where there is none."""
    kept = set(without_unmeasured(gaps))
    subjects: dict[tuple[GapKind, str], dict[str, None]] = {}
    for gap in gaps:
        if gap not in kept:
            subjects.setdefault((gap.kind, gap.reason or ""), {})[gap.subject] = None
    parts = [
        f"{kind} of {', '.join(names)} ({reason})" for (kind, reason), names in subjects.items()
    ]
    return f"Gaps that no cell has: {'; '.join(parts)}." if parts else ""


def _gap(
    cell: Cell, kind: GapKind, subject: str, values: Iterable[float | None], reason: str
) -> Gap:
    measured = tuple(value for value in values if value is not None)
    return Gap(
        cell=cell.name,
        total_params=cell.shape.total_params,
        density=cell.shape.density,
        kind=kind,
        subject=subject,
        values=measured,
        estimate=estimate(measured) if measured else None,
        reason=None if measured else reason,
    )
