"""Every comparison a study allows: a family of cells, one figure, one verdict.

Each comparison may be wrong in 5% of studies of pure noise; many comparisons are wrong more often
together, so an answer in words is given for one figure a task in one family only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from isoflop.analysis.families import (
    BETTER,
    MAX_FLOPS_DIFFERENCE,
    METRIC_LABEL,
    Cell,
    Family,
    Metric,
    answer_split,
    families,
    flops_difference,
    loss_sample,
    sample,
    sources,
    tasks,
    top_k_pairs,
)
from isoflop.analysis.statistics import (
    CONFIDENCE,
    MIN_SEEDS,
    Better,
    Difference,
    Sample,
    Trend,
    difference,
    spearman,
    trend,
)
from isoflop.analysis.verdict import Verdict, undecided, verdict

Unit = Literal["share", "bits per byte", "nats"]
UNIT: dict[Metric, Unit] = {"accuracy": "share", "bits_per_byte": "bits per byte"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure over the densities of one family."""

    subject: str
    """Task or source."""
    figure: str
    """"accuracy", "task loss" or "validation loss"."""
    split: str
    """"seen", "held_out" or "validation"."""
    unit: Unit
    better: Better
    family: Family
    samples: tuple[Sample, ...]
    """One a measured cell, from the densest to the sparsest."""
    verdict: Verdict
    trend: Trend | None
    """Of the means against log2(E/k), which at one top_k is log2(num_experts) but for a constant;
    a dense cell written with another top_k still lies at 0. None where it cannot be tested."""
    rank_correlation: float | None
    """Spearman's, of the cells' means with sparsity; 1 or -1 is monotonic."""

    @property
    def enough_seeds(self) -> bool:
        """Whether every cell has the seeds that a claim needs."""
        return min((len(s.values) for s in self.samples), default=0) >= MIN_SEEDS


@dataclass(frozen=True, kw_only=True)
class TopKComparison:
    """One task on two cells of equal active and total parameters and another top_k."""

    subject: str
    figure: str
    unit: Unit
    first: Cell
    """The smaller top_k."""
    second: Cell
    difference: Difference | None
    """Second minus first; None where nothing can be claimed."""
    reason: str | None
    """Why there is no difference; None where there is one."""


def compare(
    cells: Sequence[Cell], memory_tasks: frozenset[str], tolerance: float
) -> tuple[Comparison, ...]:
    """Every task by accuracy and task loss, and every source by validation loss, by family."""
    rows = [row for cell in cells for row in cell.rows]
    found = []
    for family in families(cells, tolerance):
        for task in tasks(rows):
            split = answer_split(rows, task, memory_tasks) or ""
            for metric in METRIC_LABEL:
                samples = [sample(cell, task, split, metric) for cell in family.cells]
                about = (task, METRIC_LABEL[metric], split, UNIT[metric], BETTER[metric])
                found.append(_comparison(family, samples, *about))
        for source in sources(rows):
            samples = [loss_sample(cell, source) for cell in family.cells]
            about = (source, "validation loss", "validation", "nats", "lower")
            found.append(_comparison(family, samples, *about))
    return tuple(comparison for comparison in found if comparison.samples)


def _comparison(
    family: Family,
    samples: Sequence[Sample | None],
    subject: str,
    figure: str,
    split: str,
    unit: Unit,
    better: Better,
) -> Comparison:
    measured = tuple(s for s in samples if s is not None)
    means = [(-s.density, s.mean) for s in measured]
    unequal = _unequal_work(family.flops_difference)
    return Comparison(
        subject=subject,
        figure=figure,
        split=split,
        unit=unit,
        better=better,
        family=family,
        samples=measured,
        verdict=(
            verdict(measured, better=better)
            if unequal is None
            else undecided("not comparable", unequal)
        ),
        trend=trend(measured) if unequal is None else None,
        rank_correlation=spearman(means),
    )


def compare_top_k(
    cells: Sequence[Cell], memory_tasks: frozenset[str], tolerance: float
) -> tuple[TopKComparison, ...]:
    """Accuracy (task loss where there is none) of every matched pair.

    All differences together may be wrong in 5% of studies of pure noise (Bonferroni).
    """
    rows = [row for cell in cells for row in cell.rows]
    drawn: list[tuple[str, Metric, Cell, Cell, Sample, Sample]] = []
    for first, second in top_k_pairs(cells, tolerance):
        for task in tasks(rows):
            split = answer_split(rows, task, memory_tasks) or ""
            for metric in METRIC_LABEL:
                pair = [sample(cell, task, split, metric) for cell in (first, second)]
                if pair[0] is not None and pair[1] is not None:
                    drawn.append((task, metric, first, second, pair[0], pair[1]))
                    break
    level = 1 - (1 - CONFIDENCE) / max(len(drawn), 1)
    found = []
    for task, metric, first, second, old, new in drawn:
        reason = _unequal_work(flops_difference((first, second)))
        if reason is None and min(len(new.values), len(old.values)) < MIN_SEEDS:
            reason = f"not distinguishable: fewer than {MIN_SEEDS} seeds"
        found.append(
            TopKComparison(
                subject=task,
                figure=METRIC_LABEL[metric],
                unit=UNIT[metric],
                first=first,
                second=second,
                difference=difference(new, old, level) if reason is None else None,
                reason=reason,
            )
        )
    return tuple(found)


def _unequal_work(difference_of_flops: float) -> str | None:
    """Why cells of so different training FLOPs are not compared; None where they are."""
    if difference_of_flops <= MAX_FLOPS_DIFFERENCE:
        return None
    return (
        f"training FLOPs with the router differ by {100 * difference_of_flops:.0f}%, "
        f"more than {100 * MAX_FLOPS_DIFFERENCE:.0f}%"
    )
