"""Where on a line of settings a figure is best, with an interval: optimal density, optimal TPP.

Each cell's mean over seeds has an error; means are drawn anew within their errors many times, and
every draw has a best cell and a best place on a parabola through the cells. The interval of the
place holds 95% of the draws. The parabola is a description of where the best lies, not a law; the
best cell, which assumes no shape, stands beside it.

Shapes in this file:
    draws   draws of all means
    cells   settings along the line
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from isoflop.analysis.statistics import MIN_SEEDS, Better, Sample

DRAWS = 4000
SEED = 20250826
"""Of the draws: fixed, so that a report of the same rows has the same bytes."""


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best place on one line of settings."""

    best_cell: str
    """Cell of the best mean."""
    best_cell_share: float | None
    """Share of the draws in which that cell is best; None: no errors are known."""
    could_be_best: tuple[str, ...]
    """Cells that together are best in at least 95% of the draws, the likeliest first."""
    place: float | None
    """Best place by the parabola, in the units of the line (density, TPP); within the range."""
    low: float | None
    high: float | None
    share_at_ends: float | None
    """Share of the draws whose best place is an end of the range: near 1, the optimum lies beyond
    or at the end and its place is not known."""
    num_cells: int
    num_seeds: int
    """Least number of seeds of a cell."""
    reason: str | None
    """What is missing; None where there is an interval."""


def optimum(
    samples: Sequence[Sample], places: Sequence[float], *, better: Better, seed: int = SEED
) -> Optimum:
    """The best place among `places`, all above 0; they are taken by their logarithm.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("an optimum needs at least one cell")
    sign = 1.0 if better == "higher" else -1.0
    means = sign * np.array([s.mean for s in samples])
    best = int(means.argmax())
    num_seeds = min(len(s.values) for s in samples)
    reason = _reason(samples, num_seeds)
    if reason is not None:
        return Optimum(
            best_cell=samples[best].name,
            best_cell_share=None,
            could_be_best=(),
            place=None,
            low=None,
            high=None,
            share_at_ends=None,
            num_cells=len(samples),
            num_seeds=num_seeds,
            reason=reason,
        )
    drawn = _drawn_means(samples, means, seed)
    shares = np.bincount(drawn.argmax(axis=1), minlength=len(samples)) / len(drawn)
    logs = np.log(np.array(places))
    tops = _tops(drawn, logs)
    ends = np.isclose(tops, logs.min()) | np.isclose(tops, logs.max())
    low, high = np.quantile(tops, [0.025, 0.975])
    return Optimum(
        best_cell=samples[best].name,
        best_cell_share=float(shares[best]),
        could_be_best=_likely(samples, shares),
        place=math.exp(float(_tops(means[None, :], logs)[0])),
        low=math.exp(low),
        high=math.exp(high),
        share_at_ends=float(ends.mean()),
        num_cells=len(samples),
        num_seeds=num_seeds,
        reason=None,
    )


def _reason(samples: Sequence[Sample], num_seeds: int) -> str | None:
    if len(samples) < 3:
        return f"{len(samples)} settings: a best place between needs at least 3"
    if num_seeds < MIN_SEEDS:
        return f"{num_seeds} of the {MIN_SEEDS} seeds that an interval needs"
    return None


def pooled_variance(samples: Sequence[Sample]) -> tuple[float, int]:
    """Variance between seeds, one for all cells, and its degrees of freedom."""
    squares = sum(sum((v - s.mean) ** 2 for v in s.values) for s in samples)
    freedom = sum(len(s.values) - 1 for s in samples)
    items = max((e**2 for s in samples for e in s.item_errors), default=0.0)
    # Seeds that agree by rounding still answered few questions; see statistics.
    return max(float(squares / max(freedom, 1)), items / 100), freedom


def _drawn_means(
    samples: Sequence[Sample], means: Float[np.ndarray, " cells"], seed: int
) -> Float[np.ndarray, "draws cells"]:
    """Means within their errors: normal draws, the common variance drawn from its own error."""
    generator = np.random.default_rng(seed)
    variance, freedom = pooled_variance(samples)
    counts = np.array([len(s.values) for s in samples])
    scales = np.sqrt(variance * freedom / generator.chisquare(freedom, size=(DRAWS, 1)))
    normal = generator.normal(size=(DRAWS, len(samples)))
    found: Float[np.ndarray, "draws cells"] = means + scales * normal / np.sqrt(counts)
    return found


def _tops(
    drawn: Float[np.ndarray, "draws cells"], logs: Float[np.ndarray, " cells"]
) -> Float[np.ndarray, " draws"]:
    """Highest point of the least-squares parabola within the range, by the place's logarithm."""
    low, high, centre = logs.min(), logs.max(), logs.mean()
    x = logs - centre
    square, linear, constant = np.polyfit(x, drawn.T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(square < 0, -linear / (2 * square), np.nan)

    ends = np.array([[low - centre], [high - centre]])
    heights = square * ends**2 + linear * ends + constant
    at_ends = ends[heights.argmax(axis=0), 0]
    inside = (inner > low - centre) & (inner < high - centre)
    found: Float[np.ndarray, " draws"] = np.where(inside, inner, at_ends) + centre
    return found


def _likely(samples: Sequence[Sample], shares: Float[np.ndarray, " cells"]) -> tuple[str, ...]:
    order = np.argsort(-shares, kind="stable")
    needed = int(np.searchsorted(np.cumsum(shares[order]), 0.95)) + 1
    return tuple(samples[int(i)].name for i in order[:needed])
