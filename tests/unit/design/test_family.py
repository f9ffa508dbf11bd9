"""Families keep fixed what they promise; names are those of the released checkpoints."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.design.family import (
    Cell,
    check_distinct_names,
    check_matched,
    family,
    grid,
    released_name,
    short_count,
    tokens_for_flops,
    tokens_per_active_parameter,
    tokens_per_parameter,
    train_flops,
    vary_experts,
    vary_top_k_matched,
    vary_top_k_unmatched,
    vary_width,
    with_active_params,
)
from isoflop.experiments.paper import TRAIN_TOKENS, paper_cells
from isoflop.model.config import ModelConfig
from isoflop.model.count import active_params, router_params, total_params

# What was released: by width, the total of every E and the active part of every k.
RELEASED = {
    512: (
        {8: "320M", 16: "520M", 32: "920M", 64: "1.7B", 128: "3.3B", 256: "6.6B"},
        {2: "A170M", 4: "A220M", 8: "A320M", 16: "A520M"},
    ),
    1024: (
        {8: "1.1B", 16: "1.9B", 32: "3.5B", 64: "6.7B", 128: "13.2B", 256: "26.0B"},
        {2: "A470M", 4: "A670M", 8: "A1.1B", 16: "A1.9B"},
    ),
    2048: (
        {8: "3.9B", 16: "7.1B", 32: "13.6B", 64: "26.4B", 128: "52.2B"},
        {2: "A1.5B", 4: "A2.3B", 8: "A3.9B", 16: "A7.1B"},
    ),
}
RELEASED_NAMES = [
    f"d{d_model}-E{experts}-k{top_k}-{total}-{active}"
    for d_model, (totals, actives) in RELEASED.items()
    for top_k, active in actives.items()
    for experts, total in totals.items()
    if (experts, top_k) != (8, 16)
]

# Tokens per parameter of the released grid, by width, along E.
RELEASED_TPP = {
    512: ["390", "240", "135", "72.3", "37.4", "19.0"],
    1024: ["116", "66.4", "35.8", "18.6", "9.5", "4.8"],
    2048: ["32.1", "17.6", "9.2", "4.7", "2.4"],
}

BASE = ModelConfig(
    vocabulary_size=512,
    num_layers=2,
    d_model=32,
    num_heads=2,
    d_expert=64,
    num_experts=16,
    top_k=2,
    sequence_length=128,
)


def models(cells: list[Cell]) -> list[ModelConfig]:
    return [cell.model for cell in cells]


def test_all_names_of_the_study_come_out_as_released_and_in_order():
    assert len(RELEASED_NAMES) == 65
    assert [cell.name for cell in paper_cells()] == RELEASED_NAMES


def test_the_study_is_one_shape_at_three_widths():
    for model in models(paper_cells()):
        assert model.num_heads * 128 == model.d_model
        assert model.d_expert == 2 * model.d_model
        assert (model.num_layers, model.vocabulary_size) == (16, 99_584)
        assert (model.sequence_length, model.rope_base) == (4096, 1e4)


@pytest.mark.parametrize("d_model", RELEASED_TPP)
def test_tokens_per_parameter_of_the_study(d_model):
    series = [m for m in models(paper_cells()) if (m.d_model, m.top_k) == (d_model, 2)]
    for model, expected in zip(series, RELEASED_TPP[d_model], strict=True):
        digits = len(expected.partition(".")[2])
        assert f"{tokens_per_parameter(model, TRAIN_TOKENS):.{digits}f}" == expected


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (999, "999"),
        (1_000, "1.0K"),
        (9_949, "9.9K"),
        (9_951, "10K"),
        (14_900, "15K"),
        (994_999, "990K"),
        (995_000, "1.0M"),
        (9_949_999, "9.9M"),
        (9_950_000, "10M"),
        (48_700_000, "49M"),
        (955_000_000, "960M"),
        (994_999_999, "990M"),
        (995_000_000, "1.0B"),
        (1_049_999_999, "1.0B"),
        (1_050_000_000, "1.1B"),
        (52_220_200_960, "52.2B"),
    ],
)
def test_a_short_count_rounds_before_it_chooses_its_unit(params, text):
    assert short_count(params) == text


@given(st.integers(1, 10**13), st.integers(1, 10**13))
def test_a_short_count_keeps_order_and_five_percent(first, second):
    def read(text: str) -> float:
        unit = {"K": 1e3, "M": 1e6, "B": 1e9}.get(text[-1], 1)
        return float(text.rstrip("KMB")) * unit

    low, high = sorted((first, second))
    assert read(short_count(low)) <= read(short_count(high))
    assert abs(read(short_count(first)) - first) <= 0.05 * first


def test_varying_experts_keeps_what_a_token_sees():
    cells = vary_experts(BASE, [32, 2, 8])
    assert [m.num_experts for m in models(cells)] == [2, 8, 32]
    assert {active_params(m) for m in models(cells)} == {active_params(BASE)}
    dense = cells[0].model
    assert dense.sparsity == 0
    assert active_params(dense) == total_params(dense) - router_params(dense)


def test_matched_top_k_keeps_active_parameters_and_unmatched_keeps_the_total():
    matched = models(vary_top_k_matched(BASE, [2, 4, 8]))
    assert {active_params(m) for m in matched} == {active_params(BASE)}
    assert sorted((m.top_k, m.d_expert) for m in matched) == [(2, 64), (4, 32), (8, 16)]
    unmatched = models(vary_top_k_unmatched(BASE, [2, 4, 8]))
    assert {total_params(m) for m in unmatched} == {total_params(BASE)}
    assert [m.top_k for m in unmatched] == [2, 4, 8]
    assert len({active_params(m) for m in unmatched}) == 3


def test_matched_top_k_refuses_experts_of_no_whole_width():
    with pytest.raises(UserError, match="top_k=3 must divide top_k x d_expert = 128"):
        vary_top_k_matched(BASE, [2, 3])


def test_width_keeps_head_width_and_expert_share():
    cells = vary_width(BASE, [64, 16, 48], head_width=16)
    assert [(m.d_model, m.num_heads, m.d_expert) for m in models(cells)] == [
        (16, 1, 32),
        (48, 3, 96),
        (64, 4, 128),
    ]


def test_width_refuses_what_does_not_split():
    with pytest.raises(UserError, match="d_model=24 must be a multiple of head_width=16"):
        vary_width(BASE, [24], head_width=16)
    with pytest.raises(UserError, match="d_model=64 must be a multiple of head_width=128"):
        vary_width(BASE, [64])
    with pytest.raises(UserError, match="no whole width"):
        vary_width(replace(BASE, d_expert=63), [48], head_width=16)


def test_a_grid_is_the_product_without_k_above_e():
    cells = grid(BASE, d_models=[32, 64], num_experts=[2, 8], top_ks=[1 + 1, 4], head_width=16)
    shapes = {(m.d_model, m.num_experts, m.top_k) for m in models(cells)}
    assert shapes == {(d, e, k) for d in (32, 64) for e, k in ((2, 2), (8, 2), (8, 4))}
    assert len(cells) == len(shapes)
    totals = [total_params(m) for m in models(cells)]
    assert totals == sorted(totals)


def test_an_empty_grid_and_twin_names_are_refused():
    with pytest.raises(UserError, match="at least one model"):
        grid(BASE, d_models=[32], num_experts=[2], top_ks=[4], head_width=16)
    with pytest.raises(UserError, match=f"two cells are named '{released_name(BASE)}'"):
        family([BASE, replace(BASE, rope_base=5e5)])
    with pytest.raises(UserError, match="two cells are named 'a'"):
        check_distinct_names([Cell(name="a", model=BASE)] * 2)


def test_matched_cells_pass_and_the_two_furthest_are_named():
    cells = vary_experts(BASE, [2, 8])
    check_matched(cells, active_tolerance=0.0, flops_tolerance=0.1)
    other = replace(BASE, top_k=4, num_experts=8)
    cells.insert(1, Cell(name="wide", model=other))
    low, high = active_params(BASE), active_params(other)
    with pytest.raises(UserError) as error:
        check_matched(cells, active_tolerance=0.01, flops_tolerance=1.0)
    message = str(error.value)
    assert cells[0].name in message
    assert "wide" in message
    assert f"{(high - low) / low:.2%} ({low:,} and {high:,}); allowed is 1.00%" in message
    check_matched(cells, active_tolerance=(high - low) / low, flops_tolerance=1.0)


def test_the_router_of_many_experts_counts_in_a_comparison():
    # Equal by Megatron-LM's count, but the router of 512 experts is real work at this width.
    cells = vary_experts(BASE, [2, 512])
    with pytest.raises(UserError, match="training FLOPs per token, router included"):
        check_matched(cells, active_tolerance=0.0, flops_tolerance=0.1)
    check_matched(cells, active_tolerance=0.0, flops_tolerance=1.0)


@pytest.mark.parametrize("tolerance", [-0.1, float("nan")])
def test_a_tolerance_below_zero_is_refused(tolerance):
    with pytest.raises(UserError, match="must be 0 or above"):
        check_matched([], active_tolerance=tolerance, flops_tolerance=0.1)


@given(st.integers(1, 400), st.integers(1, 8), st.integers(-40, 40))
def test_the_width_for_a_budget_is_the_nearest_one(d_expert, multiple_of, offset):
    aim = replace(BASE, d_expert=d_expert * multiple_of)
    step = active_params(replace(aim, d_expert=(d_expert + 1) * multiple_of)) - active_params(aim)
    budget = active_params(aim) + offset * (step // 2 - 1) // 40
    assert with_active_params(BASE, budget, multiple_of=multiple_of) == aim


def test_a_budget_below_the_rest_of_the_model_is_refused():
    with pytest.raises(UserError, match=r"active_params=1,000 is too small: with experts of width"):
        with_active_params(BASE, 1000, multiple_of=16)


@given(st.integers(1, 10**9), st.integers(0, 10**5))
def test_tokens_for_flops_is_the_inverse_of_flops_for_tokens(tokens, rest):
    flops = train_flops(BASE, train_tokens=tokens, sequence_length=128)
    per_token = flops // tokens
    paid = tokens_for_flops(BASE, flops=flops + min(rest, per_token - 1), sequence_length=128)
    assert paid == tokens
    with pytest.raises(UserError, match="must be at least"):
        tokens_for_flops(BASE, flops=per_token - 1, sequence_length=128)


def test_tokens_per_parameter_divide_by_all_and_by_active_ones():
    tokens = 20 * total_params(BASE)
    assert tokens_per_parameter(BASE, tokens) == 20.0
    assert tokens_per_active_parameter(BASE, tokens) == tokens / active_params(BASE) > 20
