import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.tokens.blend import BLOCK_SAMPLES, Blend

SHARES = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=9)


@settings(max_examples=25)
@given(SHARES)
def test_shares_are_met_within_one_sample_at_every_prefix(shares):
    blend = Blend(shares)
    num_samples = 600
    given_samples = [0] * len(shares)
    sources, _ = blend.samples(0, num_samples)
    for done, source in enumerate(sources.tolist(), start=1):
        given_samples[source] += 1
        for share, count in zip(blend.shares, given_samples, strict=True):
            assert abs(share * done - count) < 1 + 1e-6


def test_the_case_in_which_the_largest_deficit_drifts_apart():
    blend = Blend([0.4556, 0.003, 0.5182, 0.0232])
    for done in range(0, 3000):
        for share, count in zip(blend.shares, blend.counts(done), strict=True):
            assert abs(share * done - count) < 1


def test_each_sample_of_a_source_is_given_once_and_in_order():
    blend = Blend([0.5, 0.3, 0.2])
    sources, numbers = blend.samples(0, 2 * BLOCK_SAMPLES + 7)
    for source in range(3):
        of_source = numbers[sources == source].tolist()
        assert of_source == list(range(len(of_source)))
        assert len(of_source) == blend.counts(2 * BLOCK_SAMPLES + 7)[source]


@settings(max_examples=12)
@given(SHARES, st.integers(0, 2 * BLOCK_SAMPLES), st.integers(0, 2 * BLOCK_SAMPLES))
def test_any_part_equals_the_part_of_the_whole(shares, first, length):
    whole_sources, whole_numbers = Blend(shares).samples(0, first + length)
    sources, numbers = Blend(shares).samples(first, length)
    assert sources.tolist() == whole_sources[first:].tolist()
    assert numbers.tolist() == whole_numbers[first:].tolist()


def test_equal_shares_take_turns():
    assert Blend([2.0, 2.0]).samples(0, 6)[0].tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("shares", [[], [0.5, 0.0], [1.0, -1.0]])
def test_shares_must_be_above_zero(shares):
    with pytest.raises(UserError, match="above 0"):
        Blend(shares)
