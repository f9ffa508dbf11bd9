"""The IsoFLOP parabola (Chinchilla's approach 2) beside the default fit, with its own bias measured.

At each budget a parabola is drawn through loss against log N, its lowest point is the budget's best
N, and a line through the logarithms of these against log C gives N_opt = k C^a. A loss that is no
parabola puts the lowest point in the wrong place even without noise (arXiv:2603.22339). How far is
measured here on the same sizes and budgets: the parabola is drawn through the fitted law itself,
where the answer is known.

Shapes in this file:
    points    runs
    budgets   groups of runs of equal training FLOPs
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from isoflop.analysis.fits.fit import Fit, named_values
from isoflop.analysis.fits.heldout import budgets
from isoflop.analysis.fits.points import Points
from isoflop.analysis.laws.chinchilla import FLOPS_PER_PARAM_TOKEN, chinchilla_optimum

MIN_SIZES = 4
"""Sizes that a budget's parabola needs: three fit any three points."""

LARGER = 100.0
"""Best sizes are compared at the largest budget x this too, where a study wants its answer."""


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """The parabola of one budget."""

    flops: float
    optimum: float | None
    """Parameters at the lowest point; None where the parabola opens downwards or its lowest point
    lies outside the sizes that were run."""
    num_sizes: int


@dataclass(frozen=True, kw_only=True)
class ParabolaFit:
    """N_opt = k C^a by parabolas, and what the method does to a law that is known."""

    bowls: tuple[Bowl, ...]
    exponent: float | None
    """a; None for fewer than two budgets with a lowest point."""
    law_exponent: float | None
    """beta / (alpha + beta) of the default fit."""
    exponent_bias: float | None
    """a that parabolas give for the fitted law itself without noise, less the law's own."""
    size_bias: float | None
    """Best size at the largest budget by noise-free parabolas / the law's own best size, less 1."""
    size_bias_beyond: float | None
    """The same at 100 times the largest budget."""
    reason: str | None = None
    """Why there is no exponent."""


def parabola_fit(fit: Fit) -> ParabolaFit:
    """Parabolas beside a fit of the law "chinchilla".

    Raises:
        ValueError: the fit is of another law.
    """
    if fit.law != "chinchilla":
        raise ValueError(f"parabolas stand beside the law chinchilla, not {fit.law}")
    points = fit.points
    bowls = _bowls(points, points.response)
    exponent, _ = _line(bowls)
    law_values = {n: float(v[0]) for n, v in named_values(points.law, fit.best).items()}
    if exponent is None:
        return ParabolaFit(
            bowls=bowls,
            exponent=None,
            law_exponent=_law_exponent(law_values),
            exponent_bias=None,
            size_bias=None,
            size_bias_beyond=None,
            reason=(
                f"fewer than two budgets have {MIN_SIZES} sizes with a lowest loss between them"
            ),
        )
    exact = points.law.predict(points.inputs, law_values)
    clean_exponent, clean_line = _line(_bowls(points, exact))
    law_exponent = _law_exponent(law_values)
    known = clean_exponent is not None and law_exponent is not None and clean_line is not None
    largest = max(bowl.flops for bowl in bowls)
    return ParabolaFit(
        bowls=bowls,
        exponent=exponent,
        law_exponent=law_exponent,
        exponent_bias=clean_exponent - law_exponent
        if clean_exponent is not None and law_exponent is not None
        else None,
        size_bias=_size_bias(clean_line, largest, law_values) if known else None,
        size_bias_beyond=_size_bias(clean_line, LARGER * largest, law_values) if known else None,
    )


def _law_exponent(values: dict[str, float]) -> float | None:
    total = values["alpha"] + values["beta"]
    return values["beta"] / total if values["A"] > 0 and values["B"] > 0 else None


def _size_bias(
    line: tuple[float, float] | None, flops: float, values: dict[str, float]
) -> float | None:
    """Best size of the line / of the law, less 1. C is 6 N D in both."""
    if line is None:
        return None
    slope, intercept = line
    law = {name: value for name, value in values.items() if name != "E"}
    return (
        float(np.exp(slope * np.log(flops) + intercept))
        / chinchilla_optimum(flops, **law).parameters
        - 1
    )


def _bowls(points: Points, response: Float[np.ndarray, " points"]) -> tuple[Bowl, ...]:
    """The parabola of each budget, by 6 N D of its runs."""
    flops = FLOPS_PER_PARAM_TOKEN * points.inputs["N"] * points.inputs["D"]
    group = budgets(flops)
    found = []
    for number in range(int(group.max()) + 1):
        here = group == number
        sizes = np.log(points.inputs["N"][here])
        num_sizes = len(np.unique(sizes))
        if num_sizes >= MIN_SIZES:
            found.append(
                Bowl(
                    flops=float(np.exp(np.log(flops[here]).mean())),
                    optimum=_lowest(sizes, response[here]),
                    num_sizes=num_sizes,
                )
            )
    return tuple(found)


def _lowest(
    sizes: Float[np.ndarray, " points"], response: Float[np.ndarray, " points"]
) -> float | None:
    """The size at the lowest point of the least-squares parabola."""
    centre = sizes.mean()
    square, linear, _ = np.polyfit(sizes - centre, response, 2)
    if square <= 0:
        return None
    place = centre - linear / (2 * square)
    inside = sizes.min() <= place <= sizes.max()
    return float(np.exp(place)) if inside else None


def _line(bowls: tuple[Bowl, ...]) -> tuple[float | None, tuple[float, float] | None]:
    """Slope of log N_opt against log C, and slope with intercept."""
    known = [(bowl.flops, bowl.optimum) for bowl in bowls if bowl.optimum is not None]
    if len(known) < 2:
        return None, None
    flops, optima = np.log(np.array(known)).T
    slope, intercept = np.polyfit(flops, optima, 1)
    return float(slope), (float(slope), float(intercept))


def best_size_errors(points: Points, truth: dict[str, float]) -> tuple[float, float]:
    """What parabolas through these points get wrong of a known law: error of the exponent of N_opt,
    and relative error of N_opt at 100 times the largest budget. NaN where they give no line."""
    bowls = _bowls(points, points.response)
    exponent, line = _line(bowls)
    true = _law_exponent(truth)
    if exponent is None or true is None:
        return float("nan"), float("nan")
    size = _size_bias(line, LARGER * max(bowl.flops for bowl in bowls), truth)
    return exponent - true, float("nan") if size is None else size
