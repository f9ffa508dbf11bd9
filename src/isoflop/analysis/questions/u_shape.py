"""Is a U-shape real? Rise and fall each tested, against saturation, with the power to see it.

A curve that levels off looks like an inverted U to a parabola. So a claim needs two lines: one
surely rising up to a cell, one surely falling from it. Both have their own test, the larger
p-value counts, and all inner cells may be the turning point (Bonferroni). Skills come in sudden
steps, and the few seeds of one cell can all fall on one side of one; so each line must also be
there, by a weaker test, when any one of its cells is left out.

If the truth only rises or levels off, a fall was claimed in at most 3.8% of simulated studies whose
seeds scatter normally or fall on either side of a step alike. It is no bound for every scatter: where
the one or two sparsest of 6, 8 or 10 cells take a step of 8 standard deviations in 3 seeds of 10, it
was 2 to 11% (benchmarks/u_shape_rates.py). A mean pulled down by the seeds that did not step looks so.

Shapes in this file:
    studies   whole data sets, e.g. those simulated for the power
    cells     settings along the line, in its order

Sources: two lines, Simonsohn 2018 (Advances in Methods and Practices in Psychological Science 1,
538); unequal spreads by Welch and Satterthwaite, as in `statistics`; a claim of several parts takes
the largest p-value, Berger 1982.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr

from isoflop.analysis.questions.optimum import pooled_variance
from isoflop.analysis.statistics import CONFIDENCE, MIN_SEEDS, Better, Sample

SIDE = 2
"""Cells on each side of a turning point: one alone could carry its line."""

LEFT_OUT_LEVEL = 0.2
"""One-sided level at which a line must be there without any one cell. At 5% false claims were at most
0.8% and a fall of 4 standard deviations was seen in 32% of studies; at 20% they are at most 3.7% and 78%
(benchmarks/u_shape_rates.py)."""

MIN_CELLS = 2 * SIDE + 1

TINY = 1e-18
"""Variance that stands for none."""

POWER_STUDIES = 2000
POWER_WANTED = 0.8
POWER_STEPS = tuple(0.5 * step for step in range(1, 21))
"""Falls that are simulated, in standard deviations between seeds."""
POWER_SEED = 7

Rows = Float[np.ndarray, "studies cells"]


@dataclass(frozen=True, kw_only=True)
class UShape:
    """Whether a figure gets better and then worse along a line of settings."""

    p_value: float | None
    """Of rise and fall together, corrected for the choice of the turning point; None: not tested."""
    turning_cell: str | None
    """Where the two lines meet, if tested."""
    rise: float | None
    """Change from the first cell to the turning cell along its line, counted so that up is better."""
    fall: float | None
    """Change from the turning cell to the last along its line; below 0 is worse."""
    seeds_inside: int | None
    """Seeds whose own best cell lies inside, of those measured in every cell."""
    num_common_seeds: int
    saturation_advantage: float | None
    """AIC of the parabola less that of the saturating curve on the means: above 0 saturation
    explains them better; 2 to 4 is weak, 10 strong."""
    detectable_fall: float | None
    """Fall from the turning point to the end that this design finds in 80% of studies, in the
    figure's own unit; None where even 10 standard deviations are not enough, or not tested."""
    reason: str | None
    """Why it was not tested."""

    @property
    def is_real(self) -> bool:
        """Whether a U-shape is claimed at 95%."""
        return self.p_value is not None and self.p_value < 1 - CONFIDENCE

    @property
    def kind(self) -> str:
        """The answer in words."""
        if self.p_value is None:
            return "not tested"
        return "inverted U" if self.is_real else "no U-shape shown"


def u_shape(samples: Sequence[Sample], places: Sequence[float], *, better: Better) -> UShape:
    """Test whether the figure of `samples` rises and then falls along `places` (above 0).

    Args:
        samples: One a setting, each with its seeds.
        places: Where each setting lies, e.g. E/k; taken by their logarithm.
        better: Which way of the figure is up.
    """
    order = np.argsort(places, kind="stable")
    ordered = [samples[int(i)] for i in order]
    x = np.log2(np.array([places[int(i)] for i in order]))
    sign = 1.0 if better == "higher" else -1.0
    reason = _reason(ordered, x)
    inside, common = _seeds_inside(ordered, sign)
    if reason is not None:
        return UShape(
            p_value=None,
            turning_cell=None,
            rise=None,
            fall=None,
            seeds_inside=inside,
            num_common_seeds=common,
            saturation_advantage=None,
            detectable_fall=None,
            reason=reason,
        )
    means = sign * np.array([[s.mean for s in ordered]])
    variances = np.array([[_variance(s) for s in ordered]])
    counts = np.array([len(s.values) for s in ordered], dtype=float)
    p_values, turns = two_lines(means, variances / counts, counts - 1, x)
    turn = int(turns[0])
    left, right = slice(0, turn + 1), slice(turn, len(x))
    return UShape(
        p_value=float(p_values[0]),
        turning_cell=ordered[turn].name,
        rise=_along(means[0, left], x[left]),
        fall=_along(means[0, right], x[right]),
        seeds_inside=inside,
        num_common_seeds=common,
        saturation_advantage=saturation_advantage(means[0], x, ordered),
        detectable_fall=detectable_fall(ordered, x),
        reason=None,
    )


def two_lines(
    means: Rows, errors: Rows, freedoms: Float[np.ndarray, " cells"], x: Float[np.ndarray, " cells"]
) -> tuple[Float[np.ndarray, " studies"], np.ndarray]:
    """P-value of rise and fall for each study, and the cell where they meet.

    Args:
        means: Mean of each cell, counted so that up is better.
        errors: Squared standard error of each mean.
        freedoms: Degrees of freedom of each.
        x: Places of the cells, ascending.
    """
    number = means.shape[1]
    turns = range(SIDE, number - SIDE)
    found = []
    for turn in turns:
        left, right = slice(0, turn + 1), slice(turn, number)
        rise = _line_p(means[:, left], errors[:, left], freedoms[left], x[left], len(turns))
        fall = _line_p(-means[:, right], errors[:, right], freedoms[right], x[right], len(turns))
        found.append(np.maximum(rise, fall))
    each = np.stack(found)
    return np.minimum(each.min(axis=0), 1.0), each.argmin(axis=0) + SIDE


def _line_p(
    means: Rows,
    errors: Rows,
    freedoms: Float[np.ndarray, " cells"],
    x: Float[np.ndarray, " cells"],
    turns: int,
) -> Float[np.ndarray, " studies"]:
    """P-value that a line rises: of all its cells, corrected for the number of turning points, and
    of all but any one, scaled so that the level of those tests counts as the claim's."""
    found = _slope_p(means, errors, freedoms, x) * turns
    for out in range(len(x)):
        rest = np.arange(len(x)) != out
        without = _slope_p(means[:, rest], errors[:, rest], freedoms[rest], x[rest])
        found = np.maximum(found, without * (1 - CONFIDENCE) / LEFT_OUT_LEVEL)
    return found


def _slope_p(
    means: Rows, errors: Rows, freedoms: Float[np.ndarray, " cells"], x: Float[np.ndarray, " cells"]
) -> Float[np.ndarray, " studies"]:
    """One-sided p-value that the straight contrast of these means rises."""
    centred = x - x.mean()
    weights = centred / (centred**2).sum()
    slopes = means @ weights
    parts = errors * weights**2
    total = parts.sum(axis=1)
    below = (parts**2 / freedoms).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(total > 0, slopes / np.sqrt(total), np.where(slopes > 0, np.inf, 0.0))
        freedom = np.where(below > 0, total**2 / below, freedoms.min())
    found: Float[np.ndarray, " studies"] = stdtr(freedom, -t)
    return found


def saturation_advantage(
    means: Float[np.ndarray, " cells"], x: Float[np.ndarray, " cells"], samples: Sequence[Sample]
) -> float:
    """AIC of the parabola less that of a curve that only levels off, both of three coefficients.

    The saturating curve is a + b (1 - exp(-c (x - x0))) from the first cell on, c of either sign:
    it never turns. Errors are the pooled spread of seeds.
    """
    variance, _ = pooled_variance(samples)
    errors = np.sqrt(max(variance, TINY) / np.array([len(s.values) for s in samples]))
    square = np.polyfit(x - x.mean(), means, 2, w=1 / errors)
    parabola = (((np.polyval(square, x - x.mean()) - means) / errors) ** 2).sum()
    span = np.ptp(x)
    best = math.inf
    for rate in np.concatenate([np.geomspace(0.05, 60, 80), -np.geomspace(0.05, 60, 80)]) / span:
        curve = -np.expm1(-rate * (x - x[0]))
        design = np.stack([np.ones_like(x), curve], axis=1) / errors[:, None]
        _, rest, _, _ = np.linalg.lstsq(design, means / errors, rcond=None)
        best = min(best, float(rest[0]) if rest.size else math.inf)
    return float(parabola - best)


def detectable_fall(samples: Sequence[Sample], x: Float[np.ndarray, " cells"]) -> float | None:
    """The least fall, from a turning point in the middle to the end, that is found in 80%."""
    variance, _ = pooled_variance(samples)
    if variance <= 0:
        return 0.0
    counts = [len(s.values) for s in samples]
    for step in POWER_STEPS:
        if power(x, counts, fall=step) >= POWER_WANTED:
            return step * math.sqrt(variance)
    return None


def power(
    x: Float[np.ndarray, " cells"],
    counts: Sequence[int],
    *,
    fall: float,
    rise: float = 20.0,
    studies: int = POWER_STUDIES,
    seed: int = POWER_SEED,
) -> float:
    """Share of studies in which a fall of this size is claimed; 0 gives the rate of false claims.

    Args:
        x: Places of the cells.
        counts: Seeds of each.
        fall: From the middle cell to the last, in standard deviations between seeds.
        rise: From the first to the middle cell; large by default, which is the hardest null.
    """
    generator = np.random.default_rng(seed)
    middle = len(x) // 2
    truth = np.where(
        np.arange(len(x)) <= middle,
        rise * (x - x[0]) / (x[middle] - x[0]),
        rise - fall * (x - x[middle]) / (x[-1] - x[middle]),
    )
    numbers = np.array(counts, dtype=float)
    means = truth + generator.normal(size=(studies, len(x))) / np.sqrt(numbers)
    freedoms = numbers - 1
    variances = generator.chisquare(freedoms, size=(studies, len(x))) / freedoms
    p_values, _ = two_lines(means, variances / numbers, freedoms, x)
    return float((p_values < 1 - CONFIDENCE).mean())


def _reason(samples: Sequence[Sample], x: Float[np.ndarray, " cells"]) -> str | None:
    if len(np.unique(x)) < len(x):
        return "two cells lie at the same place"
    if len(samples) < MIN_CELLS:
        return f"{len(samples)} settings: two lines need at least {MIN_CELLS}"
    least = min(samples, key=lambda s: len(s.values))
    if len(least.values) < MIN_SEEDS:
        return f"{least.name} has {len(least.values)} of the {MIN_SEEDS} seeds that a claim needs"
    return None


def _variance(sample: Sample) -> float:
    """Between seeds, never below that over the questions: seeds may agree by rounding."""
    seeds = sum((v - sample.mean) ** 2 for v in sample.values) / (len(sample.values) - 1)
    errors = sample.item_errors
    return max(seeds, sum(e**2 for e in errors) / len(errors) if errors else 0.0)


def _along(means: Float[np.ndarray, " cells"], x: Float[np.ndarray, " cells"]) -> float:
    slope = float(np.polyfit(x, means, 1)[0])
    return slope * float(x[-1] - x[0])


def _seeds_inside(samples: Sequence[Sample], sign: float) -> tuple[int | None, int]:
    """How many seeds peak inside; None where cells have different numbers of seeds or none."""
    counts = {len(s.values) for s in samples}
    if len(counts) != 1 or len(samples) < 3:
        return None, 0
    values = sign * np.array([s.values for s in samples])
    peaks = values.argmax(axis=0)
    inside = (peaks > 0) & (peaks < len(samples) - 1)
    return int(inside.sum()), values.shape[1]
