"""A field's closed forms equal the slow versions, and its draws have its moments."""

import numpy as np
import pytest

from isoflop.analysis.recommend.field import (
    DRAWS,
    SIZES,
    Field,
    fields,
    least_variance,
    left_out,
)


def places(number, features=2, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, size=(number, features))


def field(**changes):
    given = {"lengths": (0.5, 2.0), "size": 0.3, "run_variance": 0.01}
    return Field(**{**given, **changes})


def test_correlation_is_one_at_a_place_itself_and_falls_with_distance():
    far = np.array([[0.0, 0.0], [0.1, 0.0], [0.5, 0.0], [3.0, 0.0]])
    found = field().correlation(far[:1], far)[0]
    assert found[0] == 1
    assert (np.diff(found) < 0).all()
    # Matern's of order 3/2 at one length.
    assert found[2] == pytest.approx((1 + np.sqrt(3)) * np.exp(-np.sqrt(3)))


@pytest.mark.parametrize("terms", [0, 1, 3])
def test_left_out_cells_are_what_fits_without_them_say(terms):
    cells, one = places(12), field()
    response = np.sin(5 * cells[:, 0]) + cells[:, 1]
    covariance = one.covariance(cells, np.full(12, 3), 0.0)
    design = np.column_stack([np.ones(12), cells])[:, :terms] if terms else None
    found = left_out(covariance, design, response)
    for out in range(12):
        rest = np.arange(12) != out
        inverse = np.linalg.inv(covariance[np.ix_(rest, rest)])
        trend, trend_out, spread = np.zeros(11), 0.0, 0.0
        weights = covariance[out, rest] @ inverse
        if design is not None:
            x, x_out = design[rest], design[out]
            precision = x.T @ inverse @ x
            coefficients = np.linalg.solve(precision, x.T @ inverse @ response[rest])
            trend, trend_out = x @ coefficients, x_out @ coefficients
            lever = x_out - weights @ x
            spread = lever @ np.linalg.solve(precision, lever)
        predicted = trend_out + weights @ (response[rest] - trend)
        variance = covariance[out, out] - weights @ covariance[rest, out] + spread
        assert found.error[out] == pytest.approx(response[out] - predicted, rel=1e-7)
        assert found.variance[out] == pytest.approx(variance, rel=1e-7)


def test_free_draws_have_the_fields_variance_and_correlation():
    some = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.5], [0.5, 0.5]])
    # Many fields of one: the draws of copies that lie far apart are as good as independent.
    far = np.concatenate([some + 1000 * copy for copy in range(20)])
    draws = field().free_draws(far, seed=5).reshape(DRAWS * 20, 4)
    covariance = draws.T @ draws / len(draws)
    assert covariance == pytest.approx(0.3**2 * field().correlation(some, some), abs=0.006)


def test_the_same_place_has_the_same_draws_in_every_call():
    some = places(5)
    alone = field().free_draws(some[2:3], seed=5)[:, 0]
    np.testing.assert_allclose(field().free_draws(some, seed=5)[:, 2], alone, atol=1e-12)


def test_a_trend_that_misses_nothing_needs_no_field_and_one_that_misses_a_kink_does():
    generator = np.random.default_rng(3)
    cells = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 6), np.linspace(-0.5, 0.5, 5)), -1)
    cells = cells.reshape(-1, 2)
    design = np.column_stack([np.ones(len(cells)), cells])
    scatter = 0.02 * generator.normal(size=len(cells)) / np.sqrt(3)
    for response, wanted in ((cells @ [1.0, 2.0], False), (np.abs(cells[:, 0]), True)):
        found = fields(cells, np.full(30, 3), design, response + scatter, 0.02**2)
        assert len(found) == len(SIZES)
        best, _ = min(found, key=lambda one: one[1].surprise)
        free = next(left for one, left in found if one.size == 0)
        gain = free.surprise - min(left.surprise for _, left in found)
        assert (gain * 30 > 5) is wanted
        if wanted:
            # The second feature does not matter to what is missed.
            assert best.lengths[1] > best.lengths[0]


def test_runs_that_agree_to_the_last_digit_are_no_division_by_zero():
    cells = np.concatenate([places(6), places(6)])
    response = cells @ [1.0, 2.0]
    design = np.column_stack([np.ones(12), cells])
    for one, left in fields(cells, np.full(12, 2), design, response, 0.0):
        assert np.isfinite(left.log_density).all(), one
        assert np.isfinite(one.covariance(cells, np.full(12, 2), least_variance(response))).all()


def test_a_figure_that_never_changes_is_no_division_by_zero():
    cells = places(8)
    for _, left in fields(cells, np.full(8, 1), np.ones((8, 1)), np.full(8, 0.5), None):
        assert np.isfinite(left.log_density).all()
        assert left.error == pytest.approx(0, abs=1e-6)


def test_a_cell_that_alone_decides_a_coefficient_cannot_be_predicted_and_counts_against_the_trend():
    cells = places(8)
    alone = (np.arange(8) == 3).astype(float)
    plain, rigid = (np.column_stack([np.ones(8), *more]) for more in ([], [alone]))
    covariance = field().covariance(cells, np.full(8, 3), 0.0)
    found = left_out(covariance, rigid, cells[:, 0])
    assert np.isfinite(found.log_density).all()
    assert found.log_density[3] < left_out(covariance, plain, cells[:, 0]).log_density[3] - 5
