"""Which cells may be compared, and the scores of a cell.

Words in this file:
    cell    one architecture, trained once a seed
    family  cells of equal active parameters, tokens, top_k and shape that differ in density
            alone, with the dense cell (k = E) of the same active shape
    shape   num_layers, d_model, and the width of all experts that see a token (d_expert x top_k)
    pair    two cells of equal active and total parameters and another top_k

Only final checkpoints enter a comparison.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from isoflop.analysis.statistics import Better, Sample
from isoflop.design.plan import format_count
from isoflop.model.count import FLOPS_PER_MULTIPLY_ADD, TRAIN_PASSES
from isoflop.records import CheckpointRow, LossRow, ScoreRow

Metric = Literal["accuracy", "bits_per_byte"]

BETTER: dict[Metric, Better] = {"accuracy": "higher", "bits_per_byte": "lower"}
METRIC_LABEL: dict[Metric, str] = {"accuracy": "accuracy", "bits_per_byte": "task loss"}

TOLERANCE = 0.01
"""Largest relative difference of parameters that counts as equal. Chosen: below the effect of any
step of a grid in powers of 2, above what rounding a width leaves."""

MAX_FLOPS_DIFFERENCE = 0.10
"""Largest relative difference of training FLOPs, router included, at which cells are compared. The
matched counts leave the router out, which grows with E. Chosen: a tenth more training changes a
loss by less than the seeds do."""


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
    several_budgets: bool = False
    """Whether the families it was found with differ in their tokens."""

    @property
    def label(self) -> str:
        """What the cells share, in words; the tokens where other families have others."""
        shape = self.cells[-1].shape
        label = f"k={shape.top_k}, {format_count(shape.active_params)} active parameters"
        return f"{label}, {format_count(shape.tokens)} tokens" if self.several_budgets else label

    @property
    def flops_difference(self) -> float:
        """Relative difference of training FLOPs, router included: largest / smallest - 1."""
        return flops_difference(self.cells)


def sparsity_label(sparsity: float) -> str:
    """A sparsity in words: "dense", "75% sparse", "98.4% sparse"."""
    return "dense" if sparsity == 0 else f"{100 * sparsity:.3g}% sparse"


def train_flops_with_router(row: CheckpointRow) -> int:
    """Training FLOPs so far, the router included: 6 x E x d_model a layer and token on top.

    Equals model.count.train_flops_per_token_with_router x tokens. Without a known width or number
    of layers, the FLOPs as they are given.
    """
    if row.d_model is None or row.num_layers is None:
        return row.train_flops
    router = row.num_experts * row.d_model * row.num_layers
    return row.train_flops + TRAIN_PASSES * FLOPS_PER_MULTIPLY_ADD * router * row.tokens


def flops_difference(cells: Sequence[Cell]) -> float:
    """Largest training FLOPs with router / smallest, minus 1."""
    flops = [train_flops_with_router(cell.shape) for cell in cells]
    return max(flops) / min(flops) - 1


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
    """The families of at least two densities: those of most runs first, then of the largest budget.

    A dense cell has no experts to choose from, so it enters every family of its shape, whatever
    its top_k; the one with the family's top_k, else the only one. Where several cells could stand
    for one density, none is chosen: all stay out, and `left_out` names them. A lone sparse cell
    beside a family of another top_k is no family with the dense cell: it was run for its pair.
    """
    found = []
    for group in _matched_shapes(cells, tolerance):
        dense = [cell for cell in group if cell.shape.sparsity == 0]
        by_top_k: dict[int, dict[float, list[Cell]]] = {}
        for cell in group:
            if cell.shape.sparsity > 0:
                densities = by_top_k.setdefault(cell.shape.top_k, {})
                densities.setdefault(cell.shape.density, []).append(cell)
        most = max((len(chosen) for chosen in by_top_k.values()), default=0)
        for top_k, chosen in sorted(by_top_k.items()):
            if len(chosen) == 1 < most:
                continue
            own = [cell for cell in dense if cell.shape.top_k == top_k]
            chosen[1.0] = own or dense
            alone = {density: named[0] for density, named in chosen.items() if len(named) == 1}
            if len(alone) > 1:
                members = tuple(alone[density] for density in sorted(alone, reverse=True))
                found.append(Family(cells=members))
    several = len({family.cells[0].shape.tokens for family in found}) > 1
    return tuple(replace(family, several_budgets=several) for family in sorted(found, key=_largest))


def _largest(family: Family) -> tuple[int, int]:
    """Most runs first; of as many, the largest budget."""
    runs = sum(len(cell.rows) for cell in family.cells)
    return -runs, -max(cell.shape.train_flops for cell in family.cells)


def left_out(
    cells: Sequence[Cell], tolerance: float = TOLERANCE
) -> tuple[tuple[Cell, tuple[str, ...]], ...]:
    """Cells in no comparison, by name, each with the cells that stand for the same density.

    The second is () for a cell that nothing matches.
    """
    groups = [family.cells for family in families(cells, tolerance)]
    used = {cell.name for cell in (*sum(groups, ()), *sum(top_k_pairs(cells, tolerance), ()))}
    found = []
    for group in _matched_shapes(cells, tolerance):
        for cell in group:
            twins = [c for c in group if c is not cell and c.shape.density == cell.shape.density]
            same = [c for c in twins if cell.shape.top_k == c.shape.top_k or not c.shape.sparsity]
            if cell.name not in used:
                found.append((cell, tuple(sorted(c.name for c in same))))
    return tuple(sorted(found, key=lambda pair: pair[0].name))


def top_k_pairs(
    cells: Sequence[Cell], tolerance: float = TOLERANCE
) -> tuple[tuple[Cell, Cell], ...]:
    """Cells of equal shape, active and total parameters and tokens, the smaller top_k first."""
    pairs = []
    for group in _matched_shapes(cells, tolerance):
        sparse = [cell for cell in group if cell.shape.sparsity > 0]
        for first in sparse:
            for second in sparse:
                sizes = (first.shape.total_params, second.shape.total_params)
                equal = max(sizes) <= min(sizes) * (1 + tolerance)
                if equal and first.shape.top_k < second.shape.top_k:
                    pairs.append((first, second))
    return tuple(pairs)


def _matched_shapes(cells: Sequence[Cell], tolerance: float) -> list[list[Cell]]:
    """Groups of equal tokens, active parameters within `tolerance`, and one shape."""
    groups: dict[tuple[int | None, ...], list[Cell]] = {}
    for index, group in enumerate(_matched(cells, tolerance)):
        for cell in group:
            shape = cell.shape
            width = None if shape.d_expert is None else shape.d_expert * shape.top_k
            key = (index, shape.num_layers, shape.d_model, width)
            groups.setdefault(key, []).append(cell)
    return list(groups.values())


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
    """The scores of a cell over its seeds, with their errors over items; None if none was
    measured."""
    values, errors = [], []
    for row in cell.rows:
        value, found = metric_value(row, task, split, metric), score(row, task, split)
        if value is None or found is None:
            continue
        accuracy = metric == "accuracy"
        error = found.accuracy_standard_error if accuracy else found.bits_per_byte_standard_error
        errors.append(error or 0.0)
        values.append(value)
    return _sample(cell, values, errors)


def loss_sample(cell: Cell, source: str) -> Sample | None:
    """The validation losses of a cell over its seeds; None if none was measured."""
    found = [source_loss(row, source, "validation") for row in cell.rows]
    losses = [loss for loss in found if loss is not None]
    return _sample(cell, [x.loss for x in losses], [x.standard_error or 0.0 for x in losses])


def figure_sample(cell: Cell, read: Callable[[CheckpointRow], float | None]) -> Sample | None:
    """Any other figure of a cell over its seeds, of no known error over items; None if none was
    measured."""
    found = [read(row) for row in cell.rows]
    return _sample(cell, [value for value in found if value is not None], [])


def _sample(cell: Cell, values: Sequence[float], errors: Sequence[float]) -> Sample | None:
    if not values:
        return None
    return Sample(
        name=cell.name,
        density=cell.shape.density,
        values=tuple(values),
        item_errors=tuple(errors),
    )
