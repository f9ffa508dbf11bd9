"""How near kernels must be to the truth, for tests.

The truth is computed in float64 from the same numbers. In float32 the kernels must be near it; in
bfloat16 they must be no farther from it than the definitions in bfloat16 are, but for a rounding
or two.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from isoflop.model.ops import native, reference

quickly = settings(max_examples=100, deadline=None, derandomize=True)

sizes = st.integers(1, 40)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])
seeds = st.integers(0, 2**16)


FLOAT32_TOLERANCE = 1e-5
"""Largest difference over the largest value."""

LEAST_SCALE = {torch.float32: 0.1, torch.bfloat16: 1.0}

BFLOAT16_STEP = 2.0**-8
"""Relative distance of neighbours in bfloat16."""

BAD = [math.nan, math.inf, -math.inf]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def strided(values: Tensor) -> Tensor:
    """The same values, not side by side in memory."""
    room = torch.full((*values.shape, 2), -1, dtype=values.dtype)
    room[..., 0] = values
    return room[..., 0]


Way = Callable[..., Sequence[Tensor]]


def results(way: Way, leaves: Sequence[Tensor], pulled: Sequence[bool], seed: int) -> list[Tensor]:
    """Outputs of `way` and the gradients of its leaves; outputs that are not `pulled` have none.

    Leaves and upstream gradients lie apart in memory.
    """
    leaves = [strided(leaf.detach()).requires_grad_(True) for leaf in leaves]
    outputs = way(*leaves)
    chosen = [out for out, wanted in zip(outputs, pulled, strict=True) if wanted]
    pulls = [
        strided(torch.randn(out.shape, generator=generator(seed + place)).to(out.dtype))
        for place, out in enumerate(chosen)
    ]
    found = torch.autograd.grad(chosen, leaves, pulls, allow_unused=True)
    zeros = (torch.zeros_like(leaf) for leaf in leaves)
    gradients = [
        zero if gradient is None else gradient for zero, gradient in zip(zeros, found, strict=True)
    ]
    return [out.detach() for out in outputs] + gradients


def doubled(leaves: Sequence[Tensor]) -> list[Tensor]:
    return [leaf.double() for leaf in leaves]


def assert_near(
    ours: Sequence[Tensor],
    theirs: Sequence[Tensor],
    truth: Sequence[Tensor],
    dtype: torch.dtype,
    roundings: int = 2,
) -> None:
    """Near the truth in float32; in bfloat16 as near as `theirs`, but for some `roundings`."""
    for place, (mine, other, exact) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert mine.shape == exact.shape, place
        assert mine.dtype == other.dtype, place
        if not exact.numel():
            continue
        distance = (mine.double() - exact).abs().max().item()
        # What cancels to nothing keeps the rounding errors of its terms, which are of order 1.
        scale = max(exact.abs().max().item(), LEAST_SCALE[dtype])
        if dtype == torch.float32:
            allowed = FLOAT32_TOLERANCE * scale
        else:
            allowed = (
                other.double() - exact
            ).abs().max().item() + roundings * BFLOAT16_STEP * scale
        assert distance <= allowed, f"place {place}: {distance} of {scale}"


def rows_with(values: Tensor, dims: int = 1) -> Tensor:
    """Rows, over all axes but the last, that hold a number that is not finite."""
    return ~values.float().isfinite().flatten(-dims).all(dim=-1)


def compare(
    function: Callable[[Any], Way],
    leaves: Sequence[Tensor],
    dtype: torch.dtype,
    seed: int,
    pulled: Sequence[bool] = (True,),
    truth: Way | None = None,
) -> None:
    """Hold `function(native)` against `function(reference)` and the truth."""
    exact = truth or function(reference)
    assert_near(
        results(function(native), leaves, pulled, seed),
        results(function(reference), leaves, pulled, seed),
        results(exact, doubled(leaves), pulled, seed),
        dtype,
    )


def some_of(number: int) -> st.SearchStrategy[tuple[bool, ...]]:
    """Which outputs are used further on: at least one."""
    return st.tuples(*[st.booleans()] * number).filter(any)
