"""Whether these points identify a coefficient at all: its profile.

The coefficient is held at values to both sides of its best, and all others are fitted anew. Where
the fit gets clearly worse on both sides the coefficient is identified; where it never does within
the range that is searched, these points do not tell it, however sharp the fit looks.

The profile is taken on means of designs, so that seeds of one cell do not count as several. Its
threshold is F's 95% point for one coefficient and the designs to spare.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import fdtri

from isoflop.analysis.fits.bootstrap import CONFIDENCE, num_coefficients
from isoflop.analysis.fits.points import Points
from isoflop.analysis.fits.projection import Held, Problem, Solution, solve

Status = Literal["identified", "weak", "not identified"]

VALUES = 28
"""Values on each side of the best."""

STRIDE = 4
"""Values that are fitted together on the way outwards."""

OUTSIDE = 4.0
"""A side of a profile ends where the rise is this many times the threshold. Chosen."""

TOLERANCE = 1e-5
"""Relative fall of the cost at which a point of the profile is done: far below its threshold."""

WEAK_FACTOR = 4.0
"""Ends of an interval further apart than this factor make a coefficient weak. Chosen."""

COEFFICIENT_RANGE = 1e3
"""A linear coefficient is followed from its best / this to its best x this."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What holding one coefficient costs."""

    name: str
    values: tuple[float, ...]
    excess: tuple[float, ...]
    """Rise of the fit's sum of squares in units of its error variance, at each value."""
    threshold: float
    """Rise at which a value is out of the 95% interval."""
    low: float | None
    """None: the interval has no lower end within the range searched."""
    high: float | None
    status: Status


def profiles(points: Points, best: Solution) -> tuple[Profile, ...]:
    """The profile of every coefficient of the law's linear form, linear ones first."""
    means, weights = _design_means(points)
    law = points.law
    problem = Problem(
        law=law,
        inputs=means.inputs,
        measured=law.to_scale(means.response)[None, :],
        weights=weights[None, :],
        huber=np.inf,
    )
    centre = solve(problem, best.exponents)
    freedom = max(len(means) - num_coefficients(points), 1)
    variance = max(2 * float(centre.cost[0]) / freedom, 1e-24)
    threshold = float(fdtri(1, freedom, CONFIDENCE))
    found = []
    for place, name in enumerate(law.coefficient_names):
        values = _values(points, centre, place)
        limit = float(centre.cost[0]) + OUTSIDE * threshold * variance / 2
        cost = _held_costs(problem, centre, place, values, limit)
        excess = 2 * (cost - float(centre.cost[0])) / variance
        found.append(_profile(name, values, excess, threshold, _best_value(centre, place)))
    return tuple(found)


def _design_means(points: Points) -> tuple[Points, Float[np.ndarray, " designs"]]:
    """One point a design, the mean on the law's scale; weights are the seeds behind it."""
    _, first, inverse, counts = np.unique(
        points.design, return_index=True, return_inverse=True, return_counts=True
    )
    scaled = points.law.to_scale(points.response)
    means = np.bincount(inverse.reshape(-1), weights=scaled) / counts
    one = points.where(np.isin(np.arange(len(points)), first))
    order = np.argsort(points.design[np.sort(first)])
    kept = Points(
        law=points.law,
        column=points.column,
        inputs={name: values[order] for name, values in one.inputs.items()},
        response=points.law.off_scale(means),
        cluster=one.cluster[order],
        design=one.design[order],
        flops=one.flops[order],
        names=tuple(one.names[int(i)] for i in order),
    )
    return kept, counts / counts.mean()


def _best_value(centre: Solution, place: int) -> float:
    terms = centre.coefficients.shape[1]
    if place < terms:
        return float(centre.coefficients[0, place])
    return float(centre.exponents[0, place - terms])


def _values(points: Points, centre: Solution, place: int) -> Float[np.ndarray, " values"]:
    """Values on both sides of the best, dense near it and out to the ends of the search."""
    best, terms = _best_value(centre, place), centre.coefficients.shape[1]
    steps = np.linspace(0, 1, VALUES + 1)[1:] ** 2.5
    if place >= terms:
        exponent = points.law.exponents[place - terms]
        # Near a bound the range on that side is short; the steps shrink with it.
        return np.concatenate(
            [best - (best - exponent.low) * steps[::-1], best + (exponent.high - best) * steps]
        )
    if points.law.terms[place].positive:
        reach = np.log(COEFFICIENT_RANGE) * steps
        found: Float[np.ndarray, " values"] = best * np.exp(np.concatenate([-reach[::-1], reach]))
        if best <= 0:
            scale = max(float(np.abs(centre.coefficients[0]).max()), 1e-12)
            found = scale * 10 ** np.linspace(-6, 1, 2 * VALUES)
        return found
    scale = max(abs(best), 1e-3)
    return best + 10 * scale * np.concatenate([-steps[::-1], steps])


def _held_costs(
    problem: Problem,
    centre: Solution,
    place: int,
    values: Float[np.ndarray, " values"],
    limit: float,
) -> Float[np.ndarray, " values"]:
    """Least cost with one coefficient at each value, the others free.

    Both sides are walked outwards, a few values at a time, each from where the last ones
    lead: a profile is smooth. A side ends where its costs lie above `limit`; beyond it
    they are inf.
    """
    best = _best_value(centre, place)
    costs = np.full(len(values), np.inf)
    for side in (np.flatnonzero(values < best)[::-1], np.flatnonzero(values >= best)):
        at, near = np.array([best]), centre.exponents
        for first in range(0, len(side), STRIDE):
            here = side[first : first + STRIDE]
            found = _held(problem, place, values[here], _ahead(at, near, values[here]))
            costs[here] = found.cost
            at = np.concatenate([at, values[here]])[-2:]
            near = np.concatenate([near, found.exponents])[-2:]
            if (found.cost[-2:] > limit).all():
                break
    return costs


def _ahead(
    at: Float[np.ndarray, " known"],
    near: Float[np.ndarray, "known exponents"],
    values: Float[np.ndarray, " values"],
) -> Float[np.ndarray, "values exponents"]:
    """Exponents to begin with at `values`: on the line through the last two solutions."""
    gap = at[-1] - at[0]
    slope = (near[-1] - near[0]) / gap if gap else np.zeros(near.shape[1])
    found: Float[np.ndarray, "values exponents"] = near[-1] + (values - at[-1])[:, None] * slope
    return found


def _held(
    problem: Problem,
    place: int,
    values: Float[np.ndarray, " values"],
    starts: Float[np.ndarray, "values exponents"],
) -> Solution:
    """The best fit with one coefficient at each of `values`, each from its own start."""
    terms, number = len(problem.law.terms), len(values)
    fixed = np.zeros(starts.shape[1], dtype=bool)
    held = Held(exponents=fixed, term=place, values=values)
    if place >= terms:
        fixed[place - terms] = True
        starts[:, place - terms] = values
        held = Held(exponents=fixed)
    return solve(problem.take(np.zeros(number, dtype=int)), starts, held, TOLERANCE)


def _profile(
    name: str,
    values: Float[np.ndarray, " values"],
    excess: Float[np.ndarray, " values"],
    threshold: float,
    best: float,
) -> Profile:
    below, above = values < best, values > best
    low = _crossing(values[below][::-1], excess[below][::-1], threshold, best)
    high = _crossing(values[above], excess[above], threshold, best)
    if low is None or high is None:
        status: Status = "not identified"
    else:
        ratio = max(abs(high), abs(low)) / max(min(abs(high), abs(low)), 1e-12)
        status = "weak" if low * high <= 0 or ratio > WEAK_FACTOR else "identified"
    return Profile(
        name=name,
        values=tuple(values.tolist()),
        excess=tuple(excess.tolist()),
        threshold=threshold,
        low=low,
        high=high,
        status=status,
    )


def _crossing(
    values: Float[np.ndarray, " side"],
    excess: Float[np.ndarray, " side"],
    threshold: float,
    best: float,
) -> float | None:
    """Where the rise, followed outwards from the best, first passes the threshold; None: never."""
    out = np.flatnonzero(excess > threshold)
    if not out.size:
        return None
    place = int(out[0])
    inner = 0.0 if place == 0 else float(excess[place - 1])
    before = best if place == 0 else float(values[place - 1])
    share = (threshold - inner) / max(float(excess[place]) - inner, 1e-300)
    return before + share * (float(values[place]) - before)
