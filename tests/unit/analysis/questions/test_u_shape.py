"""A U-shape is claimed where there is one, and in at most 5% of studies of these scatters where there
is none."""

import math
import random

import numpy as np
import pytest

from isoflop.analysis.questions.optimum import optimum
from isoflop.analysis.questions.u_shape import detectable_fall, power, two_lines, u_shape
from isoflop.analysis.statistics import Sample

NEAR = pytest.approx
PLACES = [2.0**i for i in range(6)]


def samples(truth, *, seeds=4, spread=0.02, seed=0, items=()):
    generator = random.Random(seed)
    return [
        Sample(
            name=f"c{i}",
            density=2.0**-i,
            values=tuple(value + generator.gauss(0, spread) for _ in range(seeds)),
            item_errors=items,
        )
        for i, value in enumerate(truth)
    ]


INVERTED = (0.2, 0.35, 0.5, 0.6, 0.5, 0.4)
SATURATING = (0.2, 0.35, 0.45, 0.5, 0.52, 0.525)
FALLING = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def test_an_inverted_u_is_claimed_with_its_turning_point():
    found = u_shape(samples(INVERTED), PLACES, better="higher")
    assert found.is_real
    assert found.kind == "inverted U"
    assert found.turning_cell == "c3"
    assert found.rise == NEAR(0.4, abs=0.08)
    assert found.fall == NEAR(-0.2, abs=0.08)
    assert found.seeds_inside == found.num_common_seeds == 4
    assert found.saturation_advantage < -10


@pytest.mark.parametrize("truth", [SATURATING, FALLING, FALLING[::-1], (0.5,) * 6])
def test_saturation_and_straight_lines_are_no_u(truth):
    found = u_shape(samples(truth), PLACES, better="higher")
    assert not found.is_real
    assert found.kind == "no U-shape shown"


def test_losses_are_turned_over():
    upside_down = [
        Sample(name=s.name, density=s.density, values=tuple(-v for v in s.values))
        for s in samples(INVERTED)
    ]
    first = u_shape(samples(INVERTED), PLACES, better="higher")
    second = u_shape(upside_down, PLACES, better="lower")
    assert first == second
    assert not u_shape(upside_down, PLACES, better="higher").is_real


def test_order_of_cells_does_not_matter():
    cells = samples(INVERTED)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = u_shape([cells[i] for i in order], [PLACES[i] for i in order], better="higher")
    assert shuffled == u_shape(cells, PLACES, better="higher")


def step(generator, size):
    return math.copysign(size, generator.random() - 0.5) + generator.gauss(0, 0.02)


SPREADS = {
    "normal": lambda r, cell: r.gauss(0, 1),
    "grows with E": lambda r, cell: r.gauss(0, 2.0**cell),
    "steps everywhere": lambda r, cell: step(r, 0.4),
    "steps at the sparsest alone": lambda r, cell: step(r, 0.4 if cell == 5 else 0.0),
}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("truth", ["flat after a steep rise", "levels off", "flat"])
def test_false_claims_stay_below_five_percent(spread, truth):
    """Small version of benchmarks/u_shape_rates.py, which runs 20,000 studies a case."""
    generator, draw, studies = random.Random(5), SPREADS[spread], 400
    rises = {"flat after a steep rise": [-50, 0, 0, 0, 0, 0], "flat": [0] * 6}
    rise = np.array(rises.get(truth, [-5, -2.5, -1.2, -0.6, -0.3, -0.15]), dtype=float)
    values = np.array(
        [[[draw(generator, c) for _ in range(3)] for c in range(6)] for _ in range(studies)]
    )
    means = values.mean(axis=2) + rise
    errors = values.var(axis=2, ddof=1) / 3
    p_values, _ = two_lines(means, errors, np.full(6, 2.0), np.arange(6.0))
    assert (p_values < 0.05).mean() <= 0.05


def test_power_grows_with_the_fall_and_the_seeds():
    x = np.arange(6.0)
    by_fall = [power(x, [4] * 6, fall=fall, studies=500) for fall in (0.0, 1.0, 2.0, 4.0, 8.0)]
    assert by_fall == sorted(by_fall)
    assert by_fall[0] <= 0.05
    assert by_fall[-1] > 0.95
    assert power(x, [8] * 6, fall=2.0, studies=500) > power(x, [3] * 6, fall=2.0, studies=500)


def test_the_detectable_fall_is_found_in_four_of_five_studies_of_its_size():
    x = np.arange(6.0)
    cells = samples(INVERTED, spread=0.05)
    fall = detectable_fall(cells, x)
    pooled = math.sqrt(np.mean([np.var(s.values, ddof=1) for s in cells]))
    assert power(x, [4] * 6, fall=fall / pooled) >= 0.8
    assert power(x, [4] * 6, fall=fall / pooled - 0.5) < 0.8


@pytest.mark.parametrize(
    ("cells", "places", "words"),
    [
        (samples(INVERTED, seeds=1), PLACES, "c0 has 1 of the 3 seeds"),
        (samples(INVERTED[:4]), PLACES[:4], "4 settings: two lines need at least 5"),
        (samples(INVERTED), [1.0, 1.0, *PLACES[2:]], "two cells lie at the same place"),
    ],
)
def test_what_cannot_be_tested_says_why(cells, places, words):
    found = u_shape(cells, places, better="higher")
    assert (found.p_value, found.kind) == (None, "not tested")
    assert words in found.reason


def test_seeds_that_agree_by_rounding_keep_the_error_of_the_questions():
    sure = samples(INVERTED, spread=0.0)
    careful = samples(INVERTED, spread=0.0, items=(0.2,) * 4)
    assert u_shape(sure, PLACES, better="higher").is_real
    assert not u_shape(careful, PLACES, better="higher").is_real


def test_the_optimum_of_a_parabola_is_its_top_and_its_interval_holds_it():
    x = np.log(np.array(PLACES))
    top = math.log(6.0)
    truth = tuple(0.6 - 0.05 * (x - top) ** 2)
    inside = 0
    for seed in range(60):
        found = optimum(samples(truth, seed=seed, spread=0.03), PLACES, better="higher")
        inside += found.low <= 6.0 <= found.high
    assert 53 <= inside <= 60
    assert found.place == NEAR(6.0, rel=0.4)
    assert found.best_cell in found.could_be_best


def test_an_optimum_at_the_end_is_called_an_end():
    found = optimum(samples(FALLING), PLACES, better="higher")
    assert found.best_cell == "c0"
    assert found.best_cell_share == NEAR(1.0)
    assert found.share_at_ends > 0.9
    assert found.could_be_best == ("c0",)


@pytest.mark.parametrize(
    ("seeds", "cells", "words"), [(1, 6, "1 of the 3 seeds"), (3, 2, "2 settings")]
)
def test_an_optimum_without_seeds_or_cells_names_the_best_mean_alone(seeds, cells, words):
    found = optimum(samples(INVERTED[:cells], seeds=seeds), PLACES[:cells], better="higher")
    assert (found.place, found.low, found.best_cell_share) == (None, None, None)
    assert words in found.reason
