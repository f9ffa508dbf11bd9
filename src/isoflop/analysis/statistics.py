"""Uncertainty over seeds, and the rule by which a study says which sparsity is best.

Words in this file:
    sample   the scores of one cell, one value a seed
    spread   between seeds; the scatter of the asked items within one seed is the smaller part
    ends     the densest and the sparsest cell of a family
    inner    the cells between them

A false claim is the worst outcome, so every rule here errs to "not distinguishable".

Sources: unequal variances, Welch 1947 (Biometrika 34, 28); several claims at once,
Holm 1979 (Scandinavian Journal of Statistics 6, 65); a claim that needs two tests at once
takes the larger p-value, Berger 1982 (Technometrics 24, 295).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtr, stdtrit

Better = Literal["higher", "lower"]
VerdictKind = Literal[
    "sparsest is best", "denser is best", "an inner density is best", "not distinguishable"
]

CONFIDENCE = 0.95
"""Level of every interval, and of the whole set of claims about one task and metric."""

MIN_SEEDS = 3
"""Seeds a cell needs before anything is claimed of it. Skills come in sudden steps, so a score can
have two modes; both seeds of two ends then fall apart by chance in 2 of 16 studies of pure noise,
three seeds in 2 of 64. Simulated in the tests: at most 4% false claims with three seeds."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The scores of one cell on one task and metric."""

    name: str
    """Name of the cell."""
    density: float
    """k/E of the cell."""
    values: tuple[float, ...]
    """One score a seed."""
    item_errors: tuple[float, ...] = ()
    """Standard error of each score over its items, in the same order; () if unknown. The variance
    between seeds is never taken as smaller than this: three seeds may agree by rounding."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with Student's interval."""

    mean: float
    standard_error: float | None
    """None with one seed: the spread between seeds is unknown."""
    low: float | None
    high: float | None
    num_seeds: int

    @property
    def half_width(self) -> float | None:
        """Half of the interval; None with one seed."""
        return None if self.high is None else self.high - self.mean


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of a first cell minus mean of a second, by Welch."""

    first: str
    second: str
    difference: float
    standard_error: float
    degrees_of_freedom: float
    p_value: float
    """Two-sided."""
    low: float
    high: float
    level: float
    """Confidence of the interval low to high; above 0.95 where several claims share 5%."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Least-squares slope with Student's interval."""

    slope: float
    standard_error: float
    low: float
    high: float
    num_points: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one task and metric says about density within one matched family."""

    kind: VerdictKind
    best: str | None
    """The cell claimed best; None if nothing is claimed."""
    level_with_best: tuple[str, ...]
    """Other cells that the 95% interval does not tell apart from the best."""
    ends: Difference | None
    """Sparsest minus densest at the Holm-corrected level; None where no claim can be tested."""
    reason: str
    """Why, in words."""


def estimate(values: Sequence[float], item_errors: Sequence[float] = ()) -> Estimate:
    """Mean over seeds with standard error and Student's 95% interval.

    Raises:
        ValueError: no values; an average over nothing is not a number.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    mean, num_seeds = math.fsum(values) / len(values), len(values)
    if num_seeds == 1:
        return Estimate(mean=mean, standard_error=None, low=None, high=None, num_seeds=1)
    error = math.sqrt(_squared_error(values, item_errors))
    half = error * _quantile(float(num_seeds - 1), CONFIDENCE)
    return Estimate(
        mean=mean, standard_error=error, low=mean - half, high=mean + half, num_seeds=num_seeds
    )


def difference(first: Sample, second: Sample, level: float = CONFIDENCE) -> Difference:
    """Mean of `first` minus mean of `second` with Welch's interval at `level`.

    The seeds of two cells are taken as independent. Where a seed fixes the data of both cells
    the pairs are positively correlated at most, and the interval is too wide rather than too
    narrow.

    Raises:
        ValueError: a sample of fewer than two seeds.
    """
    if min(len(first.values), len(second.values)) < 2:
        raise ValueError(f"{first.name} and {second.name} need two seeds each")
    parts = [_squared_error(s.values, s.item_errors) for s in (first, second)]
    freedoms = [len(s.values) - 1 for s in (first, second)]
    gap = math.fsum(first.values) / len(first.values) - math.fsum(second.values) / len(
        second.values
    )
    total = sum(parts)
    if total > 0:
        below = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
        # Variances near the smallest float square to 0; the smaller freedom is the safe bound.
        freedom = total**2 / below if below > 0 else float(min(freedoms))
        p_value = 2 * float(stdtr(freedom, -abs(gap) / math.sqrt(total)))
    else:
        freedom, p_value = float(min(freedoms)), float(gap == 0)
    half = math.sqrt(total) * _quantile(freedom, level)
    return Difference(
        first=first.name,
        second=second.name,
        difference=gap,
        standard_error=math.sqrt(total),
        degrees_of_freedom=freedom,
        p_value=p_value,
        low=gap - half,
        high=gap + half,
        level=level,
    )


def slope(points: Sequence[tuple[float, float]]) -> Slope | None:
    """Least-squares slope of y against x, with Student's 95% interval.

    One point is one trained run (cell and seed): checkpoints or items of one run are no
    independent evidence and must not enter apart. The interval takes the scatter around the line,
    which holds the spread between seeds and any bend, as the error.

    None for fewer than three points or one value of x.
    """
    count = len(points)
    if count < 3:
        return None
    mean_x = math.fsum(x for x, _ in points) / count
    mean_y = math.fsum(y for _, y in points) / count
    width = math.fsum((x - mean_x) ** 2 for x, _ in points)
    if width == 0:
        return None
    rise = math.fsum((x - mean_x) * (y - mean_y) for x, y in points) / width
    scatter = math.fsum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in points)
    error = math.sqrt(scatter / (count - 2) / width)
    half = error * _quantile(float(count - 2), CONFIDENCE)
    return Slope(
        slope=rise, standard_error=error, low=rise - half, high=rise + half, num_points=count
    )


def spearman(points: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation, -1 to 1; ties share their mean rank.

    None for fewer than three points, or where x or y has one value only.
    """
    if len(points) < 3:
        return None
    ranks_x = _ranks([x for x, _ in points])
    ranks_y = _ranks([y for _, y in points])
    middle = (len(points) + 1) / 2
    products = [(x - middle) * (y - middle) for x, y in zip(ranks_x, ranks_y, strict=True)]
    spread_x = math.fsum((x - middle) ** 2 for x in ranks_x)
    spread_y = math.fsum((y - middle) ** 2 for y in ranks_y)
    if spread_x == 0 or spread_y == 0:
        return None
    return math.fsum(products) / math.sqrt(spread_x * spread_y)


def holm(p_values: Sequence[float], alpha: float) -> tuple[tuple[bool, ...], tuple[float, ...]]:
    """Holm's rejections, and for each claim the share of `alpha` at which it was tested.

    Claims are taken from the smallest p-value on; the i-th of m is tested at alpha / (m - i + 1)
    and the first that fails ends the rejections.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    rejected, shares = [False] * len(p_values), [alpha] * len(p_values)
    going = True
    for rank, index in enumerate(order):
        shares[index] = alpha / (len(p_values) - rank)
        going = going and p_values[index] < shares[index]
        rejected[index] = going
    return tuple(rejected), tuple(shares)


def verdict(samples: Sequence[Sample], *, better: Better) -> Verdict:
    """Which density of a matched family is best, if that can be told.

    The rule. Cells are ordered by density; all have equal active parameters and tokens, final
    checkpoints only. The claims are: the two ends differ (two-sided Welch); and, for each inner
    cell, it beats both ends (the larger of its two p-values). Together they may be wrong in 5% of
    studies of pure noise, by Holm's correction.

    - "an inner density is best": an inner cell's claim holds; of several, the best mean is named.
    - "sparsest is best": the ends differ, the sparsest has the better mean, and no inner cell is
      better than it by an uncorrected 95% interval (uncorrected, since this can only silence).
    - "denser is best": the same with the densest.
    - "not distinguishable": everything else, and always where an end has fewer than MIN_SEEDS
      seeds. With one seed the spread between seeds is unknown, and the standard error over items
      is only its smaller part. Inner cells with fewer seeds make no claim.

    The cells that are not told apart from the best are listed: "best" includes them.
    """
    ordered = sorted(samples, key=lambda sample: (sample.density, sample.name))
    silent = _too_little(ordered)
    if silent is not None:
        return _undecided(silent)
    sparsest, densest = ordered[0], ordered[-1]
    inner = [s for s in ordered[1:-1] if len(s.values) >= MIN_SEEDS]
    ends, ends_differ, peaks = _test_claims(sparsest, densest, inner, better)
    if peaks:
        best = max(peaks, key=lambda cell: _signed_mean(cell, better))
        reason = f"{best.name} is better than both {sparsest.name} and {densest.name}"
        return _claim("an inner density is best", best, [*inner, sparsest, densest], ends, reason)
    if not ends_differ:
        reason = (
            f"{sparsest.name} and {densest.name} differ by no more than chance allows, "
            "and no cell between is surely better than both"
        )
        return _undecided(reason, ends)
    sparse_wins = _gain(ends, better) > 0
    best, worst = (sparsest, densest) if sparse_wins else (densest, sparsest)
    above = [cell for cell in inner if _beats(cell, best, better)]
    if above:
        reason = (
            f"{best.name} is better than {worst.name}, but {above[0].name} is better still, "
            "not surely enough to name it"
        )
        return _undecided(reason, ends)
    kind: VerdictKind = "sparsest is best" if sparse_wins else "denser is best"
    reason = f"{best.name} is better than {worst.name} and no cell between is better than it"
    return _claim(kind, best, [*inner, worst], ends, reason)


def _test_claims(
    sparsest: Sample, densest: Sample, inner: Sequence[Sample], better: Better
) -> tuple[Difference, bool, list[Sample]]:
    """The ends' corrected difference, whether it holds, and the inner cells that beat both ends."""
    p_values = [difference(sparsest, densest).p_value]
    for cell in inner:
        tests = [difference(cell, end) for end in (sparsest, densest)]
        wins = all(_gain(test, better) > 0 for test in tests)
        p_values.append(max(test.p_value for test in tests) if wins else 1.0)
    rejected, shares = holm(p_values, 1 - CONFIDENCE)
    ends = difference(sparsest, densest, 1 - shares[0])
    peaks = [cell for cell, holds in zip(inner, rejected[1:], strict=True) if holds]
    return ends, rejected[0], peaks


def _too_little(ordered: Sequence[Sample]) -> str | None:
    """Why nothing can be claimed of these samples, or None."""
    if len(ordered) < 2 or ordered[0].density == ordered[-1].density:
        return "fewer than two densities of matched active parameters were measured"
    seeds = [len(sample.values) for sample in ordered]
    if max(seeds) == 1:
        return "one seed, spread between seeds unknown"
    for end in (ordered[0], ordered[-1]):
        if len(end.values) < MIN_SEEDS:
            return f"{end.name} has {len(end.values)} of the {MIN_SEEDS} seeds that a claim needs"
    return None


def _undecided(reason: str, ends: Difference | None = None) -> Verdict:
    return Verdict(
        kind="not distinguishable", best=None, level_with_best=(), ends=ends, reason=reason
    )


def _claim(
    kind: VerdictKind, best: Sample, others: Sequence[Sample], ends: Difference, reason: str
) -> Verdict:
    level = [
        cell.name
        for cell in others
        if cell.name != best.name and not difference(best, cell).excludes_zero
    ]
    return Verdict(
        kind=kind, best=best.name, level_with_best=tuple(level), ends=ends, reason=reason
    )


def _beats(cell: Sample, other: Sample, better: Better) -> bool:
    """Whether `cell` is better than `other` by an uncorrected interval."""
    test = difference(cell, other)
    return test.excludes_zero and _gain(test, better) > 0


def _gain(test: Difference, better: Better) -> float:
    """The difference counted so that above 0 is better for the first cell."""
    return test.difference if better == "higher" else -test.difference


def _signed_mean(sample: Sample, better: Better) -> float:
    mean = math.fsum(sample.values) / len(sample.values)
    return mean if better == "higher" else -mean


def _squared_error(values: Sequence[float], item_errors: Sequence[float]) -> float:
    """Squared standard error of the mean: from the spread between seeds, or the items' if larger."""
    count = len(values)
    mean = math.fsum(values) / count
    between = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    within = math.fsum(error**2 for error in item_errors) / len(item_errors) if item_errors else 0.0
    return max(between, within) / count


def _quantile(degrees_of_freedom: float, level: float) -> float:
    """Half-width, in standard errors, of Student's two-sided interval."""
    return float(stdtrit(degrees_of_freedom, (1 + level) / 2))


def _ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value from 1; equal values share their mean rank."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]
