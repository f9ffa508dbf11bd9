"""Uncertainty over seeds: means, differences, trends, and several claims at once.

Words in this file:
    sample   the scores of one cell, one value a seed
    spread   between seeds: what another run of the same cell would give
    items    the questions (or validation sequences) asked, the same for all seeds and cells

Two uncertainties are kept apart. A mean alone (`estimate`) carries both parts: the spread, which
shrinks with more seeds, and the scatter of the items, which does not, as every seed answers the
same ones. A difference or a trend (`difference`, `trend`) is about cells that share the items, so
what the items have in common cancels; it speaks of this one draw of items.

Sources: unequal variances, Welch 1947 (Biometrika 34, 28), for a contrast of several means with
Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 110, 1946); several claims at once,
Holm 1979 (Scandinavian Journal of Statistics 6, 65).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtr, stdtrit

Better = Literal["higher", "lower"]
CONFIDENCE = 0.95
"""Level of every interval, and of the whole set of claims about one task and metric."""

MIN_SEEDS = 3
"""Seeds a cell needs before anything is claimed of it. Skills come in sudden steps, so a score can
have two modes; both seeds of two ends then fall apart by chance in 2 of 16 studies of pure noise,
three seeds in 2 of 64. Simulated in the tests: at most 4% false claims with three seeds."""

KNOWN = 1e6
"""Degrees of freedom that stand for an error known well, as that over hundreds of items."""


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
    """Standard error of each score over its items, in the same order; () if unknown."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return math.fsum(self.values) / len(self.values)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with its 95% interval, for seeds and items together."""

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
class Trend:
    """Change of the mean with each doubling of E/k, over all densities of a family."""

    slope: float
    standard_error: float
    degrees_of_freedom: float
    p_value: float
    """Two-sided, of the straight contrast."""
    carried_by: str | None
    """A cell without which the others show no sure trend of this sign; None if no cell is needed.
    A trend that one cell carries is never claimed: see `trend`."""

    def interval(self, level: float = CONFIDENCE) -> tuple[float, float]:
        """Low and high end of the interval at `level`."""
        half = self.standard_error * _quantile(self.degrees_of_freedom, level)
        return self.slope - half, self.slope + half


def estimate(values: Sequence[float], item_errors: Sequence[float] = ()) -> Estimate:
    """Mean over seeds with standard error and 95% interval.

    The squared error is the spread / seeds, plus that over the items, which is not divided: all
    seeds answer the same items. Without item errors the interval is Student's.

    Raises:
        ValueError: no values; an average over nothing is not a number.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    mean, num_seeds = math.fsum(values) / len(values), len(values)
    if num_seeds == 1:
        return Estimate(mean=mean, standard_error=None, low=None, high=None, num_seeds=1)
    seeds, items = _spread(values) / num_seeds, _mean_square(item_errors)
    error = math.sqrt(seeds + items)
    freedom = _freedom([(seeds, num_seeds - 1.0), (items, KNOWN)])
    half = error * _quantile(freedom, CONFIDENCE)
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
    gap = first.mean - second.mean
    error, freedom, p_value = _contrast([(1.0, first), (-1.0, second)])
    half = error * _quantile(freedom, level)
    return Difference(
        first=first.name,
        second=second.name,
        difference=gap,
        standard_error=error,
        degrees_of_freedom=freedom,
        p_value=p_value,
        low=gap - half,
        high=gap + half,
        level=level,
    )


def trend(samples: Sequence[Sample]) -> Trend | None:
    """The straight line through the cells' means against log2(E/k), as a contrast of means.

    Each cell's own spread enters, with Satterthwaite's degrees of freedom: no equal spread is
    assumed, which a pooled least-squares fit would. The seeds of one cell can all fall on one side
    of a sudden step and look sure (1 in 4 with three seeds); if that cell has most of the spread,
    the contrast alone is wrong in up to 25% of studies of no trend. So the trend must also be
    there, by an uncorrected 95% interval, when any one cell is left out; `carried_by` names a cell
    that fails this.

    None for fewer than three densities or a cell of fewer than MIN_SEEDS seeds.
    """
    if len({s.density for s in samples}) < 3 or min(len(s.values) for s in samples) < MIN_SEEDS:
        return None
    slope, error, freedom, p_value = _line(samples)
    carried_by = None
    for left_out in samples:
        rest = [s for s in samples if s is not left_out]
        rest_slope, _, _, rest_p = _line(rest)
        if rest_p >= 1 - CONFIDENCE or rest_slope * slope <= 0:
            carried_by = carried_by or left_out.name
    return Trend(
        slope=slope,
        standard_error=error,
        degrees_of_freedom=freedom,
        p_value=p_value,
        carried_by=carried_by,
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
    and the first that fails ends the rejections. The claims after it keep its share, so that an
    interval at 1 - share excludes 0 exactly where the claim is rejected.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    rejected, shares = [False] * len(p_values), [alpha] * len(p_values)
    going, share = True, alpha
    for rank, index in enumerate(order):
        share = alpha / (len(p_values) - rank) if going else share
        shares[index] = share
        going = going and p_values[index] < share
        rejected[index] = going
    return tuple(rejected), tuple(shares)


def _line(samples: Sequence[Sample]) -> tuple[float, float, float, float]:
    """Slope of the means over log2(E/k), standard error, degrees of freedom, two-sided p-value."""
    places = [-math.log2(s.density) for s in samples]
    middle = math.fsum(places) / len(places)
    width = math.fsum((x - middle) ** 2 for x in places)
    weights = [(x - middle) / width for x in places]
    # Weights sum to 0; taking one mean off all keeps equal means at a slope of exactly 0.
    base = samples[0].mean
    slope = math.fsum(w * (s.mean - base) for w, s in zip(weights, samples, strict=True))
    error, freedom, p_value = _contrast(list(zip(weights, samples, strict=True)))
    return slope, error, freedom, p_value


def _contrast(terms: Sequence[tuple[float, Sample]]) -> tuple[float, float, float]:
    """Standard error, degrees of freedom and p-value of a weighted sum of means; weights sum to 0.

    The variance of one run is never taken as smaller than that over its items: three seeds may
    agree by rounding. It is divided by the seeds here: what of it is common to all runs cancels in
    the contrast, and the rest, each run's own luck with the items, is independent between runs.
    """
    short = [s.name for _, s in terms if len(s.values) < 2]
    if short:
        raise ValueError(f"{', '.join(short)}: a difference needs two seeds of each cell")
    parts = []
    for weight, sample in terms:
        variance = max(_spread(sample.values), _mean_square(sample.item_errors))
        parts.append((weight**2 * variance / len(sample.values), len(sample.values) - 1.0))
    base = terms[0][1].mean
    value = math.fsum(weight * (sample.mean - base) for weight, sample in terms)
    error, freedom = math.sqrt(math.fsum(part for part, _ in parts)), _freedom(parts)
    if error == 0:
        return error, freedom, float(value == 0)
    return error, freedom, 2 * float(stdtr(freedom, -abs(value) / error))


def _freedom(parts: Sequence[tuple[float, float]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances, each with its own."""
    total = math.fsum(part for part, _ in parts)
    below = math.fsum(part**2 / freedom for part, freedom in parts)
    # Variances near the smallest float square to 0; the smallest freedom is the safe bound.
    return total**2 / below if below > 0 else min(freedom for _, freedom in parts)


def _spread(values: Sequence[float]) -> float:
    """Variance between seeds."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _mean_square(errors: Sequence[float]) -> float:
    """Squared standard error over the items of one run; 0 if unknown."""
    return math.fsum(error**2 for error in errors) / len(errors) if errors else 0.0


def _quantile(degrees_of_freedom: float, level: float) -> float:
    """Half-width, in standard errors, of Student's two-sided interval."""
    return float(stdtrit(degrees_of_freedom, (1 + level) / 2))


def _ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value from 1; equal values share their mean rank."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]
