"""Does the law reach beyond its points? The largest budget is left out and predicted.

A budget is a group of runs whose training FLOPs lie within a tenth of each other.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from isoflop.analysis.fits.bootstrap import bootstrap, num_coefficients, widened_levels
from isoflop.analysis.fits.points import SPARE_DESIGNS, Points
from isoflop.analysis.fits.projection import Problem, Solution
from isoflop.analysis.fits.starts import search, spread_starts

BUDGET_GAP = 1.1
"""FLOPs further apart than this factor are another budget. Chosen, as MAX_FLOPS_DIFFERENCE."""

REPLICATES = 200
"""Of the bootstrap behind the prediction's interval."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How the law, fitted without the largest budget, predicts it."""

    flops: float
    """Mean training FLOPs of what was left out."""
    factor: float
    """How many times the next budget it is."""
    num_points: int
    mean_error: float | None
    """Mean of predicted less measured on the law's scale: a share of the loss where that is a
    logarithm. None where it could not be done."""
    worst_error: float | None
    share_inside: float | None
    """Share of the points inside their 95% prediction interval."""
    inside_expected: float = 0.95
    reason: str | None = None
    """Why it could not be done."""


def budgets(flops: Float[np.ndarray, " points"]) -> Int[np.ndarray, " points"]:
    """Number of the budget of each point, 0 for the smallest."""
    order = np.argsort(flops, kind="stable")
    ratios = flops[order][1:] / flops[order][:-1]
    steps = np.concatenate([[0], np.cumsum(ratios > BUDGET_GAP)])
    found = np.zeros(len(flops), dtype=int)
    found[order] = steps
    return found


def leave_largest_out(points: Points, *, huber: float, seed: int) -> HeldOut:
    """Fit without the largest budget and predict it."""
    group = budgets(points.flops)
    out = group == group.max()
    rest = points.where(~out)
    flops = float(points.flops[out].mean())
    if group.max() == 0 or rest.num_designs < num_coefficients(points) + SPARE_DESIGNS:
        reason = (
            "all runs have one budget"
            if group.max() == 0
            else f"without the largest budget {rest.num_designs} settings remain, too few to fit"
        )
        return HeldOut(
            flops=flops,
            factor=1.0,
            num_points=int(out.sum()),
            mean_error=None,
            worst_error=None,
            share_inside=None,
            reason=reason,
        )
    fitted = best_fit(rest, huber=huber)
    drawn = bootstrap(rest, fitted, replicates=REPLICATES, seed=seed, huber=huber)
    left = points.where(out)
    measured = points.law.to_scale(left.response)
    predicted = _predict(left, fitted)[0]
    generator = np.random.default_rng(seed + 1)
    noise = generator.choice(fitted.residuals[0], size=(REPLICATES, len(left)))
    spread = _predict(left, drawn) + noise * np.sqrt(
        len(rest) / max(len(rest) - num_coefficients(points), 1)
    )
    low, high = np.quantile(
        spread, widened_levels(rest.num_clusters - num_coefficients(points)), axis=0
    )
    errors = predicted - measured
    next_flops = float(points.flops[group == group.max() - 1].mean())
    return HeldOut(
        flops=flops,
        factor=flops / next_flops,
        num_points=len(left),
        mean_error=float(errors.mean()),
        worst_error=float(errors[np.abs(errors).argmax()]),
        share_inside=float(((low <= measured) & (measured <= high)).mean()),
    )


def best_fit(points: Points, *, huber: float, starts: int | None = None, keep: int = 8) -> Solution:
    """The best fit of the points from many starts."""
    law = points.law
    number = starts or 48 * len(law.exponents)
    problem = Problem(
        law=law,
        inputs=points.inputs,
        measured=law.to_scale(points.response)[None, :],
        weights=np.ones((1, len(points))),
        huber=huber,
    )
    more = tuple(law.to_linear(known.values) for known in law.published.values())
    return search(problem, spread_starts(law, number, more), keep=keep)


def _predict(points: Points, solution: Solution) -> Float[np.ndarray, "fits points"]:
    law = points.law
    basis = law.basis(points.inputs, solution.exponents)
    found: Float[np.ndarray, "fits points"] = np.nan_to_num(
        law.on_scale(basis, solution.coefficients, solution.exponents), neginf=-50.0
    )
    return found
