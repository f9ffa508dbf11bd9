"""How long each part of a study took, and how long the same cells would take in another study.

    <folder>/spans.jsonl   SpanRow: what the launcher saw on its clock, apart from all other rows

A run that was interrupted has no span: what it took is then read off its files, see `_by_files`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isoflop.config import UserError
from isoflop.design.layout import Layout
from isoflop.records import TimingRow, read_rows, row_to_line
from isoflop.sweep.config import Experiment
from isoflop.sweep.study import PlannedRun, StudyMap, read_study_map

SPANS = "spans.jsonl"
PREPARE, REPORT = "prepare", "report"
"""Parts of a study that are no runs: corpus and tokens before them, tables and figures after."""

SAME = {
    "train": (
        *("batch_sequences", "sequence_length", "micro_batch_sequences", "precision", "ops"),
        *("experts", "recompute", "balance_scope", "num_checkpoints", "validation_sequences"),
    ),
    "evaluate": ("max_items", "max_items_between", "max_new_tokens"),
}
"""Fields that must be equal for one study's times to tell another's; tokens and seeds may differ."""


@dataclass(frozen=True, kw_only=True)
class SpanRow:
    """One part of a study, from its start to its end without interruption."""

    part: str
    """`PREPARE`, `REPORT`, or the training folder of a run."""
    seconds: float
    workers: int
    """Runs at once, as the launcher was told."""
    layout: Layout | None = None
    """Processes of each run; None: written before this was kept."""


@dataclass(frozen=True, kw_only=True)
class RunSeconds:
    """What one run of a cell takes."""

    training: float
    """By the run's own clock; proportional to its tokens."""
    around: float
    """Starting its process, validating and evaluating its checkpoints."""


@dataclass(frozen=True, kw_only=True)
class MeasuredStudy:
    """Times of a study's parts, means over what finished."""

    root: Path
    experiment: Experiment
    cells: dict[str, RunSeconds]
    before: float | None
    """Preparing; None: not measured."""
    after: float | None
    """Tables and report; None: not measured."""
    workers: int | None
    """Runs at once while the runs were measured; None: not known, or it differed."""
    layouts: frozenset[Layout | None]
    """Over which processes the runs were spread; None among them: of some it is not known."""


class Spans:
    """The clock of a launcher, which writes what ended whole."""

    def __init__(self, study: StudyMap, root: Path, workers: int, layout: Layout | None):
        """`layout`: of each run; None: one process."""
        self._study, self._root, self._workers = study, root, workers
        self._layout = layout or Layout()
        self._begun: dict[int, float] = {}

    def start(self, number: int) -> None:
        """A run's process is started; one that goes on is not timed."""
        path = self._root / self._study.runs[number].train.path
        if not (path / "mixture.jsonl").exists():
            self._begun[number] = time.monotonic()

    def done(self, number: int) -> None:
        """A run has ended well."""
        if number in self._begun:
            seconds = time.monotonic() - self._begun.pop(number)
            self._write(self._study.runs[number].train.path, seconds)

    @contextmanager
    def part(self, name: str, *, whole: bool = True) -> Iterator[None]:
        """Time what is done inside, if all of it is done there."""
        begun = time.monotonic()
        yield
        if whole:
            self._write(name, time.monotonic() - begun)

    def _write(self, part: str, seconds: float) -> None:
        row = SpanRow(part=part, seconds=seconds, workers=self._workers, layout=self._layout)
        with (self._root / SPANS).open("a", encoding="utf-8", newline="\n") as out:
            out.write(row_to_line(row) + "\n")


def measure_study(root: Path) -> MeasuredStudy:
    """Mean seconds of the parts of a study, of what finished in it.

    Raises:
        UserError: no study there, or no finished run.
    """
    study = read_study_map(root)
    spans: dict[str, list[SpanRow]] = {}
    for row in read_rows(root / SPANS, SpanRow) if (root / SPANS).exists() else ():
        spans.setdefault(row.part, []).append(row)
    found: dict[str, list[RunSeconds]] = {}
    workers = set()
    layouts = set()
    for run in study.runs:
        rows = root / run.train.path / "timings.jsonl"
        if not ((root / run.evaluate.path / "DONE").exists() and rows.exists()):
            continue
        training = list(read_rows(rows, TimingRow))[-1].seconds
        seen = spans.get(run.train.path)
        whole = seen[-1].seconds if seen else _by_files(root, run, training)
        workers.add(seen[-1].workers if seen else None)
        layouts.add(seen[-1].layout if seen else None)
        seconds = RunSeconds(training=training, around=whole - training)
        found.setdefault(run.cell, []).append(seconds)
    if not found:
        raise UserError(f"{root}: no finished run to measure; run the study, or a short one, first")
    return MeasuredStudy(
        root=root,
        experiment=study.experiment,
        cells={cell: _mean(runs) for cell, runs in found.items()},
        before=spans[PREPARE][-1].seconds if PREPARE in spans else None,
        after=spans[REPORT][-1].seconds if REPORT in spans else None,
        workers=workers.pop() if len(workers) == 1 else None,
        layouts=frozenset(layouts),
    )


def run_seconds(
    measured: MeasuredStudy, experiment: Experiment, layout: Layout | None = None
) -> dict[str, float]:
    """Seconds of one run of each of the experiment's cells: training by its tokens, the rest as it was.

    Args:
        layout: of each run; None: one process.

    Raises:
        UserError: a cell that was not measured, or was with another model, on other ranks or with
            another setting that a run's time depends on.
    """
    root, there = measured.root, measured.experiment
    missing = [cell.name for cell in experiment.cells if cell.name not in measured.cells]
    if missing:
        raise UserError(f"{root}: no finished run of {', '.join(missing)} to measure")
    planned = layout or Layout()
    for was in measured.layouts:
        if was is not None and was != planned:
            raise UserError(
                f"{root}: measured on {was.text()}, planned for {planned.text()}: run times would "
                "not compare; measure again with a short run of the planned study and layout"
            )
    for part, names in SAME.items():
        for name in names:
            has, wants = (getattr(getattr(one, part), name) for one in (there, experiment))
            if has != wants:
                raise UserError(
                    f"{root}: measured with {part}.{name}={has}, planned with {wants}: run times "
                    "would not compare; measure again with a short run of the planned study"
                )
    models = {cell.name: cell.model for cell in there.cells}
    for cell in experiment.cells:
        if models[cell.name] != cell.model:
            raise UserError(
                f"{root}: {cell.name} was measured with another model than the planned one; "
                "measure again with a short run of the planned study"
            )
    longer = experiment.train.num_steps / there.train.num_steps
    return {
        cell.name: measured.cells[cell.name].training * longer + measured.cells[cell.name].around
        for cell in experiment.cells
    }


def _by_files(root: Path, run: PlannedRun, training: float) -> float:
    """Between a run's first and last file; too much where it was interrupted."""
    begun = root / run.train.path / "mixture.jsonl"
    if not begun.exists():
        return training
    done = root / run.evaluate.path / "DONE"
    return max(training, done.stat().st_mtime - begun.stat().st_mtime)


def _mean(runs: list[RunSeconds]) -> RunSeconds:
    return RunSeconds(
        training=sum(run.training for run in runs) / len(runs),
        around=sum(run.around for run in runs) / len(runs),
    )
