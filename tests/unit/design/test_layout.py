"""Which layouts there are, and what each asks of model and batch."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fakes import tiny_model
from isoflop.config import UserError
from isoflop.design.layout import Layout, cut_dimension

POWERS = st.sampled_from([1, 2, 4, 8, 16])


@given(POWERS, POWERS, POWERS)
def test_the_meshes_hold_every_rank_once(ranks, shard, expert_parallel):
    assume(max(shard, expert_parallel) <= ranks)
    layout = Layout(ranks=ranks, shard=shard, expert_parallel=expert_parallel)
    assert layout.replicas * layout.shard == ranks
    assert layout.expert_replicas * layout.expert_shard * layout.expert_parallel == ranks


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"ranks": 0}, "ranks=0 must be at least 1"),
        ({"ranks": 4, "shard": 3}, "shard=3 must divide ranks=4"),
        ({"ranks": 4, "expert_parallel": 8}, "expert_parallel=8 must divide ranks=4"),
        ({"ranks": 12, "shard": 4, "expert_parallel": 6}, "one must divide the other"),
    ],
)
def test_a_layout_that_is_none_is_refused(fields, told):
    with pytest.raises(UserError, match=told):
        Layout(**fields)


def test_experts_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="E8: expert_parallel=3 must divide num_experts=8"):
        Layout(ranks=3, expert_parallel=3).check_model(tiny_model(num_experts=8), "E8")
    with pytest.raises(UserError, match="d_model=16 must be a multiple of 32"):
        Layout(ranks=64, shard=64, expert_parallel=2).check_model(tiny_model())


@pytest.mark.parametrize(
    ("batch", "micro", "scope", "ranks", "wanted"),
    [
        (8, None, "global", 4, 2),
        (8, 2, "micro", 4, 2),
        (32, 2, "micro", 4, 2),
        (8, 1, "micro", 2, 1),
    ],
)
def test_ranks_share_a_batch(batch, micro, scope, ranks, wanted):
    assert Layout(ranks=ranks).micro_batch_sequences(batch, micro, scope) == wanted


@pytest.mark.parametrize(
    ("batch", "micro", "scope", "told"),
    [
        (6, None, "global", "batch_sequences=6 must be a multiple of ranks=4"),
        (8, None, "micro", "balance_scope='micro' is over 8 sequences, and 4 ranks have 2 each"),
        (24, 4, "global", "micro_batch_sequences=4 must divide the 6 sequences of each of 4 ranks"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(batch, micro, scope, told):
    with pytest.raises(UserError, match=told):
        Layout(ranks=4).micro_batch_sequences(batch, micro, scope)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 8))
def test_weights_are_cut_without_padding_where_that_can_be(shape, parts):
    place = cut_dimension(tuple(shape), parts)
    assert shape[place] % parts == 0 or all(size % parts for size in shape)
