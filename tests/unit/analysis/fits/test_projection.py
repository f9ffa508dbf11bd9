"""The fast fit finds what a slow, general minimiser finds, and noise-free truth exactly."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.analysis.fits.fit import robust_fit
from isoflop.analysis.fits.points import points_of
from isoflop.analysis.fits.projection import (
    Held,
    Problem,
    huber_loss,
    huber_weights,
    project,
    solve,
)
from isoflop.analysis.fits.starts import search, spread_starts
from isoflop.analysis.laws import LAWS
from isoflop.analysis.laws.draw import draw_table
from isoflop.analysis.laws.law import published_values

NEAR = pytest.approx


def problem_of(name, noise=0.005, seed=1, huber=np.inf):
    law = LAWS[name]
    table = draw_table(law, published_values(law).values, noise=noise, num_seeds=1, seed=seed)
    points = points_of(table, law)
    return Problem(
        law=law,
        inputs=points.inputs,
        measured=law.to_scale(points.response)[None, :],
        weights=np.ones((1, len(points))),
        huber=huber,
    )


def slow_cost(problem, vector):
    """Huber's loss of all coefficients together, linear ones by their logarithm."""
    law = problem.law
    terms = len(law.terms)
    coefficients, exponents = np.exp(vector[None, :terms]), vector[None, terms:]
    basis = law.basis(problem.inputs, exponents)
    residuals = law.on_scale(basis, coefficients, exponents) - problem.measured
    return float(huber_loss(residuals, problem.huber).sum())


@pytest.mark.parametrize("name", ["chinchilla", "kaplan", "krajewski"])
@pytest.mark.parametrize("huber", [np.inf, 0.004])
def test_no_general_minimiser_finds_a_better_fit(name, huber):
    problem = problem_of(name, huber=huber)
    found = search(problem, spread_starts(problem.law, 64), keep=6)
    start = np.concatenate([np.log(np.maximum(found.coefficients[0], 1e-9)), found.exponents[0]])
    assert slow_cost(problem, start) == NEAR(found.cost[0], rel=1e-6)
    better = scipy.optimize.minimize(
        lambda vector: slow_cost(problem, vector),
        start,
        method="Nelder-Mead",
        options={"maxiter": 3000, "xatol": 1e-9, "fatol": 1e-14},
    )
    assert found.cost[0] <= better.fun * (1 + 1e-4)


@pytest.mark.parametrize("name", ["kaplan", "chinchilla", "clark", "krajewski", "abnar", "ling"])
def test_noise_free_tables_give_their_coefficients_back(name):
    law = LAWS[name]
    truth = law.to_linear(published_values(law).values)
    problem = problem_of(name, noise=0.0)
    found = search(problem, spread_starts(law, 96), keep=12)
    assert found.cost[0] < 1e-10
    # Abnar's terms can stand for each other even without noise: the fit is exact, they are not.
    if name != "abnar":
        for place, exponent in enumerate(law.exponents):
            assert found.exponents[0, place] == NEAR(truth[exponent.name], rel=1e-2)
        for place, term in enumerate(law.terms):
            assert found.coefficients[0, place] == NEAR(truth[term.name], rel=5e-2)


def test_many_problems_at_once_are_the_problems_one_by_one():
    problem = problem_of("chinchilla")
    generator = np.random.default_rng(0)
    measured = problem.measured + 0.004 * generator.normal(size=(5, problem.measured.shape[1]))
    many = Problem(
        law=problem.law,
        inputs=problem.inputs,
        measured=measured,
        weights=np.ones_like(measured),
        huber=0.006,
    )
    start = np.array([[0.3, 0.3]])
    together = solve(many, np.repeat(start, 5, axis=0))
    for row in range(5):
        alone = solve(many.take(np.array([row])), start)
        np.testing.assert_allclose(together.exponents[row], alone.exponents[0], rtol=1e-6)
        assert together.cost[row] == NEAR(alone.cost[0], rel=1e-9)


def test_weights_are_points_given_several_times():
    problem = problem_of("chinchilla")
    number = problem.measured.shape[1]
    repeats = np.where(np.arange(number) % 3 == 0, 3, 1)
    weighted = Problem(
        law=problem.law,
        inputs=problem.inputs,
        measured=problem.measured,
        weights=repeats[None, :].astype(float),
        huber=np.inf,
    )
    repeated = Problem(
        law=problem.law,
        inputs={name: np.repeat(values, repeats) for name, values in problem.inputs.items()},
        measured=np.repeat(problem.measured, repeats, axis=1),
        weights=np.ones((1, int(repeats.sum()))),
        huber=np.inf,
    )
    start = np.array([[0.3, 0.3]])
    first, second = solve(weighted, start), solve(repeated, start)
    np.testing.assert_allclose(first.exponents, second.exponents, rtol=1e-6)


def test_coefficients_that_must_be_positive_are():
    problem = problem_of("chinchilla")
    # Losses that rise with N and D want negative A and B.
    upside_down = Problem(
        law=problem.law,
        inputs=problem.inputs,
        measured=-problem.measured,
        weights=problem.weights,
        huber=np.inf,
    )
    found = search(upside_down, spread_starts(problem.law, 16), keep=4)
    assert (found.coefficients >= 0).all()
    assert found.coefficients[0, 1:].tolist() == [0.0, 0.0]


def test_held_coefficients_stay_and_the_rest_is_the_best_for_them():
    problem = problem_of("chinchilla")
    free = solve(problem, np.array([[0.3, 0.3]]))
    value = 1.1 * free.coefficients[0, 0]
    held = Held(exponents=np.zeros(2, dtype=bool), term=0, values=np.array([value]))
    found = solve(problem, free.exponents, held)
    assert found.coefficients[0, 0] == value
    assert found.cost[0] > free.cost[0]
    back = Held(
        exponents=np.zeros(2, dtype=bool), term=0, values=np.array([free.coefficients[0, 0]])
    )
    assert solve(problem, np.array([[0.3, 0.3]]), back).cost[0] == NEAR(free.cost[0], rel=1e-6)


def test_an_odd_run_moves_least_squares_and_hardly_moves_hubers_loss():
    law = LAWS["chinchilla"]
    truth = published_values(law).values
    points = points_of(draw_table(law, truth, noise=0.003, num_seeds=2, seed=3), law)
    points.response[0] *= 1.3
    robust, _ = robust_fit(points)
    plain = search(
        Problem(
            law=law,
            inputs=points.inputs,
            measured=np.log(points.response)[None, :],
            weights=np.ones((1, len(points))),
            huber=np.inf,
        ),
        spread_starts(law, 32),
        keep=4,
    )
    away = [abs(s.exponents[0] - [truth["alpha"], truth["beta"]]).max() for s in (robust, plain)]
    assert away[0] < 0.02 < away[1]


@settings(max_examples=50)
@given(st.floats(-2, 2), st.floats(0.01, 1))
def test_hubers_weights_are_the_slope_of_its_loss(residual, threshold):
    at = np.array([[residual]])
    step = 1e-6
    slope = (huber_loss(at + step, threshold) - huber_loss(at - step, threshold)) / (2 * step)
    assert slope[0, 0] == NEAR(float(huber_weights(at, threshold)[0, 0]) * residual, abs=1e-5)


def test_the_inner_steps_are_enough():
    """Three Gauss-Newton steps solve the inner problem, far from the best exponents too."""
    problem = problem_of("chinchilla", noise=0.05)
    none = Held(exponents=np.zeros(2, dtype=bool))
    found = project(problem, np.array([[0.6, 0.2]]), none)
    start = np.log(np.maximum(found.coefficients[0], 1e-12))
    best = scipy.optimize.minimize(
        lambda v: slow_cost(problem, np.concatenate([v, [0.6, 0.2]])),
        start,
        method="Nelder-Mead",
        options={"maxiter": 4000, "fatol": 1e-14, "xatol": 1e-10},
    )
    assert found.cost[0] <= best.fun * (1 + 1e-3)
