"""Laws of the products of bfloat16 rows with float32 weights."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from isoflop.model.ops import native, products, reference
from isoflop.model.ops.build import native_available
from isoflop.model.ops.products import tiles_available
from near_truth import (
    assert_near,
    compare,
    doubled,
    dtypes,
    generator,
    quickly,
    results,
    seeds,
)

pytestmark = pytest.mark.skipif(not native_available(), reason="no C compiler")


@pytest.fixture(autouse=True, scope="module")
def _on_a_processor_without_matrix_unit():
    """Else large products would be PyTorch's, and ours untested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "matrix_unit_available", lambda: False)
        yield


with_tiles = pytest.mark.skipif(
    not (native_available() and tiles_available()), reason="a processor without bfloat16 tiles"
)


def expert_by_expert(rows: Tensor, weight: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Rows times their expert's weight, rounded as the products round it."""
    rounded = weight.to(rows.dtype)
    if rows.dtype == torch.float64:
        rounded = weight.bfloat16().double()
    parts = rows.split(list(counts))
    return [torch.cat([part @ own for part, own in zip(parts, rounded, strict=True)])]


@with_tiles
@settings(quickly, max_examples=60)
@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 11, 12, 13, 40]), min_size=1, max_size=5),
    depth=st.sampled_from([2, 6, 16, 30, 62, 514, 1100]),
    width=st.sampled_from([2, 6, 16, 30, 34, 64, 98]),
    seed=seeds,
)
def test_expert_product_of_bfloat16_rows(counts, depth, width, seed):
    assume(sum(counts))
    source = generator(seed)
    rows = torch.randn(sum(counts), depth, generator=source).bfloat16()
    weight = torch.randn(len(counts), depth, width, generator=source) / depth**0.5
    ends = torch.tensor(counts).cumsum(0).int()
    ours = results(lambda *x: [native.expert_product(*x, ends)], [rows, weight], (True,), seed)
    theirs = results(lambda *x: expert_by_expert(*x, counts), [rows, weight], (True,), seed)
    truth = results(lambda *x: expert_by_expert(*x, counts), doubled([rows, weight]), (True,), seed)
    assert_near(ours, theirs, truth, torch.bfloat16, roundings=1)
    assert ours[2].dtype == torch.float32


@with_tiles
@pytest.mark.parametrize(
    ("counts", "depth", "width"),
    [((513, 0, 1301), 64, 302), ((1030,), 520, 514), ((5, 512), 1030, 290)],
)
def test_expert_products_longer_than_what_is_packed_at_a_time(counts, depth, width):
    """Over 512 rows, 512 of the depth and 256 columns the sums are made in parts."""
    source = generator(0)
    rows = torch.randn(sum(counts), depth, generator=source).bfloat16()
    weight = torch.randn(len(counts), depth, width, generator=source) / depth**0.5
    ends = torch.tensor(counts).cumsum(0).int()
    ours = results(lambda *x: [native.expert_product(*x, ends)], [rows, weight], (True,), 0)
    truth = results(lambda *x: expert_by_expert(*x, counts), doubled([rows, weight]), (True,), 0)
    for found, right in zip(ours, truth, strict=True):
        error = (found.double() - right).norm() / right.norm()
        assert error < 3e-3  # One rounding to bfloat16 is 1.7e-3 on the whole.


@with_tiles
def test_a_long_plain_product():
    source = generator(1)
    x = torch.randn(1300, 90, generator=source).bfloat16()
    weight = torch.randn(270, 90, generator=source)
    found = native.linear(x, weight).double()
    right = x.double() @ weight.bfloat16().double().T
    assert (found - right).norm() / right.norm() < 3e-3


@quickly
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    depth=st.integers(1, 70),
    width=st.integers(1, 70),
    dtype=dtypes,
    seed=seeds,
)
def test_linear(shape, depth, width, dtype, seed):
    source = generator(seed)
    x = torch.randn(*shape, depth, generator=source).to(dtype)
    weight = torch.randn(width, depth, generator=source) / depth**0.5

    def exact(x: Tensor, weight: Tensor) -> list[Tensor]:
        return [functional.linear(x, weight.to(dtype).double())]

    compare(lambda ops: lambda *x: [ops.linear(*x)], [x, weight], dtype, seed, truth=exact)


def test_products_of_float32_without_tiles_are_those_of_the_reference(monkeypatch):
    monkeypatch.setattr(products, "float32_tiles_available", lambda: False)
    rows, weight = torch.randn(2, 10, 8, generator=generator(0))
    ends = torch.tensor([3, 10], dtype=torch.int32)
    experts = torch.stack([weight[:8].mT, weight[:8]]).contiguous()
    assert torch.equal(native.linear(rows, weight), reference.linear(rows, weight))
    assert torch.equal(
        native.expert_product(rows, experts, ends), reference.expert_product(rows, experts, ends)
    )


def test_without_tiles_pytorch_multiplies(monkeypatch):
    """As on every processor that lacks the instructions."""
    monkeypatch.setattr(products, "tiles_available", lambda: False)
    source = generator(2)
    rows = torch.randn(10, 8, generator=source).bfloat16()
    experts = torch.randn(2, 8, 16, generator=source)
    ends = torch.tensor([3, 10], dtype=torch.int32)
    assert torch.equal(
        native.expert_product(rows, experts, ends), reference.expert_product(rows, experts, ends)
    )
    weight = torch.randn(6, 8, generator=source)
    assert torch.equal(native.linear(rows, weight), reference.linear(rows, weight))


@with_tiles
def test_with_a_matrix_unit_pytorch_multiplies_what_is_large_for_one_expert(monkeypatch):
    monkeypatch.setattr(products, "matrix_unit_available", lambda: True)
    asked: list[str] = []
    for name in ("expert_product", "linear"):
        theirs = getattr(reference, name)

        def listening(*given, name=name, theirs=theirs):
            asked.append(name)
            return theirs(*given)

        monkeypatch.setattr(reference, name, listening)
    rows = torch.zeros(4, 16, dtype=torch.bfloat16)
    # Four rows, two experts, 16 x 32: 2 x 2 x 16 x 32 operations for one expert.
    experts, ends = torch.zeros(2, 16, 32), torch.tensor([1, 4], dtype=torch.int32)
    weight = torch.zeros(16, 16)  # 2 x 4 x 16 x 16.
    for most in (2049, 2048):
        monkeypatch.setattr(products, "MATRIX_UNIT_FLOPS", most)
        products.expert_product(rows, experts, ends)
        products.linear(rows, weight)
        assert asked == ([] if most > 2048 else ["expert_product", "linear"])


def test_a_second_derivative_is_refused_instead_of_wrong():
    rows = torch.randn(10, 8, generator=generator(3)).bfloat16().requires_grad_(True)
    weight = torch.randn(6, 8, generator=generator(4)).requires_grad_(True)
    if not tiles_available():
        pytest.skip("a processor without bfloat16 tiles")
    (first,) = torch.autograd.grad(
        native.linear(rows, weight).square().sum(), weight, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
