"""Variable projection: linear coefficients solved inside, exponents searched outside, many at once.

Shapes in this file:
    fits     problems solved together: starts, replicates of a bootstrap, points of a profile
    settings distinct inputs: points of one setting share a row of the basis
    points, terms, exponents   as in laws.law

For given exponents the best linear coefficients are found by weighted least squares, positive where
they must be. The exponents then follow Levenberg and Marquardt's steps on what is left, within their
bounds. Huber's weights make one odd run count less.

Sources: Golub and Pereyra 1973 (SIAM J. Numer. Anal. 10, 413); the simpler Jacobian, Kaufman 1975
(BIT 15, 49); as default for scaling laws, arXiv:2603.22339; robust loss, Huber 1964 (Annals of
Mathematical Statistics 35, 73).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from isoflop.analysis.laws.law import SMALLEST, Law

Exponents = Float[np.ndarray, "fits exponents"]
Coefficients = Float[np.ndarray, "fits terms"]
Residuals = Float[np.ndarray, "fits points"]
Basis = Float[np.ndarray, "fits points terms"]

INNER_STEPS = 3
"""Gauss-Newton steps of the inner problem: from relative to logarithmic residuals. The second
changes a coefficient by less than 1e-4 at residuals of 10%; checked in the tests."""

RIDGE = 1e-13
"""Keeps equations of terms that cannot be told apart solvable, far below the rounding of data."""

RANK = 1e-7
"""Directions smaller than this share of the largest were not told apart from others."""

DIFFERENCE = 1e-6
"""Step of differences for exponents of size 0.1 to 1: slopes only lead the way to the best fit."""

MAX_STEPS = 80
FIRST_DAMPING = 1e-2
TOLERANCE = 1e-9
"""Relative fall of the cost, and step of the exponents relative to their range, at which a fit is
done."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """Coefficients that a profile holds while the others are fitted."""

    exponents: Bool[np.ndarray, " exponents"]
    term: int | None = None
    """A linear coefficient that is held too, or instead."""
    values: Float[np.ndarray, " fits"] | None = None
    """Its value in each fit."""


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Best coefficients of each problem."""

    exponents: Exponents
    coefficients: Coefficients
    residuals: Residuals
    """Prediction less measured, on the law's scale."""
    cost: Float[np.ndarray, " fits"]
    """Sum of weights x Huber's loss / 1 point; half a sum of squares where none is far out."""

    def best(self) -> int:
        """The fit of least cost."""
        return int(np.argmin(self.cost))

    def take(self, chosen: np.ndarray) -> "Solution":
        """Some of the fits."""
        return Solution(
            exponents=self.exponents[chosen],
            coefficients=self.coefficients[chosen],
            residuals=self.residuals[chosen],
            cost=self.cost[chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Points to fit one law to; rows of `measured` and `weights` are separate problems."""

    law: Law
    inputs: Mapping[str, Float[np.ndarray, " settings"]]
    measured: Residuals
    """On the law's scale."""
    weights: Residuals
    huber: float
    """Residual from which on a point counts by its size, not its square; inf: least squares."""
    setting: Int[np.ndarray, " points"] | None = None
    """Place in `inputs` of each point's settings, where points share them; None: one each."""

    def take(self, chosen: np.ndarray) -> "Problem":
        """Some of the problems."""
        return Problem(
            law=self.law,
            inputs=self.inputs,
            measured=self.measured[chosen],
            weights=self.weights[chosen],
            huber=self.huber,
            setting=self.setting,
        )

    def by_setting(self) -> "Problem":
        """The same problem with settings that several points share written once."""
        if self.setting is not None:
            return self
        lines = np.stack(list(self.inputs.values()), axis=1)
        _, first, place = np.unique(lines, axis=0, return_index=True, return_inverse=True)
        inputs = {name: values[first] for name, values in self.inputs.items()}
        return replace(self, inputs=inputs, setting=place.reshape(-1))

    def by_point(
        self, values: Float[np.ndarray, "fits settings *more"]
    ) -> Float[np.ndarray, "fits points *more"]:
        """From a number a setting to a number a point."""
        return values if self.setting is None else values[:, self.setting]


def solve(
    problem: Problem,
    start: Exponents,
    held: Held | None = None,
    tolerance: float = TOLERANCE,
) -> Solution:
    """The best fit from each start.

    Every problem keeps its own damping; one that is done is not touched again.

    Args:
        held: What a profile holds fixed.
        tolerance: As TOLERANCE.
    """
    law, problem = problem.law, problem.by_setting()
    low = np.array([exponent.low for exponent in law.exponents])
    high = np.array([exponent.high for exponent in law.exponents])
    held = held or Held(exponents=np.zeros(len(law.exponents), dtype=bool))
    theta = np.clip(start, low, high)
    found = project(problem, theta, held)
    damping = np.full(len(theta), FIRST_DAMPING)
    going = np.arange(len(theta))
    for _ in range(MAX_STEPS):
        part, here = problem.take(going), found.take(going)
        hold = _held_part(held, going)
        step = _step(part, here, hold, damping[going], low, high)
        trial = project(part, np.clip(here.exponents + step, low, high), hold)
        better = trial.cost < here.cost
        fall = np.where(better, here.cost - trial.cost, 0.0)
        moved = np.abs(trial.exponents - here.exponents) / (high - low)
        for name in ("exponents", "coefficients", "residuals", "cost"):
            getattr(found, name)[going[better]] = getattr(trial, name)[better]
        damping[going] = np.where(better, damping[going] / 4, damping[going] * 5)
        done = better & (fall <= tolerance * here.cost)
        done |= (moved.max(axis=1, initial=0.0) < tolerance) | (damping[going] > 1e9)
        going = going[~done]
        if not going.size:
            break
    return found


def project(problem: Problem, theta: Exponents, held: Held) -> Solution:
    """The best linear coefficients for given exponents."""
    law = problem.law
    basis = _basis(problem, theta)
    power = law.power(theta)[:, None]
    coefficients = _first_coefficients(problem, basis, power, held)
    for _ in range(INNER_STEPS):
        fitted = law.on_scale(basis, coefficients, theta)
        residuals = _finite(fitted - problem.measured)
        weights = problem.weights * huber_weights(residuals, problem.huber)
        if law.link == "power":
            plain = np.maximum(_product(basis, coefficients), SMALLEST)
            design, target = basis / plain[:, :, None], 1 - residuals / power
        else:
            design, target = basis, problem.measured
            if not np.isfinite(problem.huber):
                break
        coefficients = _least_squares(design, target, weights, law, held)
    residuals = _finite(law.on_scale(basis, coefficients, theta) - problem.measured)
    return Solution(
        exponents=theta.copy(),
        coefficients=coefficients,
        residuals=residuals,
        cost=(problem.weights * huber_loss(residuals, problem.huber)).sum(axis=1),
    )


def huber_loss(residuals: Residuals, threshold: float) -> Residuals:
    """Half the square up to the threshold, linear beyond it."""
    size = np.abs(residuals)
    far = size > threshold
    found: Residuals = 0.5 * size**2
    if far.any():
        found = np.where(far, threshold * (size - 0.5 * threshold), found)
    return found


def huber_weights(residuals: Residuals, threshold: float) -> Residuals:
    """Weights whose least squares is Huber's loss."""
    if not np.isfinite(threshold):
        return np.ones_like(residuals)
    found: Residuals = threshold / np.maximum(np.abs(residuals), threshold)
    return found


def _first_coefficients(
    problem: Problem, basis: Basis, power: Float[np.ndarray, "fits one"], held: Held
) -> Coefficients:
    """Least squares of relative (or plain) residuals: where the inner steps begin."""
    if problem.law.link == "power":
        measured = np.exp(problem.measured / power)
        design = basis / measured[:, :, None]
        return _least_squares(design, np.ones_like(measured), problem.weights, problem.law, held)
    return _least_squares(basis, problem.measured, problem.weights, problem.law, held)


def _least_squares(
    design: Basis, target: Residuals, weights: Residuals, law: Law, held: Held
) -> Coefficients:
    """Weighted least squares; coefficients that must be positive leave one by one while negative."""
    positive = np.array([term.positive for term in law.terms])
    free = np.ones((design.shape[0], design.shape[2]), dtype=bool)
    fixed = np.zeros((design.shape[0], design.shape[2]))
    if held.term is not None and held.values is not None:
        free[:, held.term] = False
        fixed[:, held.term] = held.values
        target = target - design[:, :, held.term] * held.values[:, None]
    weighted = design * weights[:, :, None]
    gram = np.matmul(weighted.transpose(0, 2, 1), design)
    right = np.matmul(weighted.transpose(0, 2, 1), target[:, :, None])[:, :, 0]
    scale = np.sqrt(np.maximum(np.einsum("ftt->ft", gram), SMALLEST))
    gram = gram / (scale[:, :, None] * scale[:, None, :])
    right = right / scale
    for _ in range(len(law.terms)):
        found = _solve_free(gram, right, free) / scale
        wrong = np.where(free & positive & (found < 0), found * scale, 0.0)
        worst = wrong.argmin(axis=1)
        rows = np.flatnonzero(wrong.min(axis=1) < 0)
        if not rows.size:
            break
        free[rows, worst[rows]] = False
    else:
        found = _solve_free(gram, right, free) / scale
    return np.where(free, found, fixed)


def _solve_free(
    gram: Float[np.ndarray, "fits terms terms"],
    right: Coefficients,
    free: Bool[np.ndarray, "fits terms"],
) -> Coefficients:
    """The scaled equations with the rows and columns of what is not free taken out."""
    both = free[:, :, None] & free[:, None, :]
    identity = np.eye(gram.shape[1])
    matrix = np.where(both, gram, 0.0) + identity * np.where(free, RIDGE, 1.0)[:, :, None]
    found: Coefficients = np.linalg.solve(matrix, np.where(free, right, 0.0)[:, :, None])[:, :, 0]
    return found


def _step(
    problem: Problem,
    here: Solution,
    held: Held,
    damping: Float[np.ndarray, " fits"],
    low: Float[np.ndarray, " exponents"],
    high: Float[np.ndarray, " exponents"],
) -> Exponents:
    """Levenberg and Marquardt's step of the exponents, within the bounds that bind."""
    law, theta = problem.law, here.exponents
    weights = problem.weights * huber_weights(here.residuals, problem.huber)
    slopes = _slopes(problem, here, held)
    weighted = slopes * weights[:, :, None]
    gradient = np.matmul(weighted.transpose(0, 2, 1), here.residuals[:, :, None])[:, :, 0]
    curvature = np.matmul(weighted.transpose(0, 2, 1), slopes)
    stuck = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    free = ~stuck & ~held.exponents
    size = np.einsum("fee->fe", curvature)
    extra = damping[:, None] * size + 1e-12 * size.max(axis=1, keepdims=True) + SMALLEST
    both = free[:, :, None] & free[:, None, :]
    identity = np.eye(len(law.exponents))
    matrix = np.where(both, curvature, 0.0) + identity * np.where(free, extra, 1.0)[:, :, None]
    step = np.linalg.solve(matrix, np.where(free, -gradient, 0.0)[:, :, None])[:, :, 0]
    # A step across the whole range says that the curvature is not known here.
    found: Exponents = np.clip(step, -(high - low) / 4, (high - low) / 4)
    return found


def _slopes(
    problem: Problem, here: Solution, held: Held
) -> Float[np.ndarray, "fits points exponents"]:
    """How residuals change with each exponent once the coefficients have adapted (Kaufman)."""
    slopes = _exponent_slopes(problem, here)
    basis = _term_slopes(problem, here)
    if held.term is not None:
        basis[:, :, held.term] = 0.0
    weights = problem.weights * huber_weights(here.residuals, problem.huber)
    weighted = basis * weights[:, :, None]
    gram = np.matmul(weighted.transpose(0, 2, 1), basis)
    scale = np.sqrt(np.maximum(np.einsum("ftt->ft", gram), SMALLEST))
    gram = gram / (scale[:, :, None] * scale[:, None, :])
    cross = np.matmul(weighted.transpose(0, 2, 1), slopes) / scale[:, :, None]
    unused = np.einsum("ftt->ft", gram) < 0.5
    matrix = gram + np.eye(gram.shape[1]) * np.where(unused, 1.0, RIDGE)[:, :, None]
    share = np.linalg.solve(matrix, cross) / scale[:, :, None]
    found: Float[np.ndarray, "fits points exponents"] = slopes - np.matmul(basis, share)
    return found


def _exponent_slopes(
    problem: Problem, here: Solution
) -> Float[np.ndarray, "fits points exponents"]:
    """How residuals change with each exponent at fixed coefficients."""
    law, coefficients = problem.law, here.coefficients

    def fitted(theta: Exponents) -> Residuals:
        return law.on_scale(law.basis(problem.inputs, theta), coefficients, theta)

    columns, now = [], fitted(here.exponents)
    for place in range(here.exponents.shape[1]):
        moved = here.exponents.copy()
        moved[:, place] += DIFFERENCE
        columns.append(_finite(fitted(moved) - now) / DIFFERENCE)
    found: Float[np.ndarray, "fits points exponents"] = problem.by_point(np.stack(columns, axis=-1))
    return found


def _term_slopes(problem: Problem, here: Solution) -> Basis:
    """How residuals change with each linear coefficient; 0 for one that lies at its bound."""
    law, theta = problem.law, here.exponents
    basis = _basis(problem, theta)
    if law.link == "power":
        plain = np.maximum(_product(basis, here.coefficients), SMALLEST)
        basis = basis * (law.power(theta)[:, None] / plain)[:, :, None]
    used = here.coefficients != 0
    found: Basis = basis * used[:, None, :]
    return found


def _basis(problem: Problem, theta: Exponents) -> Basis:
    found: Basis = problem.by_point(problem.law.basis(problem.inputs, theta))
    return found


def all_slopes(problem: Problem, here: Solution) -> Float[np.ndarray, "points coefficients"]:
    """How one solution's residuals change with every coefficient, linear ones first, each column
    scaled to length 1; 0 for a linear coefficient at its bound."""
    both = np.concatenate(
        [_term_slopes(problem, here)[0], _exponent_slopes(problem, here)[0]], axis=1
    )
    found: Float[np.ndarray, "points coefficients"] = both / np.maximum(
        np.linalg.norm(both, axis=0), SMALLEST
    )
    return found


def fitted_space(
    slopes: Float[np.ndarray, "points coefficients"],
) -> Float[np.ndarray, "points directions"]:
    """Orthonormal directions in which residuals of these slopes were fitted away.

    Its rows' products are the leverages of the points.
    """
    left, sizes, _ = np.linalg.svd(slopes, full_matrices=False)
    found: Float[np.ndarray, "points directions"] = left[:, sizes > RANK * sizes[0]]
    return found


def _held_part(held: Held, chosen: np.ndarray) -> Held:
    values = None if held.values is None else held.values[chosen]
    return Held(exponents=held.exponents, term=held.term, values=values)


def _product(basis: Basis, coefficients: Coefficients) -> Residuals:
    found: Residuals = np.matmul(basis, coefficients[:, :, None])[:, :, 0]
    return found


def _finite(residuals: Residuals) -> Residuals:
    """A prediction without a logarithm is a very bad one, not an undefined one."""
    found: Residuals = np.nan_to_num(residuals, nan=50.0, posinf=50.0, neginf=-50.0)
    return found
