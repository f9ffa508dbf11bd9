"""Probing inputs: tokens from a seed, and routers made to route as a law needs.

Shapes in this file:
    batch, position   sequences and their tokens
    tokens            every position of every sequence, flattened
    experts           experts of a layer

A forced router keeps its own code: only its weight and its input are replaced,
so that logits = input . weight are the ones a law asks for. Three directions of
the input are enough: experts stand on a circle (two of them), and some are lifted
above the rest (the third).
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isoflop.doctor.subject import NotApplicableError, Shape, Subject

SEQUENCES = 8
POSITIONS = 16
"""Of a probing batch; chosen small, since laws hold at any size."""

CIRCLE_LOGIT = 4.0
"""Logit of the expert that a token stands next to on the circle; chosen so that a softmax over few
experts is far from even."""

LIFT_LOGIT = 6.0
"""Height of lifted experts, and minus that of sunk ones: above CIRCLE_LOGIT, so that lifted
experts are chosen first."""

PREFERENCE_LOGIT = 0.5
"""Logit of preferred experts, and minus that of the others: small enough that the softmax has a
slope, large enough that no rounding changes a choice."""

LEAST_GAP = 1e-5
"""Between the last chosen and the best rejected logit of a token; chosen ten times the rounding of a
float32 logit near 10, so that model and definition choose alike."""

DIRECTIONS = 3
"""Coordinates of a forced router's input: two of the circle, one of the lift."""


def random_tokens(
    subject: Subject, seed: int, *, batch: int = SEQUENCES, extra: int = 0
) -> Int[Tensor, "batch position"]:
    """Uniform tokens, `extra` positions more than a forward pass of the model takes."""
    positions = min(POSITIONS, subject.shape.max_positions) + extra
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, subject.shape.vocabulary_size, (batch, positions), generator=generator)


def different_tokens(subject: Subject, seed: int) -> Int[Tensor, "1 position"]:
    """One sequence in which no token occurs twice."""
    vocabulary = subject.shape.vocabulary_size
    positions = min(POSITIONS, subject.shape.max_positions, vocabulary)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(vocabulary, generator=generator)[None, :positions]


@dataclass(frozen=True, kw_only=True)
class Design:
    """A forced router, the same weight in every layer and an input for each."""

    weight: Float[Tensor, "experts d_model"]
    inputs: tuple[Float[Tensor, "tokens d_model"], ...]
    top_k: int

    def __post_init__(self) -> None:
        """
        Raises:
            NotApplicableError: rounding could decide which experts are chosen.
        """
        if self.gap() < LEAST_GAP:
            raise NotApplicableError(
                f"logits of {len(self.weight)} experts differ by {self.gap():.2g} only: rounding "
                "could choose"
            )

    def gap(self) -> float:
        """Least distance of any token's k-th best logit from the next; infinite if all are chosen."""
        if self.top_k == len(self.weight):
            return math.inf
        best = (logits.topk(self.top_k + 1, dim=-1).values for logits in self.logits())
        return min((values[:, -2] - values[:, -1]).min().item() for values in best)

    def logits(self) -> list[Float[Tensor, "tokens experts"]]:
        """What a router without fault computes from them, in float64."""
        return [layer.double() @ self.weight.double().T for layer in self.inputs]


def token_grid(shape: Shape) -> Int[Tensor, "batch position"]:
    """Zeros, as many as whole rounds of the circle need: a multiple of 2 x experts."""
    positions = min(2 * shape.num_experts, POSITIONS, shape.max_positions)
    num_tokens = math.lcm(positions, 2 * shape.num_experts)
    return torch.zeros(num_tokens // positions, positions, dtype=torch.long)


def circle_design(
    shape: Shape,
    num_tokens: int,
    *,
    lifts: list[Float[Tensor, " tokens"]],
    lifted: Float[Tensor, " experts"] | None = None,
    places: int | None = None,
    neighbours: int | None = None,
) -> Design:
    """Experts on a circle; token t stands in the middle of some neighbours.

    With no lift every expert is chosen equally often and equally probable.

    Args:
        lifts: For each layer the lift that each token gives.
        lifted: How much of a lift each expert has: 1 to come first, -1 to come last; 0 stands in the
            circle's centre, whose logit is 0 for every token.
        places: On the circle, by default one for each expert; with fewer it is walked again.
        neighbours: Among which a token stands, by default k.

    Raises:
        NotApplicableError: the model is too narrow for three directions.
    """
    if shape.d_model < DIRECTIONS:
        raise NotApplicableError(f"d_model={shape.d_model} leaves no room to force a router")
    places = shape.num_experts if places is None else places
    neighbours = shape.top_k if neighbours is None else neighbours
    step = 2 * math.pi / places
    angles = step * torch.arange(shape.num_experts, dtype=torch.float64)
    # In the middle of neighbours: the next expert on each side is a whole half-step further off.
    stands = step * (torch.arange(num_tokens, dtype=torch.float64) + (neighbours - 1) / 2)
    weight = torch.zeros(shape.num_experts, shape.d_model, dtype=torch.float64)
    weight[:, 0], weight[:, 1] = angles.cos(), angles.sin()
    if lifted is not None:
        weight[:, 2] = lifted.double()
        weight[lifted == 0] = 0.0
    inputs = []
    for lift in lifts:
        layer = torch.zeros(num_tokens, shape.d_model, dtype=torch.float64)
        layer[:, 0], layer[:, 1] = CIRCLE_LOGIT * stands.cos(), CIRCLE_LOGIT * stands.sin()
        layer[:, 2] = lift.double()
        inputs.append(layer.float())
    return Design(weight=weight.float(), inputs=tuple(inputs), top_k=shape.top_k)


def even_design(shape: Shape, num_tokens: int) -> Design:
    """Every expert of every layer equally often and equally probable."""
    return circle_design(shape, num_tokens, lifts=[torch.zeros(num_tokens)] * shape.num_layers)


def opposed_design(shape: Shape, num_tokens: int) -> Design:
    """Even layers prefer one half of the experts, odd layers the other half, evenly within.

    All layers taken together use every expert alike (for an even number of experts and layers). The
    last of an odd number stands between the halves.
    """
    half, left_over = divmod(shape.num_experts, 2)
    side = torch.zeros(shape.num_experts)
    side[:half], side[half : 2 * half] = 1.0, -1.0
    lift = torch.full((num_tokens,), LIFT_LOGIT)
    lifts = [lift if layer % 2 == 0 else -lift for layer in range(shape.num_layers)]
    # Expert e and expert e + half stand at the same place. Lifted experts are chosen first, then the
    # one left over, then sunk ones: tokens stand among those of the half that is not chosen whole.
    neighbours = shape.top_k if shape.top_k < half else max(0, shape.top_k - half - left_over)
    return circle_design(
        shape, num_tokens, lifts=lifts, lifted=side, places=half, neighbours=neighbours
    )


def crowded_design(shape: Shape, num_tokens: int, crowds: list[float]) -> Design:
    """In each layer this share of the tokens goes to the first k experts, the rest stays even."""
    side = torch.full((shape.num_experts,), -1.0)
    side[: shape.top_k] = 1.0
    lifts = []
    for crowd in crowds:
        lift = torch.zeros(num_tokens)
        lift[num_tokens - round(crowd * num_tokens) :] = LIFT_LOGIT
        lifts.append(lift)
    return circle_design(shape, num_tokens, lifts=lifts, lifted=side)


def preferring_design(shape: Shape, num_tokens: int) -> Design:
    """Every token of every layer goes to the first k experts, by a clear margin."""
    weight = torch.zeros(shape.num_experts, shape.d_model)
    weight[:, 0] = -1.0
    weight[: shape.top_k, 0] = 1.0
    layer = torch.zeros(num_tokens, shape.d_model)
    layer[:, 0] = PREFERENCE_LOGIT
    return Design(weight=weight, inputs=(layer,) * shape.num_layers, top_k=shape.top_k)


@contextmanager
def forced_routing(subject: Subject, design: Design) -> Iterator[None]:
    """Routers route as designed for a while; the model's own weights come back afterwards."""
    sites = subject.router_sites()
    kept = [t for site in sites for t in (site.weight, site.bias) if t is not None]
    before = [tensor.detach().clone() for tensor in kept]
    with ExitStack() as stack:
        for site, layer in zip(sites, design.inputs, strict=True):
            handle = site.module.register_forward_pre_hook(_replace_input(layer))
            stack.callback(handle.remove)
        try:
            with torch.no_grad():
                for site in sites:
                    site.weight.copy_(design.weight)
                    if site.bias is not None:
                        site.bias.zero_()
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(kept, before, strict=True):
                    tensor.copy_(value)


def _replace_input(layer: Tensor) -> Any:
    def hook(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (layer.to(given[0]).view_as(given[0]), *given[1:])

    return hook
