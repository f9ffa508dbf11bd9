"""How sure coefficients are: a wild bootstrap over cells.

The design of a sweep is chosen, not drawn, so settings are kept and errors are drawn: each
replicate turns the sign of a cell's residuals, all of its seeds and checkpoints together, and fits
again. Cells are the units because the seeds of a cell share its misfit of the law, and the
checkpoints of a run share its seed; resampling runs one by one would take both for independent.
Residuals are first widened by what the fit took from them, cell by cell (a cell at a corner of the
design pulls the law to itself), and percentiles for few cells.

Sources: wild bootstrap, Wu 1986 (Annals of Statistics 14, 1261); by clusters, Cameron, Gelbach and
Miller 2008 (Review of Economics and Statistics 90, 414); residuals widened as in CV3, MacKinnon,
Nielsen and Webb 2023 (Journal of Econometrics 232, 272); widened percentiles, Hesterberg 2015
(The American Statistician 69, 371, section 5.3), with the degrees of freedom of Bell and McCaffrey
2002 (Survey Methodology 28, 169), as Imbens and Kolesar 2016 (Review of Economics and Statistics
98, 701).
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, stdtrit

from isoflop.analysis.fits.points import Points
from isoflop.analysis.fits.projection import (
    RANK,
    Problem,
    Solution,
    all_slopes,
    fitted_space,
    solve,
)

CONFIDENCE = 0.95

TOLERANCE = 1e-7
"""Relative fall of the cost at which a replicate is done: a hundredth of a standard error away."""

LEAST_SPARE = 1e-6
"""Below this share of itself, nothing of a cell's residual is left to widen."""

CHUNK = 250
"""Replicates solved together: bounds memory, not results."""


def bootstrap(
    points: Points, fitted: Solution, *, replicates: int, seed: int, huber: float
) -> Solution:
    """Fits to `replicates` tables whose cells have drawn errors.

    Args:
        fitted: The one best fit.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    count = points.num_clusters
    errors = _widened(points, fitted, huber)
    measured = points.law.to_scale(points.response)
    predicted = measured + fitted.residuals[0]
    found: list[Solution] = []
    for start in range(0, replicates, CHUNK):
        number = min(CHUNK, replicates - start)
        signs = generator.choice((-1.0, 1.0), size=(number, count))
        problem = Problem(
            law=points.law,
            inputs=points.inputs,
            measured=predicted[None, :] + signs[:, points.cluster] * errors[None, :],
            weights=np.ones((number, len(points))),
            huber=huber,
        )
        found.append(
            solve(problem, np.repeat(fitted.exponents, number, axis=0), tolerance=TOLERANCE)
        )
    return Solution(
        exponents=np.concatenate([part.exponents for part in found]),
        coefficients=np.concatenate([part.coefficients for part in found]),
        residuals=np.concatenate([part.residuals for part in found]),
        cost=np.concatenate([part.cost for part in found]),
    )


def _widened(points: Points, fitted: Solution, huber: float) -> Float[np.ndarray, " points"]:
    """Residuals of each cell as they would be had the cell not entered the fit."""
    space = fitted_space(all_slopes(_one(points, huber), fitted))
    found: Float[np.ndarray, " points"] = _unfitted(points.cluster, space, fitted.residuals.T)[:, 0]
    return found


def _unfitted(
    cluster: Int[np.ndarray, " points"],
    space: Float[np.ndarray, "points directions"],
    values: Float[np.ndarray, "points columns"],
) -> Float[np.ndarray, "points columns"]:
    """(1 - H)^-1 of each cell's own block, times its values; H projects on `space`."""
    found: Float[np.ndarray, "points columns"] = values.copy()
    if not space.shape[1]:
        return found
    for cell in np.unique(cluster):
        here = cluster == cell
        own = space[here]
        # (1 - own own^T)^-1 by the smaller matrix; a cell that fixes a direction alone keeps its own.
        inner = np.eye(own.shape[1]) - own.T @ own
        if np.linalg.eigvalsh(inner)[0] > LEAST_SPARE:
            found[here] += own @ np.linalg.solve(inner, own.T @ values[here])
    return found


def freedoms(points: Points, fitted: Solution, huber: float) -> Float[np.ndarray, " coefficients"]:
    """Degrees of freedom of each coefficient's spread, linear ones first: never above cells less
    coefficients, never below 1."""
    most = float(max(points.num_clusters - num_coefficients(points), 1))
    found = satterthwaite(all_slopes(_one(points, huber), fitted), points.cluster)
    return np.clip(np.where(np.isfinite(found), found, most), 1.0, most)


def satterthwaite(
    slopes: Float[np.ndarray, "points coefficients"], cluster: Int[np.ndarray, " points"]
) -> Float[np.ndarray, " coefficients"]:
    """Degrees of freedom of the variance that the draws give each coefficient; NaN where its slopes
    are 0.

    A corner of the design that settles a coefficient nearly alone leaves its variance few degrees,
    however many cells there are.

    >>> two_of_one_kind = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1]])
    >>> satterthwaite(two_of_one_kind, np.arange(6)).round(6).tolist()
    [1.0, 3.0]
    """
    space = fitted_space(slopes)
    widened = _unfitted(cluster, space, np.linalg.pinv(slopes, rcond=RANK).T)
    own = (cluster[:, None] == np.unique(cluster)).astype(float)
    found = np.full(slopes.shape[1], np.nan)
    for place in range(slopes.shape[1]):
        cells = own * widened[:, place : place + 1]
        left = cells - space @ (space.T @ cells)
        products = left.T @ left
        total = float((products**2).sum())
        if total > 0:
            found[place] = np.trace(products) ** 2 / total
    return found


def _one(points: Points, huber: float) -> Problem:
    """The points as one problem."""
    return Problem(
        law=points.law,
        inputs=points.inputs,
        measured=points.law.to_scale(points.response)[None, :],
        weights=np.ones((1, len(points))),
        huber=huber,
    )


def num_coefficients(points: Points) -> int:
    """Coefficients of the law."""
    return len(points.law.coefficient_names)


def interval(values: Float[np.ndarray, " replicates"], freedom: int | float) -> tuple[float, float]:
    """The 95% interval of drawn values whose spread has `freedom` degrees of freedom.

    Percentiles as far out as Student's quantile lies from the normal one, k of n draws standing
    for the share k / (n + 1): numpy's usual k - 1 of n - 1 gives ends too far inside for few draws.
    """
    low, high = widened_levels(freedom)
    found = np.quantile(values, [low, high], method="weibull")
    return float(found[0]), float(found[1])


def widened_levels(freedom: int | float) -> tuple[float, float]:
    """Levels of the two ends: 2.5% and 97.5% for many cells, further out for few.

    >>> [round(level, 4) for level in widened_levels(10)]
    [0.0129, 0.9871]
    """
    reach = float(stdtrit(max(freedom, 1), (1 + CONFIDENCE) / 2))
    tail = float(ndtr(-reach))
    return tail, 1 - tail
