"""Predictions of a figure for settings that were not run, with draws of their error.

    figure = trend + what the trend misses (field.py)

Two kinds of trend share the draws by how well they predict left-out cells:

    surface    a plane or a parabola in the logarithms of what varies: universal kriging, coefficients by
               generalised least squares under the field (Matheron 1969; Cressie 1993, section 3.4)
    law        a published form (joint or chinchilla), where the table allows its fit

Losses are modelled by their logarithm, accuracies as they are.

Shapes in this file:
    points     runs of the table
    cells      settings that were run
    places     settings to predict
    terms      terms of the surface
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from isoflop.analysis.fits.bootstrap import bootstrap
from isoflop.analysis.fits.fit import robust_fit
from isoflop.analysis.fits.points import Points
from isoflop.analysis.fits.projection import Problem, Solution, solve
from isoflop.analysis.laws.catalogue import LAWS
from isoflop.analysis.recommend.field import DRAWS, Field, LeftOut, fields, least_variance
from isoflop.analysis.recommend.runs import Cells, Runs, Settings
from isoflop.config import UserError

FOLDS = 5
FOLD_SEED = 31

SPARE_CELLS = 3
"""Cells beyond its terms that a surface needs."""

LAW_CELLS = 16
"""Cells from which on a law competes: fewer leave nothing to judge it by."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A figure at places that may not have been run."""

    mean: Float[np.ndarray, " places"]
    draws: Float[np.ndarray, "draws places"]


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A polynomial in the scaled settings."""

    runs: Runs
    powers: tuple[tuple[int, ...], ...]
    """Of the terms, one number a feature."""
    coefficients: Float[np.ndarray, " terms"]
    coefficient_draws: Float[np.ndarray, "draws terms"]

    kind = "surface"

    def at(self, places: Settings) -> Predicted:
        """The response's trend and its draws."""
        design = _design(self.runs.scaled(places), self.powers)
        return Predicted(mean=design @ self.coefficients, draws=self.coefficient_draws @ design.T)


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """A published form fitted to the runs."""

    kind: str
    solution: Solution
    drawn: Solution

    def at(self, places: Settings) -> Predicted:
        """The response's trend and its draws."""
        law = LAWS[self.kind]
        inputs = {given.name: places[given.column] for given in law.inputs}
        mean, draws = (
            law.on_scale(law.basis(inputs, s.exponents), s.coefficients, s.exponents)
            for s in (self.solution, self.drawn)
        )
        return Predicted(mean=mean[0], draws=draws)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of the figure: a trend with a field of one size."""

    trend: Surface | FittedLaw
    field: Field
    left_out: LeftOut

    def predict(self, runs: Runs, cells: Cells, places: Settings) -> Predicted:
        """The response and its draws at `places`: trend, and the field given the cells."""
        here, there = runs.scaled(cells.settings), runs.scaled(places)
        at_cells, at_places = self.trend.at(cells.settings), self.trend.at(places)
        covariance = self.field.covariance(here, cells.counts, least_variance(cells.response))
        # What a miss at the cells says of each place.
        weights = self.field.size**2 * np.linalg.solve(
            covariance, self.field.correlation(here, there)
        )
        free = self.field.free_draws(np.concatenate([here, there]), runs.seed)
        scatter = np.random.default_rng((runs.seed, 2)).normal(size=(DRAWS, len(cells)))
        scatter *= np.sqrt(self.field.run_variance / cells.counts)
        missed = cells.response - at_cells.draws - free[:, : len(cells)] - scatter
        return Predicted(
            mean=at_places.mean + (cells.response - at_cells.mean) @ weights,
            draws=at_places.draws + free[:, len(cells) :] + missed @ weights,
        )


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Models of one figure, each with as many draws as its predictions of left-out cells earn."""

    runs: Runs
    members: tuple[Member, ...]
    drawn_from: Int[np.ndarray, " draws"]
    """The member of each draw."""

    @property
    def column(self) -> str:
        """The figure's name."""
        return self.runs.column

    @property
    def weights(self) -> Float[np.ndarray, " members"]:
        """Share of the draws of each member."""
        found: np.ndarray = np.bincount(self.drawn_from, minlength=len(self.members)) / DRAWS
        return found

    @property
    def kinds(self) -> tuple[tuple[str, float], ...]:
        """ "surface" and names of laws, with their shares of the draws; the largest first."""
        shares: dict[str, float] = {}
        for member, weight in zip(self.members, self.weights, strict=True):
            shares[member.trend.kind] = shares.get(member.trend.kind, 0.0) + float(weight)
        return tuple(sorted(shares.items(), key=lambda one: -one[1]))

    @property
    def left_out_error(self) -> float:
        """Root mean square error of left-out cells' means: a share of a loss, a share of answers."""
        errors = np.stack([member.left_out.error for member in self.members], axis=1)
        return float(np.sqrt(((errors @ self.weights) ** 2).mean()))

    @property
    def noise(self) -> float:
        """Standard deviation of one run about its cell, on the same scale."""
        variances = np.array([member.field.run_variance for member in self.members])
        return float(np.sqrt(variances @ self.weights))

    def predict(self, places: Settings) -> Predicted:
        """The figure and its draws at `places`."""
        cells = self.runs.cells()
        mean: np.ndarray = np.zeros(len(next(iter(places.values()))))
        draws = np.zeros((DRAWS, len(mean)))
        for number, (member, weight) in enumerate(zip(self.members, self.weights, strict=True)):
            if weight:
                predicted = member.predict(self.runs, cells, places)
                mean = mean + weight * predicted.mean
                own = self.drawn_from == number
                draws[own] = predicted.draws[own]
        if self.runs.is_share:
            return Predicted(mean=np.clip(mean, 0, 1), draws=np.clip(draws, 0, 1))
        return Predicted(mean=np.exp(mean), draws=np.exp(draws))


def learn(runs: Runs) -> Surrogate:
    """Surfaces and laws for this figure, weighted by pseudo-Bayesian model averaging with the Bayesian
    bootstrap (Yao et al. 2018, Bayesian Analysis 13, 917): each draw weighs the cells anew, and
    takes a model by how that draw's cells are predicted when left out.

    Raises:
        UserError: too few cells for any model.
    """
    cells = runs.cells()
    if not runs.varying or len(cells) < 2 + SPARE_CELLS:
        raise UserError(
            f"{runs.column}: {len(cells)} cells with {len(runs.varying)} varying settings; a "
            f"prediction needs at least {2 + SPARE_CELLS} cells that differ in size, experts, k or tokens"
        )
    members = _surfaces(runs, cells)
    for name in ("joint", "chinchilla"):
        points = _law_points(runs, name)
        if points is not None:
            members += _laws(runs, cells, points)
    generator = np.random.default_rng((runs.seed, 3))
    weights = len(cells) * generator.dirichlet(np.ones(len(cells)), size=DRAWS)
    scores = weights @ np.stack([member.left_out.log_density for member in members], axis=1)
    # The largest of scores with Gumbel's noise is each with the probability of its softmax.
    drawn_from = np.argmax(scores + generator.gumbel(size=scores.shape), axis=1)
    return Surrogate(runs=runs, members=tuple(members), drawn_from=drawn_from)


def _surfaces(runs: Runs, cells: Cells) -> list[Member]:
    """Surfaces of as many terms as the cells allow, each with fields of several sizes."""
    scaled = runs.scaled(cells.settings)
    members: list[Member] = []
    for powers in _term_sets(scaled.shape[1]):
        design = _design(scaled, powers)
        rank = np.linalg.matrix_rank(design)
        if len(cells) < len(powers) + SPARE_CELLS or rank < len(powers):
            continue
        for field, left in fields(scaled, cells.counts, design, cells.response, cells.run_variance):
            covariance = field.covariance(scaled, cells.counts, least_variance(cells.response))
            coefficients, draws = _coefficients(covariance, design, cells.response, runs.seed)
            trend = Surface(
                runs=runs, powers=powers, coefficients=coefficients, coefficient_draws=draws
            )
            members.append(Member(trend=trend, field=field, left_out=left))
    if not members:
        raise UserError(
            f"{runs.column}: {', '.join(runs.varying)} vary together in these {len(cells)} cells, so "
            "their effects cannot be told apart; run cells that change one of them alone"
        )
    return members


def _coefficients(
    covariance: Float[np.ndarray, "cells cells"],
    design: Float[np.ndarray, "cells terms"],
    response: Float[np.ndarray, " cells"],
    seed: int,
) -> tuple[Float[np.ndarray, " terms"], Float[np.ndarray, "draws terms"]]:
    """Generalised least squares under the field, with draws."""
    inverse = np.linalg.inv(covariance)
    spread = np.linalg.inv(design.T @ inverse @ design)
    coefficients: np.ndarray = spread @ (design.T @ inverse @ response)
    normal = np.random.default_rng((seed, 4)).normal(size=(DRAWS, len(coefficients)))
    return coefficients, coefficients + normal @ np.linalg.cholesky(spread).T


def _term_sets(number: int) -> list[tuple[tuple[int, ...], ...]]:
    """A plane, a parabola without and with products."""
    none = (0,) * number
    single = [tuple(int(i == j) for i in range(number)) for j in range(number)]
    square = [tuple(2 * int(i == j) for i in range(number)) for j in range(number)]
    products = [
        tuple(int(i in pair) for i in range(number))
        for pair in itertools.combinations(range(number), 2)
    ]
    plane = (none, *single)
    return [plane, (*plane, *square), (*plane, *square, *products)]


def _design(
    scaled: Float[np.ndarray, "places features"], powers: tuple[tuple[int, ...], ...]
) -> Float[np.ndarray, "places terms"]:
    found: np.ndarray = np.stack([np.prod(scaled ** np.array(p), axis=1) for p in powers], axis=1)
    return found


def _law_points(runs: Runs, name: str) -> Points | None:
    """What the law `name` would be fitted to; None where the table does not allow it."""
    law = LAWS[name]
    needed = {given.column for given in law.inputs}
    cells = len(np.unique(runs.cluster))
    others = set(runs.varying) - needed - {"top_k"}
    if runs.is_share or not needed <= set(runs.varying) or others or cells < LAW_CELLS:
        return None
    return Points(
        law=law,
        column=runs.column,
        inputs={given.name: runs.settings[given.column] for given in law.inputs},
        response=runs.figure,
        cluster=runs.cluster,
        design=runs.cluster,
        flops=runs.settings["tokens"],
        names=(),
    )


def _laws(runs: Runs, cells: Cells, points: Points) -> list[Member]:
    """The fitted law, with fields of several sizes for what it misses.

    A field is fitted to what cells left out of the law's fit, a fifth at a time, are missed by: a law
    that follows its own points too closely has no small field for it.
    """
    best, huber = robust_fit(points)
    trend = FittedLaw(
        kind=points.law.name,
        solution=best,
        drawn=bootstrap(points, best, replicates=DRAWS, seed=runs.seed, huber=huber),
    )
    missed = _law_misses(points, best, huber)
    by_cell = np.bincount(points.cluster, weights=missed) / cells.counts
    scaled = runs.scaled(cells.settings)
    return [
        Member(trend=trend, field=field, left_out=left)
        for field, left in fields(scaled, cells.counts, None, by_cell, cells.run_variance)
    ]


def _law_misses(points: Points, best: Solution, huber: float) -> Float[np.ndarray, " points"]:
    """Measured less predicted of cells left out a fifth at a time; each fit starts from the whole's."""
    fold = np.random.default_rng(FOLD_SEED).permutation(points.num_clusters)[points.cluster] % FOLDS
    missed = np.zeros(len(points))
    for out in range(FOLDS):
        problem = Problem(
            law=points.law,
            inputs=points.inputs,
            measured=np.log(points.response)[None, :],
            weights=(fold != out).astype(float)[None, :],
            huber=huber,
        )
        missed[fold == out] = -solve(problem, best.exponents).residuals[0][fold == out]
    return missed
