"""Fit a law to a table: coefficients with intervals, whether they are identified, and how far it reaches."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import fdtrc

from isoflop.analysis.fits.bootstrap import (
    CONFIDENCE,
    bootstrap,
    freedoms,
    interval,
    num_coefficients,
)
from isoflop.analysis.fits.heldout import HeldOut, best_fit, leave_largest_out
from isoflop.analysis.fits.points import Checkpoints, Points, points_of
from isoflop.analysis.fits.profile import WEAK_FACTOR, Profile, Status, profiles
from isoflop.analysis.fits.projection import Problem, Solution, solve
from isoflop.analysis.laws.law import Law
from isoflop.analysis.tables.run_table import RunTable

HUBER_SCALES = 1.345
"""Huber's threshold in robust standard deviations: 95% of least squares' efficiency where errors
are normal (Holland and Welsch 1977, Communications in Statistics A6, 813). The Chinchilla paper
has 1e-3 of the log loss, which at usual noise is nearly least absolute deviations."""

MAD_TO_STANDARD = 1.4826
"""Median absolute deviation to standard deviation, where errors are normal."""

REPLICATES = 1000


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """One coefficient as published laws name it."""

    name: str
    value: float
    low: float | None
    """Of the 95% interval: the bootstrap's, or the profile's where that must stand in
    (`coefficients`). Of a coefficient that is not identified these are no ends of an interval but
    where values begin to be ruled out; None: nowhere on that side."""
    high: float | None
    status: Status
    """Whether these points identify it: the worse of what its profile and its interval say."""
    profile_low: float | None
    """Of the profile's interval, for a coefficient in its linear form; None: open."""
    profile_high: float | None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted law and what is known of its truth."""

    law: str
    table: str
    column: str
    coefficients: tuple[Coefficient, ...]
    num_points: int
    num_designs: int
    num_cells: int
    rms_residual: float
    """On the law's scale: a share of the loss where that is a logarithm."""
    misfit_p: float | None
    """P-value that cells miss the law by no more than their seeds' spread explains (the test for
    lack of fit); None with one seed a cell. Small: the law is not the whole truth here."""
    huber: float
    replicates: int
    held_out: HeldOut
    notes: tuple[str, ...]
    points: Points
    best: Solution
    drawn: Solution
    """The bootstrap's fits."""
    profiles: tuple[Profile, ...]

    @property
    def values(self) -> dict[str, float]:
        """Coefficients by name."""
        return {found.name: found.value for found in self.coefficients}

    @property
    def unidentified(self) -> tuple[str, ...]:
        """Coefficients that these points do not tell."""
        return tuple(c.name for c in self.coefficients if c.status == "not identified")


def fit_law(
    law: Law,
    table: RunTable,
    *,
    column: str | None = None,
    checkpoints: Checkpoints = "final",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Fit:
    """Fit `law` to the runs of `table` by variable projection.

    Args:
        column: Response; default: validation loss, else training loss.
        checkpoints: "all" takes earlier checkpoints too; fair only where the learning rate is
            constant.
        replicates: Fits of the bootstrap.
        seed: Of the bootstrap's draws.

    Raises:
        UserError: columns missing or too few settings.
    """
    return fit_points(points_of(table, law, column, checkpoints), table.name, replicates, seed)


def fit_points(points: Points, table: str, replicates: int = REPLICATES, seed: int = 0) -> Fit:
    """Fit a law to points that were already chosen."""
    best, huber = robust_fit(points)
    drawn = bootstrap(points, best, replicates=replicates, seed=seed, huber=huber)
    shown = profiles(points, best)
    left = leave_largest_out(points, huber=huber, seed=seed)
    return Fit(
        law=points.law.name,
        table=table,
        column=points.column,
        coefficients=coefficients(points, best, drawn, shown, huber),
        num_points=len(points),
        num_designs=points.num_designs,
        num_cells=points.num_clusters,
        rms_residual=float(np.sqrt((best.residuals[0] ** 2).mean())),
        misfit_p=misfit(points, best),
        huber=huber,
        replicates=replicates,
        held_out=left,
        notes=points.notes,
        points=points,
        best=best,
        drawn=drawn,
        profiles=shown,
    )


def robust_fit(points: Points) -> tuple[Solution, float]:
    """The best fit under Huber's loss, and its threshold: least squares finds the scale first."""
    first = best_fit(points, huber=np.inf)
    huber = HUBER_SCALES * robust_scale(first.residuals[0])
    if huber <= 0:
        return first, float("inf")
    problem = Problem(
        law=points.law,
        inputs=points.inputs,
        measured=points.law.to_scale(points.response)[None, :],
        weights=np.ones((1, len(points))),
        huber=huber,
    )
    return solve(problem, first.exponents), huber


def misfit(points: Points, best: Solution) -> float | None:
    """P-value of the test for lack of fit: scatter of cells about the law against that of seeds
    about their cell (Draper and Smith 1998, section 2.1). None with one point a cell and setting.

    Cells that the law cannot tell apart, since it lacks what they differ in, count as its misfit."""
    both = np.stack([points.cluster, points.design], axis=1)
    group = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
    residuals, count = best.residuals[0], int(group.max()) + 1
    seeds_freedom = len(points) - count
    spare = count - num_coefficients(points)
    if seeds_freedom < 1 or spare < 1:
        return None
    means = np.bincount(group, weights=residuals) / np.bincount(group)
    within = float(((residuals - means[group]) ** 2).sum()) / seeds_freedom
    between = float((means[group] ** 2).sum()) / spare
    if within <= 0:
        return None
    return float(fdtrc(spare, seeds_freedom, between / within))


def robust_scale(residuals: Float[np.ndarray, " points"]) -> float:
    """Standard deviation of residuals that a few odd ones do not move."""
    return float(MAD_TO_STANDARD * np.median(np.abs(residuals - np.median(residuals))))


def named_values(law: Law, solution: Solution) -> dict[str, Float[np.ndarray, " fits"]]:
    """Every coefficient of every fit, as published laws name and scale them."""
    linear = {
        **{term.name: solution.coefficients[:, i] for i, term in enumerate(law.terms)},
        **{exponent.name: solution.exponents[:, i] for i, exponent in enumerate(law.exponents)},
    }
    rows = [
        law.from_linear({name: float(values[i]) for name, values in linear.items()})
        for i in range(len(solution.cost))
    ]
    return {name: np.array([row[name] for row in rows]) for name in linear}


def predict(fit: Fit, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted response at `inputs` with the ends of its 95% interval (of the law, not of a run)."""
    law = fit.points.law
    lines = []
    for solution in (fit.best, fit.drawn):
        basis = law.basis(inputs, solution.exponents)
        lines.append(law.on_scale(basis, solution.coefficients, solution.exponents))
    freedom = fit.num_cells - num_coefficients(fit.points)
    ends = np.array([interval(column, freedom) for column in lines[1].T])
    return law.off_scale(lines[0][0]), law.off_scale(ends[:, 0]), law.off_scale(ends[:, 1])


def coefficients(
    points: Points,
    best: Solution,
    drawn: Solution,
    shown: tuple[Profile, ...],
    huber: float = math.inf,
) -> tuple[Coefficient, ...]:
    """Every coefficient with its interval, and whether it is identified.

    Along a direction that costs nothing the replicates stay where the best fit stood, and then the
    bootstrap's intervals are too narrow, and the profiles', which follow it from one best fit alone,
    are not wide enough for every coefficient either (docs/results/analysis/README.md): where one
    coefficient is stuck so, every interval reaches as far as the wider of the two.
    """
    law = points.law
    values, spread = named_values(law, best), named_values(law, drawn)
    linear = law.to_linear({name: float(found[0]) for name, found in values.items()})
    freedom = dict(zip(law.coefficient_names, freedoms(points, best, huber), strict=True))
    ends = {name: interval(found, float(freedom[name])) for name, found in spread.items()}
    stuck = any(_is_stuck(law, profile, *ends[profile.name]) for profile in shown)
    found = []
    for profile in shown:
        value = float(values[profile.name][0])
        # A profile is of the linear form; Kaplan's N_c is published on another scale.
        comparable = math.isclose(linear[profile.name], value, rel_tol=1e-6)
        at_bound = _share_at_bound(law, drawn, profile.name)
        told, status = _told(profile, ends[profile.name], stuck, comparable, at_bound)
        found.append(
            Coefficient(
                name=profile.name,
                value=value,
                low=told[0],
                high=told[1],
                status=status,
                profile_low=profile.low,
                profile_high=profile.high,
            )
        )
    return tuple(found)


def _told(
    profile: Profile, drawn: tuple[float, float], stuck: bool, comparable: bool, at_bound: float
) -> tuple[tuple[float | None, float | None], Status]:
    """The ends that a reader is told, and what they are worth.

    Args:
        drawn: The bootstrap's ends.
        stuck: Whether replicates stayed where they began in some direction.
        comparable: Whether the profile is of the coefficient as published.
        at_bound: Share of the replicates on an end of the search: they have no spread there.
    """
    low, high = drawn
    if profile.status == "not identified" or at_bound > (1 - CONFIDENCE) / 2:
        if not comparable:
            return (None, None), "not identified"
        ends = (_outer(low, profile.low, min), _outer(high, profile.high, max))
        return ends, "not identified"
    if stuck and comparable and profile.low is not None and profile.high is not None:
        low, high = min(low, profile.low), max(high, profile.high)
    elif stuck:
        return (None, None), "not identified"
    weak = low * high <= 0 or max(abs(low), abs(high)) > WEAK_FACTOR * min(abs(low), abs(high))
    return (low, high), "weak" if weak else profile.status


def _is_stuck(law: Law, profile: Profile, low: float, high: float) -> bool:
    """Whether an exponent's profile is open on a side where its replicates did not go half way to
    the end of the search."""
    for exponent in law.exponents:
        if exponent.name == profile.name:
            middle = (low + high) / 2
            above = profile.high is None and high - middle < (exponent.high - middle) / 2
            below = profile.low is None and middle - low < (middle - exponent.low) / 2
            return above or below
    return False


def _outer(
    drawn: float, profiled: float | None, choose: Callable[[float, float], float]
) -> float | None:
    """The end further out, None where the profile is open."""
    return None if profiled is None else choose(drawn, profiled)


def _share_at_bound(law: Law, drawn: Solution, name: str) -> float:
    """Share of the replicates in which the coefficient lies on an end of its range."""
    for place, exponent in enumerate(law.exponents):
        if exponent.name == name:
            values, margin = drawn.exponents[:, place], 1e-6 * (exponent.high - exponent.low)
            outer = (values <= exponent.low + margin) | (values >= exponent.high - margin)
            return float(outer.mean())
    place = [term.name for term in law.terms].index(name)
    at_zero = drawn.coefficients[:, place] <= 0
    return float(at_zero.mean()) if law.terms[place].positive else 0.0
