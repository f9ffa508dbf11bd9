"""Profiles walked outwards are the profiles of a slow search from everywhere at every value."""

import numpy as np
import pytest

from isoflop.analysis.fits.fit import robust_fit
from isoflop.analysis.fits.points import points_of
from isoflop.analysis.fits.profile import profiles
from isoflop.analysis.fits.projection import Held, Problem
from isoflop.analysis.fits.starts import search, spread_starts
from isoflop.analysis.laws import LAWS
from isoflop.analysis.laws.draw import draw_table
from isoflop.analysis.laws.law import published_values

NEAR = pytest.approx


def searched_cost(problem, place=None, value=None):
    """Least cost from many starts, with one coefficient held where it is named."""
    law, number = problem.law, 40
    starts, terms = spread_starts(law, number), len(law.terms)
    fixed = np.zeros(len(law.exponents), dtype=bool)
    held = Held(exponents=fixed)
    if place is not None and place >= terms:
        fixed[place - terms] = True
        starts[:, place - terms] = value
    elif place is not None:
        held = Held(exponents=fixed, term=place, values=np.full(number, value))
    # All rows of what is held are alike, so it does not matter which of them `search` keeps.
    return float(search(problem, starts, keep=number, held=held).cost[0])


@pytest.mark.parametrize("name", ["chinchilla", "clark", "kaplan"])
def test_no_search_finds_a_better_fit_at_a_held_value(name):
    law = LAWS[name]
    table = draw_table(law, published_values(law).values, noise=0.005, num_seeds=1, seed=5)
    points = points_of(table, law)
    problem = Problem(
        law=law,
        inputs=points.inputs,
        measured=law.to_scale(points.response)[None, :],
        weights=np.ones((1, len(points))),
        huber=np.inf,
    )
    freedom, least = len(points) - len(law.coefficient_names), searched_cost(problem)
    for place, profile in enumerate(profiles(points, robust_fit(points)[0])):
        excess = np.array(profile.excess)
        inside = np.flatnonzero((excess > 0.5) & (excess < 2 * profile.threshold))
        assert len(inside) > 1
        for at in inside[[0, -1]]:
            cost = searched_cost(problem, place, profile.values[at])
            assert cost / least - 1 == NEAR(excess[at] / freedom, rel=0.02)


def test_a_coefficient_at_the_end_of_its_range_has_no_lower_side():
    """Krajewski's g of dense models is 0: below it there is nothing to follow."""
    law = LAWS["krajewski"]
    values = published_values(law, "dense").values
    points = points_of(draw_table(law, values, noise=0.005, num_seeds=2, seed=5), law)
    best, _ = robust_fit(points)
    by_name = {profile.name: profile for profile in profiles(points, best)}
    assert by_name["g"].low is None
    assert by_name["g"].status == "not identified"
    assert by_name["gamma"].status == "not identified"
