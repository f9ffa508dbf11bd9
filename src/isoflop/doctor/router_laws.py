"""Laws of the router: its losses, its choices, its precision."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from isoflop.doctor import definitions
from isoflop.doctor.compare import largest, needs_choice
from isoflop.doctor.law import Law, Measurement
from isoflop.doctor.probe import (
    Design,
    crowded_design,
    even_design,
    forced_routing,
    opposed_design,
    preferring_design,
    random_tokens,
    token_grid,
)
from isoflop.doctor.subject import NO_Z_LOSS, NotApplicableError, Subject

CROWDS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the tokens that go to the same k experts, step by step."""

SLOPE_STEP = 1e-2
"""Share by which weights are moved for a slope by differences: its square is the error of the slope,
and float32 rounding, 1e-7, stays far below the change."""


SHARE_TOLERANCE = 1e-3
"""Of a loss in units of even use."""

LEAST_EFFECT = 10 * SHARE_TOLERANCE
"""Of a planned imbalance, so that its absence cannot pass."""

EVEN_TOLERANCE = 1e-4
"""Of the loss at even use: float32 sums over a few hundred tokens."""


def _even_use(subject: Subject, seed: int) -> Measurement:
    losses = _forced_balance(subject, _even(subject))
    worst = losses[(losses - 1).abs().argmax()].item()
    is_odd = abs(worst - 1) > EVEN_TOLERANCE
    note = f"{worst / subject.shape.top_k:.4g} after division by k" if is_odd else None
    return Measurement(value=worst, expected=1.0, note=note)


def _definition(subject: Subject, seed: int) -> Measurement:
    """Half of the tokens crowded in all layers alike, over even use: free of the model's scale."""
    needs_choice(subject.shape)
    num_tokens = token_grid(subject.shape).numel()
    design = crowded_design(subject.shape, num_tokens, [0.5] * subject.shape.num_layers)
    expected = definitions.balance_loss(design.logits()[0], subject.shape.top_k)
    _must_stand_out(expected - 1)
    measured = _forced_balance(subject, design).mean()
    even = _forced_balance(subject, _even(subject)).mean()
    return Measurement(value=(measured / even).item(), expected=expected)


def _rises(subject: Subject, seed: int) -> Measurement:
    """How often the loss rises while more and more tokens of the first layer crowd."""
    needs_choice(subject.shape)
    values = []
    num_tokens = token_grid(subject.shape).numel()
    for crowd in CROWDS:
        crowds = [crowd] + [0.0] * (subject.shape.num_layers - 1)
        design = crowded_design(subject.shape, num_tokens, crowds)
        values.append(_forced_balance(subject, design).mean().item())
    rises = sum(after > before for before, after in itertools.pairwise(values))
    shown = ", ".join(f"{value:.4g}" for value in values)
    return Measurement(
        value=float(rises), expected=len(CROWDS) - 1.0, note=f"balance losses {shown}"
    )


def _no_cancelling(subject: Subject, seed: int) -> Measurement:
    """Layers that crowd opposite halves, over even use, against the mean of each layer's own loss."""
    needs_choice(subject.shape, least_layers=2)
    num_tokens = token_grid(subject.shape).numel()
    design = opposed_design(subject.shape, num_tokens)
    top_k = subject.shape.top_k
    layers = [definitions.balance_loss(logits, top_k) for logits in design.logits()]
    pooled = definitions.balance_loss(torch.cat(design.logits()), top_k)
    _must_stand_out(sum(layers) / len(layers) - pooled)
    measured = _forced_balance(subject, design).mean()
    even = _forced_balance(subject, _even(subject)).mean()
    return Measurement(
        value=(measured / even).item(),
        expected=sum(layers) / len(layers),
        note=f"in units of even use; all layers pooled would give {pooled:.4g}",
    )


def _padding(subject: Subject, seed: int) -> Measurement:
    """Largest change of the balance loss when padding is added on the right or on the left."""
    tokens = random_tokens(subject, seed)
    positions = tokens.shape[1] - tokens.shape[1] // 4
    tokens, padding = tokens[:, :positions], tokens[:, positions:]
    counted = torch.ones_like(tokens, dtype=torch.bool)
    plain = subject.router_losses(tokens).balance.detach()
    worst = 0.0
    for sides in ((tokens, padding), (padding, tokens)):
        mask = torch.cat([counted if s is tokens else torch.zeros_like(s).bool() for s in sides], 1)
        padded = subject.router_losses(torch.cat(sides, dim=1), mask).balance.detach()
        worst = largest(worst, ((padded - plain) / plain).abs().max().item())
    return Measurement(value=worst, expected=0.0)


def _gradient(subject: Subject, seed: int) -> Measurement:
    """Gradient of the loss by each layer's router over its slope by differences; the worst layer."""
    needs_choice(subject.shape)
    tokens = token_grid(subject.shape)
    design = preferring_design(subject.shape, tokens.numel())
    generator = torch.Generator().manual_seed(seed)
    # Along the preference, whose slope is known not to be zero, and a little to every side.
    direction = torch.zeros_like(design.weight)
    noise = torch.randn(len(direction), generator=generator)
    direction[:, 0] = design.weight[:, 0] + 0.3 * noise
    ratios = []
    with forced_routing(subject, design):
        weights = [site.weight for site in subject.router_sites()]
        total = subject.router_losses(tokens).balance.sum()
        gradients = _gradients(total, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            move = direction.to(weight)
            slope = _slope(subject, tokens, weight, move)
            ratios.append((gradient * move).sum().item() / slope if slope else math.nan)
    worst = max(ratios, key=lambda ratio: abs(ratio - 1) if ratio == ratio else math.inf)
    return Measurement(
        value=worst, expected=1.0, note=f"worst of {len(ratios)} layers; 0: the gradient is lost"
    )


def _z_loss(subject: Subject, seed: int) -> Measurement:
    """Largest relative difference of a layer's z-loss from its definition on the router's logits."""
    tokens = random_tokens(subject, seed)
    losses = subject.router_losses(tokens)
    if losses.z is None:
        raise NotApplicableError(NO_Z_LOSS)
    worst = 0.0
    for layer, value in zip(subject.choices(tokens), losses.z.tolist(), strict=True):
        expected = definitions.z_loss(layer.logits)
        worst = largest(worst, abs(value - expected) / expected)
    return Measurement(value=worst, expected=0.0)


def _softmax_order(subject: Subject, seed: int) -> Measurement:
    """Largest difference of a gate weight from the declared order, on the router's own input."""
    sum_to_one = subject.shape.weights_sum_to_one
    if sum_to_one is None:
        raise NotApplicableError("the model's config does not declare the order")
    worst = 0.0
    layers = zip(subject.choices(random_tokens(subject, seed)), subject.router_sites(), strict=True)
    for layer, site in layers:
        logits = site.exact_logits(layer.inputs)
        declared = definitions.gate_weights(logits, layer.experts, sum_to_one)
        worst = largest(worst, (layer.weights.double() - declared).abs().max().item())
        best = logits.topk(subject.shape.top_k, dim=-1).values.sum(dim=-1)
        chosen = logits.gather(-1, layer.experts).sum(dim=-1)
        # The chosen logits must be the largest; rounding may swap two that are nearly equal.
        worst = largest(worst, (best - chosen).abs().max().item())
    order = "sum to 1" if sum_to_one else "are shares of all experts"
    return Measurement(value=worst, expected=0.0, note=f"declared: weights {order}")


def _float32_router(subject: Subject, seed: int) -> Measurement:
    """Largest error of a router logit over their spread, when the model computes in bfloat16."""
    tokens = random_tokens(subject, seed)
    worst, moved, total = 0.0, 0, 0
    layers = zip(subject.bfloat16_choices(tokens), subject.router_sites(), strict=True)
    for layer, site in layers:
        # The router's weights as the model keeps them: its logits have their type.
        exact = site.exact_logits(layer.inputs, layer.logits.dtype)
        spread = (exact.std() + exact.mean().abs()).item()
        worst = largest(worst, (layer.logits.double() - exact).abs().max().item() / spread)
        best = definitions.chosen_experts(exact, subject.shape.top_k).sort(dim=-1).values
        moved += int((best != layer.experts.sort(dim=-1).values).any(dim=-1).sum())
        total += len(best)
    note = f"{moved} of {total} choices differ from those by float32 logits on the same input"
    return Measurement(value=worst, expected=0.0, note=note)


def _must_stand_out(effect: float) -> None:
    if effect < LEAST_EFFECT:
        raise NotApplicableError(f"k is so near E that use can be uneven by {effect:.2g} only")


def _forced_balance(subject: Subject, design: Design) -> Tensor:
    """The model's balance losses while its routers route as designed."""
    with forced_routing(subject, design), torch.no_grad():
        return subject.router_losses(token_grid(subject.shape)).balance.double().cpu()


def _even(subject: Subject) -> Design:
    return even_design(subject.shape, token_grid(subject.shape).numel())


def _gradients(total: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Zeros where no gradient arrives, also where the loss has none at all."""
    if not total.requires_grad:
        return [torch.zeros_like(weight) for weight in weights]
    return list(torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True))


@torch.no_grad()
def _slope(subject: Subject, tokens: Tensor, weight: Tensor, move: Tensor) -> float:
    """Change of the loss along `move`, by a central difference."""
    before = weight.clone()
    ends = []
    for sign in (1, -1):
        weight.copy_(before + sign * SLOPE_STEP * move)
        ends.append(subject.router_losses(tokens).balance.double().sum().item())
    weight.copy_(before)
    return (ends[0] - ends[1]) / (2 * SLOPE_STEP)


ROUTER_LAWS = (
    Law(
        name="even-use-costs-one",
        meaning="The balance loss is exactly 1 when every expert is used alike, for every k.",
        unit="balance loss",
        tolerance=EVEN_TOLERANCE,
        catches="allenai/OLMoE#45: paper, training code and transformers differ by a factor k",
        trains=False,
        check=_even_use,
    ),
    Law(
        name="balance-definition",
        meaning="On crowded experts the balance loss, over its value for even use, is E sum f P.",
        unit="times even use",
        tolerance=SHARE_TOLERANCE,
        catches="huggingface/transformers#45120: softmax of softmax left the loss nearly flat",
        trains=False,
        check=_definition,
    ),
    Law(
        name="balance-rises",
        meaning="The balance loss rises each time that more tokens of one layer crowd on k experts.",
        unit="rises",
        tolerance=0.0,
        catches="huggingface/transformers#28093: the loss was a constant",
        trains=False,
        check=_rises,
    ),
    Law(
        name="layers-do-not-cancel",
        meaning="Opposite imbalance in two layers costs as much as in each layer alone.",
        unit="times even use",
        tolerance=SHARE_TOLERANCE,
        catches="huggingface/transformers#28255, #31464: layers are pooled before the product",
        trains=False,
        check=_no_cancelling,
    ),
    Law(
        name="padding-is-not-counted",
        meaning="Padding on either side does not change the balance loss.",
        unit="relative difference",
        tolerance=1e-4,
        catches="huggingface/transformers#28505: padding was counted as tokens",
        trains=False,
        check=_padding,
    ),
    Law(
        name="balance-gradient",
        meaning="The gradient of the balance loss reaches every router and is the loss's slope.",
        unit="gradient / slope",
        tolerance=1e-2,
        catches="NVIDIA-NeMo/Automodel#1408: the gradient never reached the router",
        trains=False,
        check=_gradient,
    ),
    Law(
        name="z-loss-definition",
        meaning="The z-loss is the mean squared logsumexp of the router's logits.",
        unit="relative difference",
        tolerance=1e-4,
        catches="NVIDIA/Megatron-LM PR#3768: scale of the z-loss changed with the set-up",
        trains=False,
        check=_z_loss,
    ),
    Law(
        name="softmax-order",
        meaning="The best k experts are chosen and weighted in the declared order of softmax and "
        "choice.",
        unit="difference",
        tolerance=1e-4,
        catches="NVIDIA/Megatron-LM#955, Lightning-AI/litgpt#1286: softmax before or after top-k",
        trains=False,
        check=_softmax_order,
    ),
    Law(
        name="router-in-float32",
        meaning="In a bfloat16 model the router's logits are still computed to float32 precision.",
        unit="error / spread",
        tolerance=1e-4,
        catches="NVIDIA/Megatron-LM#4168: routers of training and of sampling disagreed by rounding",
        trains=False,
        check=_float32_router,
    ),
)
"""In the order of the report."""
