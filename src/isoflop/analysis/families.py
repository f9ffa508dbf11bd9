"""Which cells may be compared, and the scores of a cell.

Words in this file:
    cell    one architecture, trained once a seed
    family  cells of equal active parameters, tokens and top_k that differ in density alone,
            with the dense cell (k = E) of the same active parameters
    pair    two cells of equal active and total parameters and another top_k

Only final checkpoints enter a comparison.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from isoflop.analysis.statistics import Better, Sample
from isoflop.records import CheckpointRow, LossRow, ScoreRow

Metric = Literal["accuracy", "bits_per_byte"]

BETTER: dict[Metric, Better] = {"accuracy": "higher", "bits_per_byte": "lower"}
METRIC_LABEL: dict[Metric, str] = {"accuracy": "accuracy", "bits_per_byte": "task loss"}

TOLERANCE = 0.01
"""Largest relative difference of parameters that counts as equal. Chosen: below the effect of any
step of a grid in powers of 2, above what rounding a width leaves."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One architecture with its final checkpoints."""

    name: str
    rows: tuple[CheckpointRow, ...]
    """The last checkpoint of each seed, by seed. Not empty."""

    @property
    def shape(self) -> CheckpointRow:
        """A row to read the shape from; it is the same for all seeds."""
        return self.rows[0]

    @property
    def sparsity_label(self) -> str:
        """The sparsity in words, e.g. "97% sparse"."""
        return sparsity_label(self.shape.sparsity)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Cells that differ in density alone, from the densest to the sparsest."""

    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """What the cells share, in words."""
        shape = self.cells[-1].shape
        return f"k={shape.top_k}, {count_label(shape.active_params)} active parameters"


def sparsity_label(sparsity: float) -> str:
    """A sparsity in words: "dense", "75% sparse", "98.4% sparse"."""
    return "dense" if sparsity == 0 else f"{100 * sparsity:.3g}% sparse"


def count_label(count: int | float) -> str:
    """A count with three digits and a letter: "1.23M"."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def final_cells(rows: Iterable[CheckpointRow]) -> tuple[Cell, ...]:
    """The cells that have a final checkpoint, by total parameters and name."""
    grouped: dict[str, list[CheckpointRow]] = {}
    for row in rows:
        if row.final:
            grouped.setdefault(row.cell, []).append(row)
    cells = [
        Cell(name=name, rows=tuple(sorted(group, key=lambda row: row.seed)))
        for name, group in grouped.items()
    ]
    return tuple(sorted(cells, key=lambda cell: (cell.shape.total_params, cell.name)))


def families(cells: Sequence[Cell], tolerance: float = TOLERANCE) -> tuple[Family, ...]:
    """The families of at least two densities, the largest first.

    A dense cell has no experts to choose from, so it enters every family of its active
    parameters, whatever its top_k; of several dense cells the one with the family's top_k, else
    the first. A lone sparse cell beside a family of another top_k is no family with the dense
    cell: it was run for its pair.
    """
    found = []
    for group in _matched(cells, tolerance):
        dense = [cell for cell in group if cell.shape.sparsity == 0]
        sparse = [cell for cell in group if cell.shape.sparsity > 0]
        by_top_k: dict[int, dict[float, Cell]] = {}
        for cell in sparse:
            by_top_k.setdefault(cell.shape.top_k, {})[cell.shape.density] = cell
        most = max((len(chosen) for chosen in by_top_k.values()), default=0)
        for top_k, chosen in sorted(by_top_k.items()):
            if len(chosen) == 1 < most:
                continue
            if dense:
                chosen[1.0] = min(dense, key=lambda cell: (cell.shape.top_k != top_k, cell.name))
            members = tuple(chosen[density] for density in sorted(chosen, reverse=True))
            if len(members) > 1:
                found.append(Family(cells=members))
    return tuple(sorted(found, key=lambda family: -sum(len(cell.rows) for cell in family.cells)))


def top_k_pairs(
    cells: Sequence[Cell], tolerance: float = TOLERANCE
) -> tuple[tuple[Cell, Cell], ...]:
    """Cells of equal active and total parameters and tokens, the smaller top_k first."""
    pairs = []
    for group in _matched(cells, tolerance):
        sparse = [cell for cell in group if cell.shape.sparsity > 0]
        for first in sparse:
            for second in sparse:
                sizes = (first.shape.total_params, second.shape.total_params)
                equal = max(sizes) <= min(sizes) * (1 + tolerance)
                if equal and first.shape.top_k < second.shape.top_k:
                    pairs.append((first, second))
    return tuple(pairs)


def _matched(cells: Sequence[Cell], tolerance: float) -> list[list[Cell]]:
    """Groups of equal tokens whose active parameters all lie within `tolerance`."""
    groups: list[list[Cell]] = []
    ordered = sorted(
        cells, key=lambda c: (c.shape.tokens, c.shape.active_params, c.shape.total_params, c.name)
    )
    for cell in ordered:
        smallest = groups[-1][0].shape if groups else None
        if (
            smallest is not None
            and smallest.tokens == cell.shape.tokens
            and cell.shape.active_params <= smallest.active_params * (1 + tolerance)
        ):
            groups[-1].append(cell)
        else:
            groups.append([cell])
    return groups


def tasks(rows: Iterable[CheckpointRow]) -> tuple[str, ...]:
    """Names of all tasks, sorted."""
    return tuple(sorted({score.task for row in rows for score in row.scores}))


def sources(rows: Iterable[CheckpointRow]) -> tuple[str, ...]:
    """Names of all sources with a measured loss, sorted."""
    return tuple(sorted({loss.source for row in rows for loss in row.losses}))


def answer_split(
    rows: Iterable[CheckpointRow], task: str, memory_tasks: frozenset[str]
) -> str | None:
    """The split that answers for a task: "seen" for memory, else "held_out" where it exists.

    None for a task without scores.
    """
    splits = {score.split for row in rows for score in row.scores if score.task == task}
    order = ("seen", "held_out") if task in memory_tasks else ("held_out", "seen")
    return next((split for split in order if split in splits), min(splits, default=None))


def score(row: CheckpointRow, task: str, split: str) -> ScoreRow | None:
    """The score of one task and split on one checkpoint; None if not measured."""
    return next((s for s in row.scores if (s.task, s.split) == (task, split)), None)


def source_loss(row: CheckpointRow, source: str, split: str) -> LossRow | None:
    """The loss on one split of one source at one checkpoint; None if not measured."""
    return next((x for x in row.losses if (x.source, x.split) == (source, split)), None)


def metric_value(row: CheckpointRow, task: str, split: str, metric: Metric) -> float | None:
    """One figure of one checkpoint; None if not measured."""
    found = score(row, task, split)
    if found is None:
        return None
    return found.accuracy if metric == "accuracy" else found.bits_per_byte


def sample(cell: Cell, task: str, split: str, metric: Metric) -> Sample | None:
    """The scores of a cell over its seeds; None if none was measured.

    The error over items is at least one item's weight: a score of exactly 0 or 1 has no scatter
    of its own, which does not make it exact.
    """
    values, errors = [], []
    for row in cell.rows:
        value, found = metric_value(row, task, split, metric), score(row, task, split)
        if value is None or found is None:
            continue
        if metric == "accuracy":
            smallest = 1 / max(found.num_scored, 1)
            errors.append(max(found.accuracy_standard_error or 0.0, smallest))
        else:
            errors.append(found.bits_per_byte_standard_error or 0.0)
        values.append(value)
    if not values:
        return None
    return Sample(
        name=cell.name,
        density=cell.shape.density,
        values=tuple(values),
        item_errors=tuple(errors),
    )


def loss_sample(cell: Cell, source: str) -> Sample | None:
    """The validation losses of a cell over its seeds; None if none was measured."""
    found = [source_loss(row, source, "validation") for row in cell.rows]
    losses = [loss for loss in found if loss is not None]
    if not losses:
        return None
    return Sample(
        name=cell.name,
        density=cell.shape.density,
        values=tuple(loss.loss for loss in losses),
        item_errors=tuple(loss.standard_error or 0.0 for loss in losses),
    )
