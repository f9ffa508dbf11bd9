"""Predictions of a figure for settings that were not run, with draws of their error.

Two kinds of model compete, and the one that predicts left-out cells better is kept:

    surface    a parabola in the logarithms of what varies: it can turn, as reasoning may
    law        a published form (joint or chinchilla), where the table allows its fit

Losses are modelled by their logarithm, accuracies as they are. Errors are drawn by the wild
bootstrap over cells (`fits.bootstrap`), for the surface in closed form. No model is the truth: left-out
cells miss it by more than seeds explain, and as much is added to the draws, as a smooth random
field over the settings, so that neighbours err alike and a run at a place tells of its own error.

Shapes in this file:
    points     runs of the table
    places     settings to predict
    draws      replicates of the bootstrap
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
from isoflop.config import UserError

FEATURES = ("active_params", "expansion", "tokens", "top_k")
"""What a figure may depend on: N, E/k, D and k."""

DRAWS = 400
SEED = 31
FOLDS = 5

FIELD_LENGTH = 0.25
"""Distance over which the misfit keeps its sign, as a share of a setting's range: a step of a grid of five.
Chosen, and judged by benchmarks/recommend_coverage.py."""

FIELD_WAVES = 48
"""Waves that a random field is made of (random features, Rahimi and Recht 2007)."""

SPARE_CELLS = 3
"""Cells beyond its terms that a surface needs."""

LAW_CELLS = 16
"""Cells from which on a law competes: fewer leave nothing to judge it by."""

Settings = dict[str, Float[np.ndarray, " places"]]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What a figure is learnt from."""

    column: str
    settings: dict[str, Float[np.ndarray, " points"]]
    """By feature."""
    figure: Float[np.ndarray, " points"]
    cluster: Int[np.ndarray, " points"]

    @property
    def is_share(self) -> bool:
        """Whether the figure is an accuracy."""
        return self.column.endswith("accuracy") or "@" in self.column

    @property
    def varying(self) -> tuple[str, ...]:
        """Features with more than one value."""
        return tuple(
            name
            for name in FEATURES
            if name in self.settings and len(np.unique(self.settings[name].round(9))) > 1
        )

    def where(self, mask: np.ndarray) -> "Runs":
        """The points where `mask` holds."""
        return Runs(
            column=self.column,
            settings={name: values[mask] for name, values in self.settings.items()},
            figure=self.figure[mask],
            cluster=np.unique(self.cluster[mask], return_inverse=True)[1].reshape(-1),
        )


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A figure at places that may not have been run."""

    mean: Float[np.ndarray, " places"]
    draws: Float[np.ndarray, "draws places"]


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A model of one figure, chosen by how it predicts cells that it has not seen."""

    column: str
    kind: str
    """"surface" or the name of a law."""
    features: tuple[str, ...]
    left_out_error: float
    """Root mean square error of left-out cells: a share of a loss, a share of answers."""
    noise: float
    """Standard deviation of one run about the model, on the same scale."""
    misfit: float
    """Standard deviation of a left-out cell about the model that its seeds do not explain."""
    runs: Runs
    powers: tuple[tuple[int, ...], ...] = ()
    """Of the surface's terms, one number a feature."""
    solution: Solution | None = None
    drawn: Solution | None = None
    coefficients: Float[np.ndarray, " terms"] | None = None
    coefficient_draws: Float[np.ndarray, "draws terms"] | None = None

    def predict(self, places: Settings) -> Predicted:
        """The figure and its draws at `places`."""
        if self.solution is not None and self.drawn is not None:
            law = LAWS[self.kind]
            inputs = {given.name: places[given.column] for given in law.inputs}
            scaled = [
                law.on_scale(law.basis(inputs, s.exponents), s.coefficients, s.exponents)
                for s in (self.solution, self.drawn)
            ]
            return Predicted(
                mean=np.exp(scaled[0][0]), draws=np.exp(scaled[1] + self._field(places))
            )
        assert self.coefficients is not None
        assert self.coefficient_draws is not None
        design = _design(_scaled(places, self.features, self.runs), self.powers)
        mean = design @ self.coefficients
        draws = self.coefficient_draws @ design.T + self._field(places)
        if self.runs.is_share:
            return Predicted(mean=np.clip(mean, 0, 1), draws=np.clip(draws, 0, 1))
        return Predicted(mean=np.exp(mean), draws=np.exp(draws))

    def _field(self, places: Settings) -> Float[np.ndarray, "draws places"]:
        """Draws of what the model misses: the same place has the same draws in every call."""
        generator = np.random.default_rng(SEED + 1)
        scaled = _scaled(places, self.runs.varying, self.runs)
        waves = generator.normal(size=(DRAWS, FIELD_WAVES, scaled.shape[1])) / FIELD_LENGTH
        phases = generator.uniform(0, 2 * np.pi, size=(DRAWS, FIELD_WAVES, 1))
        heights = np.cos(waves @ scaled.T + phases).sum(axis=1) * np.sqrt(2 / FIELD_WAVES)
        found: Float[np.ndarray, "draws places"] = self.misfit * heights
        return found


def learn(runs: Runs) -> Surrogate:
    """The better of a surface and a law for this figure.

    Raises:
        UserError: too few cells for any model.
    """
    found = _surface(runs)
    for name in ("joint", "chinchilla"):
        points = _law_points(runs, name)
        if points is None:
            continue
        best, huber = robust_fit(points)
        error = _law_left_out(points, best, huber)
        if error < found.left_out_error:
            return _law(runs, points, best, huber, error)
    return found


def _surface(runs: Runs) -> Surrogate:
    """The surface with as many terms as the cells allow and left-out cells favour."""
    features = runs.varying
    cells = len(np.unique(runs.cluster))
    if not features or cells < 2 + SPARE_CELLS:
        raise UserError(
            f"{runs.column}: {cells} cells with {len(features)} varying settings; a prediction needs "
            f"at least {2 + SPARE_CELLS} cells that differ in size, experts, k or tokens"
        )
    y = runs.figure if runs.is_share else np.log(runs.figure)
    scaled = _scaled(runs.settings, features, runs)
    best: Surrogate | None = None
    for powers in _term_sets(len(features)):
        design = _design(scaled, powers)
        if cells < len(powers) + SPARE_CELLS or np.linalg.matrix_rank(design) < len(powers):
            continue
        error = _left_out(design, y, runs.cluster)
        if best is None or error < best.left_out_error:
            coefficients, draws, noise = _drawn(design, y, runs.cluster)
            best = Surrogate(
                column=runs.column,
                kind="surface",
                features=features,
                left_out_error=error,
                noise=noise,
                misfit=_misfit(error, y, runs.cluster),
                runs=runs,
                powers=powers,
                coefficients=coefficients,
                coefficient_draws=draws,
            )
    if best is None:
        raise UserError(
            f"{runs.column}: {', '.join(features)} vary together in these {cells} cells, so their "
            "effects cannot be told apart; run cells that change one of them alone"
        )
    return best


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


def _scaled(settings: Settings, features: tuple[str, ...], runs: Runs) -> np.ndarray:
    """Logarithms of the features, centred and scaled on the runs."""
    columns = []
    for name in features:
        known = np.log(runs.settings[name])
        columns.append((np.log(settings[name]) - known.mean()) / max(float(np.ptp(known)), 1e-12))
    return np.stack(columns, axis=1)


def _design(scaled: np.ndarray, powers: tuple[tuple[int, ...], ...]) -> np.ndarray:
    found: np.ndarray = np.stack([np.prod(scaled ** np.array(p), axis=1) for p in powers], axis=1)
    return found


def _left_out(design: np.ndarray, y: np.ndarray, cluster: np.ndarray) -> float:
    """Root mean square error of each cell predicted from the others."""
    errors = []
    for cell in np.unique(cluster):
        out = cluster == cell
        coefficients, *_ = np.linalg.lstsq(design[~out], y[~out], rcond=None)
        errors.append((y[out] - design[out] @ coefficients) ** 2)
    return float(np.sqrt(np.concatenate(errors).mean()))


def _misfit(
    left_out_error: float,
    y: Float[np.ndarray, " points"],
    cluster: Int[np.ndarray, " points"],
) -> float:
    """What of the left-out error the spread of seeds does not explain; all of it with one seed a
    cell, which cannot tell the two apart."""
    counts = np.bincount(cluster)
    spare = len(y) - len(counts)
    if spare < 1:
        return left_out_error
    within = float(((y - (np.bincount(cluster, weights=y) / counts)[cluster]) ** 2).sum()) / spare
    return float(np.sqrt(max(left_out_error**2 - within, 0.0)))


def _drawn(
    design: np.ndarray, y: np.ndarray, cluster: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients, their draws by cells, and the noise of a run."""
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ y
    residuals = y - design @ coefficients
    cells = np.unique(cluster)
    spare = max(len(cells) - design.shape[1], 1)
    signs = np.random.default_rng(SEED).choice((-1.0, 1.0), size=(DRAWS, len(cells)))
    errors = residuals * np.sqrt(len(cells) / spare)
    draws = coefficients + (signs[:, cluster] * errors) @ inverse.T
    noise = float(np.sqrt((residuals**2).sum() / max(len(y) - design.shape[1], 1)))
    return coefficients, draws, noise


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


def _law_left_out(points: Points, best: Solution, huber: float) -> float:
    """Root mean square error of cells left out a fifth at a time; each fit starts from the whole's."""
    law = points.law
    cells = points.num_clusters
    fold = np.random.default_rng(SEED).permutation(cells)[points.cluster] % FOLDS
    errors = []
    for out in range(FOLDS):
        weights = (fold != out).astype(float)
        problem = Problem(
            law=law,
            inputs=points.inputs,
            measured=np.log(points.response)[None, :],
            weights=weights[None, :],
            huber=huber,
        )
        errors.append(solve(problem, best.exponents).residuals[0][fold == out] ** 2)
    return float(np.sqrt(np.concatenate(errors).mean()))


def _law(
    runs: Runs, points: Points, best: Solution, huber: float, left_out_error: float
) -> Surrogate:
    """The fitted law with its draws."""
    spare = max(len(points) - len(points.law.coefficient_names), 1)
    return Surrogate(
        column=runs.column,
        kind=points.law.name,
        features=tuple(sorted(given.column for given in points.law.inputs)),
        left_out_error=left_out_error,
        noise=float(np.sqrt((best.residuals[0] ** 2).sum() / spare)),
        misfit=_misfit(left_out_error, np.log(runs.figure), runs.cluster),
        runs=runs,
        solution=best,
        drawn=bootstrap(points, best, replicates=DRAWS, seed=SEED, huber=huber),
    )
