"""Whether a step's gradient is the slope of its loss: by moving the weights, without any backward pass.

A backward pass written by hand may be wrong where the forward pass is right, and every other way to
take the gradient may share the fault. Only differences of the loss itself stand apart from it.

Along a random direction u of one group of weights, a gradient g + e misses the slope u . g by u . e:
relative to each other, on average over directions, as e to g, however many weights there are.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from isoflop.doctor.compare import Named, inner, minus
from isoflop.doctor.law import Measurement
from isoflop.doctor.probe import SEQUENCES, random_tokens
from isoflop.doctor.subject import NO_Z_LOSS, Choices, NotApplicableError, Step, Subject

CANDIDATES = 64
"""Sequences of which those are taken whose choices of experts stand firmest. Chosen."""

DIRECTIONS = 3
"""Random ones for each group of weights. Chosen: one alone may stand across a fault."""

LARGEST_MOVE = 2e-2
"""Of a group's weights, in units of their own size, to begin with. Chosen."""

HALVINGS = 14
"""Of the move, at most."""

NEAR = 1e-2
"""Relative difference of two slopes, the move halved, whose extrapolation is then far nearer. Chosen."""

ROUNDINGS = 100
"""The move is not halved for the sake of NEAR once the loss changes by less than so many roundings."""


EPSILON = torch.finfo(torch.float32).eps
"""Times the largest logit: no mean over the tokens was seen to be rounded by more (docs/log.md)."""

STRONG = 64.0
"""Coefficient at which a router loss stands out of float32 rounding; a power of 2, so that dividing
by it is exact."""


class Slope(NamedTuple):
    """Of the loss, in nats a step."""

    value: float
    doubt: float
    """What rounding of the loss may have done to it."""


def gradient_against_slope(subject: Subject, seed: int) -> Measurement:
    """Largest relative difference between a group's gradient and its slope, over random directions."""
    tokens = _firm_tokens(subject, seed)

    def loss() -> float:
        logits = subject.logits(tokens[:, :-1]).double()
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()

    rounding = EPSILON * subject.logits(tokens[:, :-1]).abs().max().item()
    gradients = subject.step(tokens, Step()).gradients
    generator = torch.Generator().manual_seed(seed)
    worst, note = 0.0, None
    for name, group in _groups(subject.model).items():
        missed, slopes = [], []
        for _ in range(DIRECTIONS):
            moves = {n: _direction(weight, generator) for n, weight in group.items()}
            slope = _slope(subject, tokens, moves, loss, rounding)
            missed.append(max(0.0, abs(inner(gradients, moves) - slope.value) - slope.doubt))
            slopes.append(slope.value)
        difference = math.hypot(*missed) / (math.hypot(*slopes) or math.ulp(0.0))
        if not difference <= worst:
            worst, note = difference, f"worst at {name}"
        if math.isnan(worst):
            break
    return Measurement(value=worst, expected=0.0, note=note)


def z_strength(subject: Subject, seed: int) -> Measurement:
    """Strength of the z-loss in the step's gradient, over its coefficient and against its slope."""
    tokens = _firm_tokens(subject, seed)

    def loss() -> float:
        return z_losses(subject, tokens[:, :-1]).double().sum().item()

    rounding = EPSILON * loss()
    wanted = router_gradients(subject, z_losses(subject, tokens[:, :-1]).sum())
    weights = {name: w.detach().cpu() for name, w in _routers(subject).items()}
    # Along its own gradient, as far as the routers are large.
    size = math.sqrt(inner(weights, weights) / (inner(wanted, wanted) or math.nan))
    if math.isnan(size):
        return Measurement(value=size, expected=1.0, note="no gradient reaches any router")
    moves = {name: size * gradient for name, gradient in wanted.items()}
    slope = _slope(subject, tokens, moves, loss, rounding).value
    strong, without = (subject.step(tokens, Step(z_coefficient=c)) for c in (STRONG, 0.0))
    acting = inner(minus(strong.gradients, without.gradients), moves)
    value = acting / (slope or math.nan) / STRONG
    return Measurement(value=value, expected=1.0, note=f"at coefficient {STRONG:g}")


def z_losses(subject: Subject, tokens: Tensor) -> Float[Tensor, " layers"]:
    """
    Raises:
        NotApplicableError: the model has none.
    """
    losses = subject.router_losses(tokens).z
    if losses is None:
        raise NotApplicableError(NO_Z_LOSS)
    return losses


def router_gradients(subject: Subject, total: Tensor) -> Named:
    """Of a router loss, by the routers' names; those that it does not reach are left out."""
    if not total.requires_grad:
        return {}
    weights = _routers(subject)
    gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    return {n: g.cpu() for n, g in zip(weights, gradients, strict=True) if g is not None}


def _routers(subject: Subject) -> dict[str, nn.Parameter]:
    names = {id(weight): name for name, weight in subject.model.named_parameters()}
    return {names[id(site.weight)]: site.weight for site in subject.router_sites()}


def _firm_tokens(subject: Subject, seed: int) -> Int[Tensor, "batch position_and_one"]:
    """Random sequences in which the last chosen and the best rejected expert are far apart."""
    tokens = random_tokens(subject, seed, batch=CANDIDATES, extra=1)
    top_k = subject.shape.top_k
    if top_k == subject.shape.num_experts:
        return tokens[:SEQUENCES]
    gaps = []
    for layer in subject.choices(tokens[:, :-1]):
        best = layer.logits.double().topk(top_k + 1, dim=-1).values
        gaps.append((best[:, -2] - best[:, -1]).view(CANDIDATES, -1).min(dim=-1).values)
    return tokens[torch.stack(gaps).min(dim=0).values.topk(SEQUENCES).indices.cpu()]


def _groups(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Weights of one kind, those of all layers together."""
    groups: dict[str, dict[str, nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        groups.setdefault(re.sub(r"\d+", "*", name), {})[name] = weight
    return groups


def _direction(weight: nn.Parameter, generator: torch.Generator) -> Tensor:
    """Random, as large as the weights; zeros, as biases begin, are moved as weights of 0.02 are."""
    size = weight.detach().double().square().mean().sqrt().item() or 0.02
    return size * torch.randn(weight.shape, generator=generator)


@torch.no_grad()
def _slope(
    subject: Subject, tokens: Tensor, moves: Named, loss: Callable[[], float], rounding: float
) -> Slope:
    """By central differences: the move is halved until no token changes its experts, where the loss
    jumps, and until the slope settles; the last two are extrapolated to no move at all."""
    chosen = subject.choices(tokens[:, :-1])
    wider: float | None = None
    for halving in range(HALVINGS + 1):
        step = LARGEST_MOVE / 2**halving
        losses, steady = [], True
        for sign in (1, -1):
            with _moved(subject.model, moves, sign * step):
                losses.append(loss())
                steady = steady and _same_experts(chosen, subject.choices(tokens[:, :-1]))
        change = losses[0] - losses[1]
        found = change / (2 * step)
        if wider is not None and steady:
            small = abs(change) < ROUNDINGS * rounding
            if small or abs(found - wider) <= NEAR * abs(found):
                return Slope((4 * found - wider) / 3, rounding / step)
        wider = found if steady else None
    return Slope(found, rounding / step)


@contextmanager
def _moved(model: nn.Module, moves: Named, step: float) -> Iterator[None]:
    """The weights a step further for a while."""
    weights = dict(model.named_parameters())
    before = {name: weights[name].detach().clone() for name in moves}
    try:
        for name, move in moves.items():
            weights[name].add_((step * move).to(weights[name]))
        yield
    finally:
        for name, value in before.items():
            weights[name].copy_(value)


def _same_experts(first: list[Choices], second: list[Choices]) -> bool:
    """Whether every token sees the same experts, in any order."""
    return all(
        torch.equal(one.experts.sort(dim=-1).values, other.experts.sort(dim=-1).values)
        for one, other in zip(first, second, strict=True)
    )
