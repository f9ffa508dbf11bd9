"""Intervals hold the truth, what cannot be known is flagged, and the largest budget is predicted."""

import dataclasses
import json
import re

import numpy as np
import pytest
from scipy.special import ndtr

from isoflop.analysis.fits import fit_law
from isoflop.analysis.fits.bootstrap import (
    bootstrap,
    freedoms,
    interval,
    satterthwaite,
    widened_levels,
)
from isoflop.analysis.fits.chain import fit_sigmoid, fit_transfer
from isoflop.analysis.fits.fit import (
    Coefficient,
    coefficients,
    misfit,
    named_values,
    predict,
    robust_fit,
)
from isoflop.analysis.fits.heldout import budgets, leave_largest_out
from isoflop.analysis.fits.parabola import parabola_fit
from isoflop.analysis.fits.points import points_of
from isoflop.analysis.fits.profile import profiles
from isoflop.analysis.fits.text import end_texts, fit_to_json, fit_to_text, status_text
from isoflop.analysis.laws import LAWS
from isoflop.analysis.laws.draw import draw_table
from isoflop.analysis.laws.law import published_values
from isoflop.analysis.tables.derive import derive
from isoflop.config import UserError

NEAR = pytest.approx
CHINCHILLA = LAWS["chinchilla"]
TRUTH = published_values(CHINCHILLA).values


def isoflop_table(*, noise=0.003, seeds=2, seed=0, reach=4.0, drift=0.0, offset=1.0):
    """Five budgets of seven sizes about the optimum (or beside it), drawn from the law."""
    flops = np.geomspace(1e18, 1e21, 5)
    lines = []
    for number, budget in enumerate(flops):
        best = offset * 0.12 * (budget / 6) ** 0.5 * np.exp(drift * number)
        lines += [(size, budget / 6 / size) for size in best * np.geomspace(1 / reach, reach, 7)]
    n, d = np.array(lines).T
    table = draw_table(
        CHINCHILLA, TRUTH, noise=0.0, num_seeds=seeds, seed=0, design={"N": (1e9,), "D": (1e10,)}
    )
    loss = CHINCHILLA.predict({"N": n, "D": d}, TRUTH)
    generator = np.random.default_rng(seed)
    drawn = loss * np.exp(noise * generator.normal(size=(seeds, len(n))))
    bare = dataclasses.replace(
        table,
        numbers={
            "active_params": np.tile(n, seeds),
            "total_params": np.tile(n, seeds),
            "tokens": np.tile(d, seeds),
            "seed": np.repeat(np.arange(seeds, dtype=float), len(n)),
            "train_loss": drawn.reshape(-1),
        },
        texts={"cell": tuple(f"N{a:.3g}D{b:.3g}" for a, b in lines) * seeds},
        places=tuple(f"line {i}" for i in range(seeds * len(n))),
        notes=(),
    )
    return derive(bare)


@pytest.fixture(scope="module")
def fit():
    return fit_law(CHINCHILLA, isoflop_table(seeds=3), replicates=300)


def test_coefficients_come_back_within_their_intervals(fit):
    for found in fit.coefficients:
        assert found.low < TRUTH[found.name] < found.high
        assert found.low < found.value < found.high
        assert found.status == "identified"
    assert fit.unidentified == ()
    assert fit.rms_residual == NEAR(0.003, rel=0.3)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """A small version of benchmarks/law_recovery.py: 40 tables, two exponents and the floor."""
    inside = dict.fromkeys(("alpha", "beta", "E"), 0)
    for draw in range(40):
        points = points_of(isoflop_table(seeds=2, seed=draw), CHINCHILLA)
        best, huber = robust_fit(points)
        drawn = bootstrap(points, best, replicates=150, seed=draw, huber=huber)
        for name in inside:
            low, high = interval(named_values(CHINCHILLA, drawn)[name], points.num_clusters - 5)
            inside[name] += low <= TRUTH[name] <= high
    assert all(count >= 34 for count in inside.values()), inside


def test_seeds_of_a_cell_are_not_taken_as_cells():
    """Three copies of each run must not make an interval narrower."""
    table = isoflop_table(seeds=1)
    number = len(table)
    copies = dataclasses.replace(
        table,
        numbers={n: np.tile(v, 3) for n, v in table.numbers.items()}
        | {"seed": np.repeat(np.arange(3.0), number)},
        texts={n: v * 3 for n, v in table.texts.items()},
        places=table.places * 3,
    )
    widths = []
    for one in (table, copies):
        points = points_of(one, CHINCHILLA)
        best, _ = robust_fit(points)
        drawn = bootstrap(points, best, replicates=200, seed=1, huber=np.inf)
        widths.append(named_values(CHINCHILLA, drawn)["alpha"].std())
        assert points.num_clusters == number
    assert widths[1] == NEAR(widths[0], rel=0.05)


def test_tokens_of_one_value_leave_the_floor_and_their_term_unidentified():
    law = LAWS["krajewski"]
    table = draw_table(
        law,
        published_values(law).values,
        noise=0.003,
        num_seeds=2,
        seed=1,
        design={"N": (1e8, 4e8, 1.6e9, 6.4e9), "D": (2e10,), "G": (1, 2, 4, 8)},
    )
    found = fit_law(law, table, replicates=100)
    assert {"b", "c", "beta"} <= set(found.unidentified)
    assert any("tokens has one value" in note for note in found.notes)
    assert "NOT IDENTIFIED" in fit_to_text(found)
    (line,) = [line for line in fit_to_text(found).splitlines() if line.startswith("beta ")]
    assert re.search(
        r" none  NOT IDENTIFIED: any(thing (above|below) \S+| value) fits as well$", line
    )
    assert " to " not in line
    # What is identified or weak has both ends, and says them.
    for one in found.coefficients:
        open_end = one.low is None or one.high is None
        assert end_texts(one) == ("none", "none") or not open_end
        assert (one.status == "not identified") == (end_texts(one)[0] == "none")


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((None, None), "any value fits as well"),
        ((None, 3.0), "anything below 3 fits as well"),
        ((0.5, None), "anything above 0.5 fits as well"),
        ((0.0, 3.0), "anything from 0 to 3 fits as well"),
    ],
)
def test_where_values_are_ruled_out_is_no_interval(ends, words):
    one = Coefficient(
        name="c",
        value=1.0,
        low=ends[0],
        high=ends[1],
        status="not identified",
        profile_low=None,
        profile_high=None,
    )
    assert end_texts(one) == ("none", "none")
    assert status_text(one) == f"NOT IDENTIFIED: {words}"


def test_a_direction_that_costs_nothing_widens_all_intervals_to_the_profiles():
    """Above about 130, E_max does not matter up to 32 experts: replicates stay where they began."""
    law = LAWS["joint"]
    design = {"N": (8e7, 5e8, 3e9), "D": (2e9, 2e10, 2e11), "E": (1, 2, 4, 8, 16, 32)}
    points = points_of(
        draw_table(
            law, published_values(law).values, noise=0.003, num_seeds=2, seed=3, design=design
        ),
        law,
    )
    best, huber = robust_fit(points)
    drawn = bootstrap(points, best, replicates=100, seed=1, huber=huber)
    found = {c.name: c for c in coefficients(points, best, drawn, profiles(points, best))}
    assert found["E_max"].status == "not identified"
    told = [c for c in found.values() if c.status != "not identified"]
    assert len(told) > 5
    alone = named_values(law, drawn)
    freedom = dict(zip(law.coefficient_names, freedoms(points, best, np.inf), strict=True))
    for c in told:
        low, high = interval(alone[c.name], float(freedom[c.name]))
        assert (c.low, c.high) == (min(low, c.profile_low), max(high, c.profile_high))
    assert any(c.low == c.profile_low for c in told)


def test_a_law_that_misses_the_runs_is_told_apart_from_one_that_does_not():
    points = points_of(isoflop_table(seeds=3), CHINCHILLA)
    right = misfit(points, robust_fit(points)[0])
    kaplan = points_of(isoflop_table(seeds=3), LAWS["kaplan"])
    wrong = misfit(kaplan, robust_fit(kaplan)[0])
    assert right > 0.05
    assert wrong < 1e-6
    one_seed = points_of(isoflop_table(seeds=1), CHINCHILLA)
    assert misfit(one_seed, robust_fit(one_seed)[0]) is None


def test_the_largest_budget_is_predicted_without_it(fit):
    held = fit.held_out
    assert held.flops == NEAR(1e21, rel=1e-6)
    assert held.factor == NEAR(10**0.75, rel=1e-6)
    assert held.num_points == 21
    assert abs(held.mean_error) < 0.006
    assert held.share_inside >= 0.8


def test_one_budget_says_why_it_cannot_be_left_out():
    law = LAWS["clark"]
    table = draw_table(
        law,
        published_values(law).values,
        noise=0.003,
        num_seeds=1,
        seed=1,
        design={"N": (1e8,), "E": tuple(float(2**i) for i in range(10))},
    )
    held = leave_largest_out(points_of(table, law), huber=np.inf, seed=0)
    assert (held.mean_error, held.reason) == (None, "all runs have one budget")


def test_budgets_are_groups_of_equal_flops():
    flops = np.array([1e18, 1.05e18, 3e18, 1e18, 3.1e18])
    assert budgets(flops).tolist() == [0, 0, 1, 0, 1]


def test_profiles_of_a_known_case_agree_with_the_bootstrap(fit):
    """At the degrees of freedom that a profile takes; the told ends lie at the coefficient's own."""
    points, drawn = fit.points, named_values(CHINCHILLA, fit.drawn)
    for profile in profiles(points, fit.best):
        assert profile.low is not None
        assert profile.high is not None
        low, high = interval(drawn[profile.name], fit.num_cells - 5)
        assert 0.6 < (profile.high - profile.low) / (high - low) < 1.7


def test_degrees_of_freedom_are_those_of_means_where_means_are_fitted():
    mean = np.ones((9, 1))
    assert satterthwaite(mean, np.arange(9)) == NEAR(8)
    # Three points a cell are one: the cells count.
    assert satterthwaite(np.ones((27, 1)), np.repeat(np.arange(9), 3)) == NEAR(8)
    assert np.isnan(satterthwaite(np.stack([np.ones(5), np.zeros(5)], axis=1), np.arange(5))[1])


def test_a_corner_that_settles_a_coefficient_leaves_it_few_degrees_of_freedom(fit):
    found = freedoms(fit.points, fit.best, fit.huber)
    assert (found >= 1).all()
    assert (found <= fit.num_cells - 5).all()
    slope = np.stack([np.ones(20), np.eye(20)[0] + 0.01 * np.arange(20)], axis=1)
    assert satterthwaite(slope, np.arange(20))[1] < 2


def test_few_draws_give_no_narrower_ends_than_many():
    """k of n draws stand for k / (n + 1): the share of new draws outside is 5% for any n."""
    generator = np.random.default_rng(3)
    for number in (100, 1000):
        outside = 0.0
        for _ in range(300):
            low, high = interval(generator.normal(size=number), 1e9)
            outside += (ndtr(low) + 1 - ndtr(high)) / 300
        assert outside == NEAR(0.05, abs=0.004)


@pytest.mark.parametrize(("cells", "spare"), [(6, 1), (30, 25), (1000, 995)])
def test_percentiles_are_wider_for_few_cells(cells, spare):
    low, high = widened_levels(spare)
    assert 0 < low <= 0.0251
    assert high == NEAR(1 - low)
    assert (low < 0.015) == (cells < 30)


def test_few_settings_and_unknown_columns_are_refused():
    table = isoflop_table(seeds=3)
    few = table.where(np.arange(len(table)) % 35 < 5)
    with pytest.raises(UserError, match=r"has 5 coefficients and needs at least 7 different"):
        fit_law(CHINCHILLA, few)
    with pytest.raises(UserError, match=r"no column 'gsm8k\.loss'"):
        fit_law(CHINCHILLA, table, column="gsm8k.loss")
    with pytest.raises(UserError, match=r"the law joint needs num_experts and top_k \(E"):
        fit_law(LAWS["joint"], table)


def test_one_seed_is_said():
    found = fit_law(CHINCHILLA, isoflop_table(seeds=1), replicates=100)
    assert any("one seed a cell" in note for note in found.notes)


def test_parabolas_are_biased_without_noise_and_the_default_fit_is_not():
    """arXiv:2603.22339: sizes that drift away from the optimum, as in practice."""
    table = isoflop_table(noise=0.0, seeds=1, reach=8.0, drift=-0.4)
    found = parabola_fit(fit_law(CHINCHILLA, table, replicates=100))
    true = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    assert found.law_exponent == NEAR(true, abs=1e-4)
    assert abs(found.exponent - true) > 0.01
    assert found.exponent_bias == NEAR(found.exponent - true, abs=1e-3)
    assert abs(found.size_bias_beyond) > 0.1


def test_a_parabola_through_a_parabola_is_exact():
    """Narrow grids about the optimum leave nearly no bias: it is the shape that makes it."""
    found = parabola_fit(
        fit_law(CHINCHILLA, isoflop_table(noise=0.0, seeds=1, reach=1.3), replicates=100)
    )
    assert abs(found.exponent_bias) < 0.002


def test_predictions_have_the_interval_of_the_draws(fit):
    mean, low, high = predict(fit, {"N": np.array([1e9, 1e11]), "D": np.array([2e10, 2e12])})
    truth = CHINCHILLA.predict({"N": np.array([1e9, 1e11]), "D": np.array([2e10, 2e12])}, TRUTH)
    assert (low < mean).all()
    assert (mean < high).all()
    assert ((low < truth) & (truth < high)).all()
    # Further out is less sure.
    assert (high - low)[1] > (high - low)[0]


def test_the_same_seed_gives_the_same_draws_and_another_seed_others(fit):
    draws = [
        bootstrap(fit.points, fit.best, replicates=20, seed=seed, huber=fit.huber).exponents
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_json_holds_the_numbers_of_the_words(fit):
    data = json.loads(fit_to_json(fit))
    assert {c["name"] for c in data["coefficients"]} == set(TRUTH)
    assert data["held_out"]["num_points"] == 21
    assert data["parabola"]["law_exponent"] == NEAR(
        fit.values["beta"] / (fit.values["alpha"] + fit.values["beta"])
    )
    text = fit_to_text(fit)
    for words in (
        "95% interval",
        "wild bootstrap over 35 cells",
        "Fitted without the largest budget",
    ):
        assert words in text


def chain_table(middle=0.85):
    """Checkpoints whose task loss and accuracy follow known curves of the loss."""
    table = isoflop_table(noise=0.002, seeds=2)
    loss = table.number("train_loss")
    generator = np.random.default_rng(4)
    task = 0.5 * (loss - 1.2) ** 1.4 + 0.1 + 0.002 * generator.normal(size=len(loss))
    accuracy = (
        0.7 / (1 + np.exp(12 * (task - middle))) + 0.25 + 0.01 * generator.normal(size=len(loss))
    )
    numbers = {**table.numbers, "gsm8k.bits_per_byte": task, "gsm8k.accuracy": accuracy}
    return dataclasses.replace(table, numbers=numbers)


def test_the_sigmoid_of_the_ladder_is_found():
    found = fit_sigmoid(chain_table(), "gsm8k.bits_per_byte", "gsm8k.accuracy", replicates=150)
    values = {c.name: c for c in found.coefficients}
    for name, true in (("a", 0.7), ("b", 0.25), ("k", -12.0), ("L0", 0.85)):
        width = values[name].high - values[name].low
        assert abs(values[name].value - true) < width
        assert width < 0.5 * abs(true)
    assert found.rms_residual == NEAR(0.01, rel=0.3)
    assert "of the loss (root" not in fit_to_text(found)


def test_a_sigmoid_whose_top_was_never_reached_is_not_identified():
    found = fit_sigmoid(chain_table(0.5), "gsm8k.bits_per_byte", "gsm8k.accuracy", replicates=100)
    assert {"a", "L0"} <= set(found.unidentified)
    height = next(c for c in json.loads(fit_to_json(found))["coefficients"] if c["name"] == "a")
    assert (height["low"], height["high"]) == (None, None)
    assert height["not_ruled_out"][0] > 0
    assert height["not_ruled_out"][1] is None
    (line,) = [line for line in fit_to_text(found).splitlines() if line.startswith("a ")]
    assert re.search(r"NOT IDENTIFIED: anything above \S+ fits as well", line)


def test_loss_to_loss_is_found_as_a_curve():
    found = fit_transfer(chain_table(), "train_loss", "gsm8k.bits_per_byte", replicates=100)
    x = np.array([2.2, 2.5, 2.9])
    mean, low, high = predict(found, {"L": x})
    np.testing.assert_allclose(mean, 0.5 * (x - 1.2) ** 1.4 + 0.1, rtol=0.01)
    assert (low < high).all()


def test_chains_without_their_columns_or_points_are_refused():
    with pytest.raises(UserError, match="no column"):
        fit_sigmoid(isoflop_table(), "gsm8k.bits_per_byte", "gsm8k.accuracy")
    flat = chain_table()
    flat.numbers["gsm8k.accuracy"][:] = 0.0
    with pytest.raises(UserError, match="one of the two has a single value"):
        fit_sigmoid(flat, "gsm8k.bits_per_byte", "gsm8k.accuracy")
    few = chain_table()
    few = few.where(np.arange(len(few)) < 3)
    with pytest.raises(UserError, match="needs at least 6 different settings"):
        fit_sigmoid(few, "gsm8k.bits_per_byte", "gsm8k.accuracy")
