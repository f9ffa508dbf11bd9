"""Draws never repeat, and shares are as even as places allow."""

import random

from hypothesis import given
from hypothesis import strategies as st

from isoflop.corpus.probes.texts import draw_distinct, spread_evenly


@given(st.integers(0, 60), st.integers(0, 30), st.integers(0, 30), st.integers(0, 9))
def test_drawn_numbers_are_different_and_allowed(spare, count, num_excluded, seed):
    total = count + num_excluded + spare
    excluded = set(random.Random(seed).sample(range(total), num_excluded))
    drawn = draw_distinct(total, count, excluded, random.Random(seed))
    assert len(set(drawn)) == len(drawn) == count
    assert set(drawn) <= set(range(total)) - excluded


def test_totals_beyond_machine_words_can_be_drawn_from():
    assert len(set(draw_distinct(10**40, 100, frozenset(), random.Random(0)))) == 100


@given(st.lists(st.integers(0, 20), min_size=1), st.data())
def test_a_spread_sums_to_the_count_and_no_place_could_be_more_even(capacities, data):
    count = data.draw(st.integers(0, sum(capacities)))
    shares = spread_evenly(count, capacities)
    assert sum(shares) == count
    for share, capacity in zip(shares, capacities, strict=True):
        assert 0 <= share <= capacity
        # A place with less than another's share is full, one rounding apart.
        assert share == capacity or share >= max(shares) - 1
