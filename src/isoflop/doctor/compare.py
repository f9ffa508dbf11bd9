"""Differences between tensors, in float64, in which a value that is no number cannot hide."""

import math

import torch
from torch import Tensor

from isoflop.doctor.subject import NotApplicableError, Shape

Named = dict[str, Tensor]
"""Tensors by the name of their weight; a name that is missing stands for zeros."""


def largest(*values: float) -> float:
    """The largest value; not a number if any is none.

    >>> largest(1.0, 3.0, 2.0), largest(1.0, float("nan"), 2.0)
    (3.0, nan)
    """
    return math.nan if any(math.isnan(value) for value in values) else max(values)


def apart(first: Tensor, second: Tensor) -> float:
    """Largest difference over the largest value of the second."""
    scale = second.double().abs().max().item()
    return (first.double() - second.double()).abs().max().item() / scale


def inner(first: Named, second: Named) -> float:
    """Sum of products over all tensors that both have."""
    shared = first.keys() & second.keys()
    return math.fsum(float((first[n].double() * second[n].double()).sum()) for n in sorted(shared))


def minus(first: Named, second: Named) -> Named:
    """Differences by name."""
    zero = torch.zeros(())
    names = sorted(first.keys() | second.keys())
    return {n: first.get(n, zero).double() - second.get(n, zero).double() for n in names}


def relative_difference(actual: Named, expected: Named) -> float:
    """Norm of the difference of all tensors over the norm of the expected ones."""
    scale = inner(expected, expected)
    difference = minus(actual, expected)
    return math.sqrt(inner(difference, difference) / scale) if scale else math.nan


def differing(first: Named, second: Named) -> list[str]:
    """Names of tensors that only one has, or that differ in any bit."""
    return [
        name
        for name in sorted(first.keys() | second.keys())
        if name not in first or name not in second or not same_bits(first[name], second[name])
    ]


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether shape, type and every bit agree; equal patterns of "not a number" do."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    first, second = first.detach().cpu().contiguous(), second.detach().cpu().contiguous()
    return torch.equal(first.flatten().view(torch.uint8), second.flatten().view(torch.uint8))


def needs_choice(shape: Shape, *, least_layers: int = 1) -> None:
    """Refuse a law about balance for a model in which nothing can be out of balance.

    Raises:
        NotApplicableError: every expert sees every token, or too few layers have experts.
    """
    if shape.top_k == shape.num_experts:
        raise NotApplicableError("k = E: use is even whatever the router says")
    if shape.num_layers < least_layers:
        raise NotApplicableError(f"fewer than {least_layers} layers have experts")
