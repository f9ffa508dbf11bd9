"""What a trend misses of the cells, as a smooth random field over the settings (a Gaussian process).

    response of a cell = trend + field + scatter of its runs

The field has Matern's correlation of order 3/2, which follows a kink, with its own length for each
feature: those under which left-out cells are least surprising (Sundararajan and Keerthi 2001, Neural
Computation 13, 1103), found for each of several sizes. So a trend that misses cells by more than their
seeds explain has a field of that size, and a recommendation knows it. Draws of the field given the cells are
made pathwise (Wilson et al. 2020, arXiv:2002.09309): a draw of the free field by random waves (Rahimi
and Recht 2007), corrected by what it misses at the cells. The same place has the same draws in every
call, neighbours err alike, and a run at a place tells of its own error.

Shapes in this file:
    cells      settings that were run
    places     settings to predict
    terms      linear coefficients of the trend
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

DRAWS = 400

LENGTHS = (0.25, 0.5, 1.0, 2.0, 8.0)
"""Over which a field changes, as shares of a feature's range: from a step of a grid of five to
"hardly at all". Chosen, and judged by benchmarks/recommend_coverage.py."""

SIZES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Standard deviations of a field, as multiples of what the trend misses. Chosen."""

SCATTERS = (0.1, 0.3, 1.0)
"""The same of the scatter of one run, where no cell has two that would tell it. Chosen."""

PASSES = 3
"""Times that each of lengths, size and scatter is chosen anew while the others stay."""

WAVES = 64
"""That a draw of the free field is made of."""

JITTER = 1e-9
"""Least variance, as a share of the response's, that keeps equal cells solvable."""

RIGID = 1e-6
"""A cell that alone decides a coefficient cannot be predicted from the others: its error then has 1 / this
times the variance that it would have if the trend were known. Chosen."""

LEAST_RESPONSE_VARIANCE = 1e-6
"""Of which the share is taken where the figure is nearly the same everywhere: 0.1% of a loss."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field over scaled settings."""

    lengths: tuple[float, ...]
    """One a feature."""
    size: float
    """Standard deviation, on the scale of the response."""
    run_variance: float
    """Of one run about its cell."""

    def correlation(
        self,
        first: Float[np.ndarray, "a features"],
        second: Float[np.ndarray, "b features"],
    ) -> Float[np.ndarray, "a b"]:
        """Of the field at two sets of places: Matern's of order 3/2."""
        apart = (first[:, None, :] - second[None, :, :]) / np.array(self.lengths)
        distance = np.sqrt(3.0 * (apart**2).sum(axis=-1))
        found: np.ndarray = (1.0 + distance) * np.exp(-distance)
        return found

    def covariance(
        self, cells: Float[np.ndarray, "cells features"], counts: np.ndarray, least: float
    ) -> Float[np.ndarray, "cells cells"]:
        """Of the cells' mean responses about the trend."""
        scatter = np.maximum(self.run_variance / counts, least)
        found: np.ndarray = self.size**2 * self.correlation(cells, cells) + np.diag(scatter)
        return found

    def free_draws(
        self, places: Float[np.ndarray, "places features"], seed: int
    ) -> Float[np.ndarray, "draws places"]:
        """Draws of the field where nothing is known of it."""
        generator = np.random.default_rng((seed, 1))
        shape = (DRAWS, WAVES, places.shape[1])
        # Matern's waves of order 3/2 follow Student's distribution of three degrees of freedom.
        heavy = np.sqrt(3.0 / generator.chisquare(3, size=(DRAWS, WAVES, 1)))
        waves = generator.normal(size=shape) * heavy / np.array(self.lengths)
        phases = generator.uniform(0, 2 * np.pi, size=(DRAWS, WAVES, 1))
        found: np.ndarray = np.sqrt(2 / WAVES) * np.cos(waves @ places.T + phases).sum(axis=1)
        return self.size * found


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Each cell predicted from the others."""

    error: Float[np.ndarray, " cells"]
    """Response less prediction."""
    variance: Float[np.ndarray, " cells"]
    """That the field gives the error."""

    @property
    def log_density(self) -> Float[np.ndarray, " cells"]:
        """Of each error, but for a constant."""
        found: np.ndarray = -(np.log(self.variance) + self.error**2 / self.variance) / 2
        return found

    @property
    def surprise(self) -> float:
        """Mean negative log density of the errors; less is better."""
        return -float(self.log_density.mean())


def left_out(
    covariance: Float[np.ndarray, "cells cells"],
    design: Float[np.ndarray, "cells terms"] | None,
    response: Float[np.ndarray, " cells"],
) -> LeftOut:
    """Leave each cell out in turn, its part in the trend's coefficients too, in closed form
    (Dubrule 1983, Mathematical Geology 15, 687).

    Args:
        design: of a linear trend with free coefficients; None where `response` is what a trend left.
    """
    inverse = np.linalg.inv(covariance)
    least = RIGID * np.diag(inverse)
    if design is not None:
        weighted = inverse @ design
        inverse = inverse - weighted @ np.linalg.pinv(design.T @ weighted) @ weighted.T
    diagonal = np.maximum(np.diag(inverse), least)
    return LeftOut(error=(inverse @ response) / diagonal, variance=1 / diagonal)


def fields(
    cells: Float[np.ndarray, "cells features"],
    counts: np.ndarray,
    design: Float[np.ndarray, "cells terms"] | None,
    response: Float[np.ndarray, " cells"],
    run_variance: float | None,
) -> list[tuple[Field, LeftOut]]:
    """For every size, the field under which left-out cells are least surprising."""
    left = response
    if design is not None:
        left = response - design @ np.linalg.lstsq(design, response, rcond=None)[0]
    terms = 0 if design is None else design.shape[1]
    missed = float(np.sqrt((left**2).sum() / max(len(left) - terms, 1)))
    least = least_variance(response)

    def seen(one: Field) -> LeftOut:
        return left_out(one.covariance(cells, counts, least), design, response)

    found = []
    field = Field(
        lengths=(1.0,) * cells.shape[1],
        size=missed,
        run_variance=missed**2 if run_variance is None else run_variance,
    )
    scatters = tuple((missed * share) ** 2 for share in SCATTERS if run_variance is None)
    for share in SIZES:
        # The search goes on from the lengths of the size before.
        field = replace(field, size=missed * share)
        best = seen(field)
        for _ in range(PASSES if share else 1):
            before = field
            # One offer after the other changes the best so far in one of its numbers.
            offers: list[tuple[int | None, float]] = [(None, one) for one in scatters]
            if share:
                offers += [(place, one) for place in range(cells.shape[1]) for one in LENGTHS]
            for place, value in offers:
                tried = _changed(field, place, value)
                this = seen(tried)
                if this.surprise < best.surprise:
                    field, best = tried, this
            if field == before:
                break
        found.append((field, best))
    return found


def least_variance(response: Float[np.ndarray, " cells"]) -> float:
    """Added to each cell where its runs agree to the last digit."""
    return JITTER * max(float(response.var()), LEAST_RESPONSE_VARIANCE)


def _changed(field: Field, place: int | None, value: float) -> Field:
    """The field with another length of one feature, or another scatter of a run (None)."""
    if place is None:
        return replace(field, run_variance=value)
    lengths = tuple(value if i == place else old for i, old in enumerate(field.lengths))
    return replace(field, lengths=lengths)
