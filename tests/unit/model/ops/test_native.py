"""Laws of the kernels: they compute what the definitions do, in value and in every gradient."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from isoflop.model.ops import attention as attention_module
from isoflop.model.ops import attention_float32, native, reference
from isoflop.model.ops import heads as heads_module
from isoflop.model.ops.build import native_available
from isoflop.model.packed import pack
from isoflop.model.router import RouterStatistics, Routing, router_statistics
from near_truth import (
    BAD,
    Way,
    assert_near,
    compare,
    dtypes,
    generator,
    quickly,
    results,
    rows_with,
    seeds,
    sizes,
    some_of,
    strided,
)

pytestmark = pytest.mark.skipif(not native_available(), reason="no C compiler")


@quickly
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=2),
    width=sizes,
    dtype=dtypes,
    with_delta=st.booleans(),
    pulled=some_of(2),
    seed=seeds,
)
def test_add_norm(shape, width, dtype, with_delta, pulled, seed):
    source = generator(seed)
    x = torch.randn(*shape, width, generator=source)
    delta = torch.randn(*shape, width, generator=source).to(dtype)
    weight = 1 + 0.3 * torch.randn(width, generator=source)
    leaves = [x, weight, delta] if with_delta else [x, weight]

    def function(ops: Any) -> Way:
        def way(x: Tensor, weight: Tensor, delta: Tensor | None = None) -> tuple[Tensor, Tensor]:
            # float64 is asked for where everything is float64: the truth.
            out = torch.float64 if x.dtype == torch.float64 else dtype
            return ops.add_norm(x, delta, weight.contiguous(), 1e-5, out)

        return way

    compare(function, leaves, dtype, seed, pulled)


@quickly
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    key_value_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    half=st.integers(1, 5),
    own_positions=st.booleans(),
    dtype=dtypes,
    pulled=some_of(3),
    seed=seeds,
)
def test_rotate_heads(
    batch, length, key_value_heads, groups, half, own_positions, dtype, pulled, seed
):
    source = generator(seed)
    heads = key_value_heads * groups
    table = (batch, 1, length, half) if own_positions else (length, half)
    # Both halves hold the same angles, as in `rotary_tables`.
    half_angles = 6 * torch.rand(table, generator=source)
    angles = torch.cat([half_angles, half_angles], dim=-1)
    width = (heads + 2 * key_value_heads) * 2 * half
    projected = torch.randn(batch, length, width, generator=source).to(dtype)

    def function(ops: Any) -> Way:
        return lambda x: ops.rotate_heads(
            x, strided(angles.cos()), strided(angles.sin()), heads, key_value_heads
        )

    compare(function, [projected], dtype, seed, pulled)


def exact_route(
    top_k: int, order: str, num_sequences: int, counted: Tensor | None, experts: Tensor
) -> Way:
    """Weights and router sums for given choices, by their definitions, in the logits' precision."""

    def way(logits: Tensor) -> tuple[Tensor, ...]:
        share = logits.softmax(dim=-1)
        chosen = share.gather(1, experts)
        weights = chosen if order == "softmax_then_topk" else chosen / chosen.sum(1, keepdim=True)
        mask = torch.ones(len(logits)) if counted is None else counted.to(logits.dtype)
        sums = (share * mask[:, None]).view(num_sequences, -1, logits.shape[1]).sum(dim=1)
        return weights, sums, (logits.logsumexp(dim=-1).square() * mask).sum()

    return way


orders = st.sampled_from(["topk_then_softmax", "softmax_then_topk"])


@settings(quickly, max_examples=200)
@given(
    num_sequences=st.integers(1, 4),
    length=st.integers(1, 9),
    num_experts=st.integers(1, 19),
    order=orders,
    coarse=st.booleans(),
    masked=st.booleans(),
    prescribed=st.booleans(),
    pulled=some_of(3),
    data=st.data(),
)
def test_route_tokens(
    num_sequences, length, num_experts, order, coarse, masked, prescribed, pulled, data
):
    top_k = data.draw(st.integers(1, num_experts))
    seed = data.draw(seeds)
    logits = 2 * torch.randn(num_sequences * length, num_experts, generator=generator(seed))
    if coarse:
        logits = logits.round()  # Many equal logits.
    counted = torch.rand(len(logits), generator=generator(seed + 1)) < 0.6 if masked else None

    given = choices(data, len(logits), num_experts, top_k) if prescribed else None

    def native_way(logits: Tensor) -> tuple[Tensor, ...]:
        kept = None if counted is None else strided(counted)
        found = native.route_tokens(logits, top_k, order, num_sequences, kept, given)
        routings.append(found)
        return found[0].weights, found[1].probability_sum, found[1].z_sum

    routings: list[tuple[Routing, RouterStatistics]] = []
    ours = results(native_way, [logits], pulled, seed)
    routing, statistics = routings[0]
    # Of equals the first.
    best = logits.argsort(dim=-1, descending=True, stable=True)[:, :top_k].contiguous()
    best = best if given is None else given
    assert torch.equal(routing.experts, best)
    counts = router_statistics(logits, best, num_sequences, counted)
    assert torch.equal(statistics.counts, counts.counts)
    assert torch.equal(statistics.num_tokens, counts.num_tokens)
    truth = exact_route(top_k, order, num_sequences, counted, best)
    exact = results(truth, [logits.double()], pulled, seed)
    assert_near(ours, ours, exact, torch.float32)


def choices(data: st.DataObject, num_tokens: int, num_experts: int, top_k: int) -> Tensor:
    """Distinct experts of every token; sometimes the same for all, so that others are empty."""
    seed = data.draw(seeds)
    scores = torch.rand(num_tokens, num_experts, generator=generator(seed))
    if data.draw(st.booleans()):
        scores = scores[:1].expand_as(scores)
    return strided(scores.argsort(dim=-1)[:, :top_k])


@st.composite
def dispatches(draw: st.DrawFn) -> tuple[Tensor, int, int | None]:
    """Choices, number of experts, and a capacity that holds the fullest or None."""
    num_experts = draw(st.integers(1, 9))
    top_k = draw(st.integers(1, num_experts))
    experts = choices(draw(st.data()), draw(sizes), num_experts, top_k)
    fullest = int(experts.flatten().bincount().max())
    return experts, num_experts, draw(st.sampled_from([None, fullest, fullest + 3]))


@quickly
@given(dispatches())
def test_make_dispatch(drawn):
    ours, theirs = native.make_dispatch(*drawn), reference.make_dispatch(*drawn)
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        assert torch.equal(mine, other)
        assert mine.dtype == other.dtype
    assert ours.capacity == theirs.capacity
    assert torch.equal(ours.tokens, theirs.tokens)


@quickly
@given(drawn=dispatches(), width=sizes, dtype=dtypes, seed=seeds)
def test_gather_rows_and_combine(drawn, width, dtype, seed):
    dispatch = reference.make_dispatch(*drawn)
    source = generator(seed)
    x = torch.randn(len(drawn[0]), width, generator=source).to(dtype)
    compare(lambda ops: lambda x: [ops.gather_rows(x, dispatch)], [x], dtype, seed)
    answers = torch.randn(len(dispatch.choices), width, generator=source).to(dtype)
    weights = torch.rand(drawn[0].shape, generator=source)
    given = [answers, weights]
    compare(lambda ops: lambda *x: [ops.combine(*x, dispatch)], given, dtype, seed)
    gathered = native.gather_rows(x, dispatch)
    assert torch.equal(gathered, reference.gather_rows(x, dispatch))


@quickly
@given(
    rows=st.integers(0, 20),
    hidden=sizes,
    scale=st.sampled_from([1.0, 20.0]),
    dtype=dtypes,
    seed=seeds,
)
def test_swiglu(rows, hidden, scale, dtype, seed):
    gate_up = (scale * torch.randn(rows, 2 * hidden, generator=generator(seed))).to(dtype)
    compare(lambda ops: lambda x: [ops.swiglu(x)], [gate_up], dtype, seed)


@quickly
@given(
    rows=st.integers(1, 20),
    vocabulary=sizes,
    scale=st.sampled_from([1.0, 30.0]),
    dtype=dtypes,
    seed=seeds,
)
def test_row_losses_and_their_slope(rows, vocabulary, scale, dtype, seed):
    source = generator(seed)
    logits = (scale * torch.randn(rows, vocabulary, generator=source)).to(dtype)
    targets = torch.randint(vocabulary, (rows,), generator=source)
    pull = torch.randn(rows, generator=source)
    exact = logits.double().requires_grad_(True)
    losses = functional.cross_entropy(exact, targets, reduction="none")
    (slope,) = torch.autograd.grad(losses, exact, pull.double())
    log_p = exact.detach().log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    truth = [losses.detach(), exact.detach().logsumexp(dim=-1), entropy, slope]

    def found(ops: Any) -> list[Tensor]:
        room = logits.clone()
        losses, log_total, none = ops.row_losses(room, strided(targets))
        assert not none.numel()
        entropies = ops.row_losses(room, strided(targets), True)[2]
        out = ops.row_losses_slope_(room, targets, strided(log_total), strided(pull))
        assert out.data_ptr() == room.data_ptr()  # Over the logits, no memory of its own.
        return [losses, log_total, entropies, out]

    ours, theirs = found(native), found(reference)
    # Losses of sure rows are differences of large numbers: their error is that of the logits.
    largest = logits.abs().max().double().clamp(min=1.0)
    spans = (1 / largest, 1 / largest, 1 / largest, torch.tensor(1.0))
    for mine, other, exact_value, span in zip(ours, theirs, truth, spans, strict=True):
        kind = torch.float32 if mine.dtype == torch.float32 else dtype
        unit = torch.ones(1, dtype=torch.float64)  # What one unit of error means.
        assert_near(
            [torch.cat([mine.double().flatten() * span, unit])],
            [torch.cat([other.double().flatten() * span, unit])],
            [torch.cat([exact_value.flatten() * span, unit])],
            kind,
        )


@pytest.mark.parametrize("target", [-1, 5, 2**40])
def test_targets_out_of_the_vocabulary_are_refused(target):
    logits, targets = torch.zeros(2, 5), torch.tensor([4, target])
    ones = torch.ones(2)
    with pytest.raises(IndexError, match=r"target .* is not within 0 to 4"):
        native.row_losses(logits, targets)
    with pytest.raises(IndexError, match=r"target .* is not within 0 to 4"):
        native.row_losses_slope_(logits, targets, ones, ones)
    assert not logits.any()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_passes_through(bad, dtype):
    """Where the definition's result is not finite, the kernel's is not: in the same rows alone."""
    x = torch.randn(5, 6, generator=generator(0)).to(dtype)
    x[3, 2] = bad
    weight = torch.ones(6)
    dispatch = reference.make_dispatch(torch.tensor([[0], [1], [0], [1], [0]]), 2, 4)
    ways: dict[str, Callable[[Any], Tensor]] = {
        "norm": lambda ops: ops.add_norm(x.float(), None, weight, 1e-5, dtype)[1],
        "sum": lambda ops: ops.add_norm(torch.ones(5, 6), x, weight, 1e-5, dtype)[0],
        "norm of sum": lambda ops: ops.add_norm(torch.ones(5, 6), x, weight, 1e-5, dtype)[1],
        "rotated": lambda ops: ops.rotate_heads(x[None], *torch.ones(2, 5, 2), 1, 1)[1][0, 0],
        "gathered": lambda ops: ops.gather_rows(x, dispatch),
        "combined": lambda ops: ops.combine(
            torch.cat([x.roll(1, dims=0), x[:3]]), torch.ones(5, 1), dispatch
        ),
        "weighted": lambda ops: ops.combine(
            torch.ones(8, 6, dtype=dtype), x.float()[:, 2:3].contiguous(), dispatch
        ),
        "swiglu": lambda ops: ops.swiglu(x.roll(3, dims=1)),
        "loss": lambda ops: ops.row_losses(x, torch.tensor([2] * 5))[0][:, None],
    }
    for name, way in ways.items():
        expected = rows_with(way(reference))
        # Infinitely small against the others, a logit has no share; as a target, all the loss.
        assert expected.any(), name
        assert rows_with(way(native)).tolist() == expected.tolist(), name


@pytest.mark.parametrize("place", [0, 1, 3])
def test_one_nan_of_a_row_of_logits_gives_a_nan_loss_and_slope(place):
    logits = torch.zeros(2, 4)
    logits[1, place] = math.nan
    targets = torch.tensor([1, 1])
    losses, log_total, _ = native.row_losses(logits, targets)
    assert losses.isnan().tolist() == [False, True]
    slope = native.row_losses_slope_(logits, targets, log_total, torch.ones(2))
    assert slope[0].isfinite().all()
    assert slope[1].isnan().all()


@quickly
@given(num_experts=st.integers(1, 9), order=orders, data=st.data())
def test_router_never_hides_a_nan_nor_leaves_the_experts(num_experts, order, data):
    """Whatever the logits: distinct experts that exist; a NaN shows in weights and sums."""
    top_k = data.draw(st.integers(1, num_experts))
    values = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0, 3e38])
    row = data.draw(st.lists(values, min_size=num_experts, max_size=num_experts))
    logits = torch.tensor([row, [0.5] * num_experts], requires_grad=True)
    routing, statistics = native.route_tokens(logits, top_k, order, 2, None)
    for experts in routing.experts.tolist():
        assert len(set(experts)) == top_k
        assert set(experts) <= set(range(num_experts))
    assert statistics.counts.sum().item() == 2 * top_k
    assert routing.weights[1].isfinite().all()
    (gradient,) = torch.autograd.grad(routing.weights.sum() + statistics.z_sum, logits)
    if any(math.isnan(value) for value in row):
        assert routing.weights[0].isnan().all()
        assert statistics.probability_sum[0].isnan().all()
        assert statistics.z_sum.isnan()
        assert gradient[0].isnan().all()
        theirs = reference.route_tokens(logits, top_k, order, 2, None)[0]
        assert theirs.weights[0].isnan().any()


def unlike(dtype: torch.dtype) -> dict[str, Callable[[Any], Any]]:
    """Every function on values of `dtype`."""
    x = torch.randn(4, 6, generator=generator(0)).to(dtype)
    heads, turned = x.view(1, 2, 4, 3), (x[None], *torch.ones(2, 4, 2))
    dispatch = reference.make_dispatch(torch.tensor([[0], [1], [0], [1]]), 2, None)
    packing = pack([(1,), (1,)], [(2,), (3, 3)], torch.device("cpu")).packing
    weights, ones, targets = x.new_ones(4, 1), torch.ones(4), torch.tensor([0, 1, 2, 5])
    return {
        "add_norm": lambda ops: ops.add_norm(x, x, torch.ones(6).to(dtype), 1e-5, dtype),
        "rotate_heads": lambda ops: ops.rotate_heads(*turned, 1, 1),
        "attention": lambda ops: [ops.attention(heads, heads, heads, None)],
        "attend_packed": lambda ops: ops.attend_packed(
            x[None], *torch.ones(2, 4, 2), packing, 1, 1
        ),
        "route_tokens": lambda ops: ops.route_tokens(x, 2, "topk_then_softmax", 1, None)[0],
        "gather_rows": lambda ops: [ops.gather_rows(x, dispatch)],
        "combine": lambda ops: [ops.combine(x, weights, dispatch)],
        "swiglu": lambda ops: [ops.swiglu(x)],
        "row_losses": lambda ops: ops.row_losses(x, targets),
        "row_losses_slope_": lambda ops: [ops.row_losses_slope_(x.clone(), targets, ones, ones)],
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", unlike(torch.float64))
def test_other_precisions_go_to_the_reference(name, dtype):
    way = unlike(dtype)[name]
    refuse = AssertionError("a kernel was called")
    with ExitStack() as patches:
        for module in (native, attention_module, attention_float32, heads_module):
            patches.enter_context(mock.patch.object(module, "call", side_effect=refuse))
        found = way(native)
    for ours, theirs in zip(found, way(reference), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_mixed_precisions_go_to_the_reference():
    x, half = torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bfloat16)
    dispatch = reference.make_dispatch(torch.tensor([[0], [0]]), 1, None)
    with mock.patch.object(native, "call", side_effect=AssertionError("a kernel was called")):
        native.add_norm(x, half, torch.ones(4), 1e-5, torch.float32)
        native.add_norm(x, x, torch.ones(4), 1e-5, torch.bfloat16)
        native.route_tokens(half, 1, "softmax_then_topk", 1, None)
        native.combine(x, torch.ones(2, 1, dtype=torch.float64), dispatch)


def test_kernels_refuse_memory_that_they_would_misread():
    logits = strided(torch.zeros(2, 4))
    with pytest.raises(TypeError, match="row_losses_slope: a tensor must be contiguous"):
        native.row_losses_slope_(logits, torch.zeros(2).long(), torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7FC00000])
def test_every_kind_of_nan_stays_one_when_rounded_to_bfloat16(bits):
    """Rounding adds to the bits, and the largest of them would become a zero."""
    x = torch.tensor([[bits] * 4], dtype=torch.int32).view(torch.float32)
    assert native.add_norm(x, None, torch.ones(4), 1e-5, torch.bfloat16)[1].isnan().all()
