"""Laws of the float32 products and of the experts in one pass, where such tiles are used."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from isoflop.model.moe import grouped_experts, loop_experts
from isoflop.model.ops import NATIVE_OPS, experts_float32, native, products, reference
from isoflop.model.ops.build import native_available
from isoflop.model.router import Routing
from near_truth import (
    Way,
    assert_near,
    doubled,
    generator,
    quickly,
    results,
    seeds,
)

pytestmark = pytest.mark.skipif(
    not (native_available() and products.float32_tiles_available()),
    reason="a processor on which float32 products are PyTorch's",
)

widths = st.sampled_from([1, 5, 8, 15, 16, 17, 33, 64, 75])
depths = st.sampled_from([1, 6, 16, 31, 73, 130])


@pytest.fixture(autouse=True)
def _with_few_rows_too(monkeypatch):
    """Else small examples would be PyTorch's."""
    monkeypatch.setattr(products, "MIN_FLOAT32_ROWS", 0)


def expert_by_expert(rows: Tensor, weight: Tensor, counts: list[int]) -> list[Tensor]:
    return [torch.cat([x @ w for x, w in zip(rows.split(counts), weight, strict=True)])]


@quickly
@given(
    counts=st.lists(st.sampled_from([0, 1, 5, 6, 7, 13, 80]), min_size=1, max_size=5),
    depth=depths,
    width=widths,
    seed=seeds,
)
def test_expert_product(counts, depth, width, seed):
    source = generator(seed)
    rows = torch.randn(sum(counts), depth, generator=source)
    weight = torch.randn(len(counts), depth, width, generator=source) / depth**0.5
    ends = torch.tensor(counts).cumsum(0).int()
    leaves = [rows, weight]
    ours = results(lambda *x: [native.expert_product(*x, ends)], leaves, (True,), seed)
    theirs = results(lambda *x: expert_by_expert(*x, counts), leaves, (True,), seed)
    truth = results(lambda *x: expert_by_expert(*x, counts), doubled(leaves), (True,), seed)
    assert_near(ours, theirs, truth, torch.float32)


@pytest.mark.parametrize(
    ("counts", "depth", "width"), [((260, 0, 600), 64, 302), ((75,), 530, 514)]
)
def test_expert_products_longer_than_what_is_packed_at_a_time(counts, depth, width):
    """Over 256 of the summed axis sums are made in parts, over 72 rows and 256 columns blocks."""
    test_expert_product.hypothesis.inner_test(list(counts), depth, width, 0)


@quickly
@given(
    tokens=st.sampled_from([1, 3, 40, 150]),
    num_experts=st.integers(1, 6),
    width=widths,
    hidden=widths,
    seed=seeds,
)
def test_experts_in_one_pass_are_the_experts_one_after_the_other(
    tokens, num_experts, width, hidden, seed
):
    source = generator(seed)
    top_k = 1 + seed % num_experts
    chosen = torch.rand(tokens, num_experts, generator=source).topk(top_k, dim=-1).indices
    leaves = [
        torch.randn(tokens, width, generator=source),
        torch.rand(tokens, top_k, generator=source),
        torch.randn(num_experts, width, 2 * hidden, generator=source) / width**0.5,
        torch.randn(num_experts, hidden, width, generator=source) / hidden**0.5,
    ]
    dispatch = native.make_dispatch(chosen, num_experts, None)
    assert experts_float32.fused_experts(*leaves[:2], dispatch, *leaves[2:]) is not None

    def found(way: Way, given: list[Tensor]) -> list[Tensor]:
        def experts(x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> list[Tensor]:
            return [way(x, Routing(weights, chosen), gate_up, down, NATIVE_OPS)]

        return results(experts, given, (True,), seed)

    ours, theirs = found(grouped_experts, leaves), found(loop_experts, leaves)
    truth = found(loop_experts, doubled(leaves))
    assert_near(ours, theirs, truth, torch.float32)


def test_more_rows_than_go_through_an_expert_together():
    tokens = 2 * experts_float32.BLOCK_ROWS + 45
    test = test_experts_in_one_pass_are_the_experts_one_after_the_other
    test.hypothesis.inner_test(tokens, 2, 300, 270, 1)


def test_an_answer_without_gradients_is_the_one_with_them():
    """Gates and ups then lie in one block's room, not in memory of all rows."""
    source = generator(3)
    x, weights = torch.randn(300, 20, generator=source), torch.rand(300, 2, generator=source)
    gate_up = torch.randn(3, 20, 48, generator=source).requires_grad_(True)
    down = torch.randn(3, 24, 20, generator=source)
    chosen = torch.rand(300, 3, generator=source).topk(2, dim=-1).indices
    given = (x, weights, native.make_dispatch(chosen, 3, None), gate_up, down)
    kept = experts_float32.fused_experts(*given)
    with torch.no_grad():
        assert torch.equal(experts_float32.fused_experts(*given), kept.detach())


def test_a_token_has_the_same_bits_whoever_is_beside_it():
    source = generator(4)
    x, weights = torch.randn(200, 40, generator=source), torch.rand(200, 2, generator=source)
    gate_up = torch.randn(4, 40, 64, generator=source)
    down = torch.randn(4, 32, 40, generator=source)
    chosen = torch.rand(200, 4, generator=source).topk(2, dim=-1).indices

    def answers(some: slice) -> Tensor:
        dispatch = native.make_dispatch(chosen[some], 4, None)
        return experts_float32.fused_experts(x[some], weights[some], dispatch, gate_up, down)

    assert torch.equal(answers(slice(None))[50:93], answers(slice(50, 93)))


def test_no_token_has_no_answer_and_gradients_of_zero():
    x = torch.zeros(0, 8, requires_grad=True)
    gate_up, down = torch.ones(2, 8, 12, requires_grad=True), torch.ones(2, 6, 8)
    chosen = torch.zeros(0, 1, dtype=torch.long)
    routing = Routing(torch.zeros(0, 1), chosen)
    out = grouped_experts(x, routing, gate_up, down, NATIVE_OPS)
    assert out.shape == (0, 8)
    (gradient,) = torch.autograd.grad(out.sum(), gate_up)
    assert torch.equal(gradient, torch.zeros_like(gate_up))


@quickly
@given(rows=st.integers(1, 90), depth=depths, width=widths, seed=seeds)
def test_products_outside_autograd(rows, depth, width, seed):
    source = generator(seed)
    left, right = torch.randn(rows, depth, generator=source), torch.randn(depth, width)
    other = torch.randn(rows, width, generator=source)
    straight, turned = torch.empty(2, rows, width)
    native.product_into(straight, left, right, False)
    native.product_into(turned, left, right.t().contiguous(), True)
    total = torch.ones(depth, width)
    native.add_outer(total, left, other)
    truth = left.double() @ right.double(), 1 + left.double().t() @ other.double()
    for found, right_one in ((straight, truth[0]), (turned, truth[0]), (total, truth[1])):
        assert (found - right_one).abs().max() < 1e-5 * (1 + right_one.abs().max())


def test_few_rows_and_processors_without_tiles_are_pytorchs(monkeypatch):
    rows, weight = torch.randn(2, 10, 8, generator=generator(0))
    ends = torch.tensor([3, 10], dtype=torch.int32)
    experts = torch.stack([weight[:8].mT, weight[:8]]).contiguous()
    asked: list[str] = []
    for name in ("expert_product", "linear"):
        theirs = getattr(reference, name)

        def listening(*given, name=name, theirs=theirs):
            asked.append(name)
            return theirs(*given)

        monkeypatch.setattr(reference, name, listening)

    def ask() -> list[str]:
        asked.clear()
        products.linear(rows, weight)
        products.expert_product(rows, experts, ends)
        return list(asked)

    assert ask() == []
    monkeypatch.setattr(products, "MIN_FLOAT32_ROWS", 6)  # Ten rows, two experts.
    assert ask() == ["expert_product"]
    monkeypatch.setattr(products, "float32_tiles_available", lambda: False)
    assert ask() == ["linear", "expert_product"]
