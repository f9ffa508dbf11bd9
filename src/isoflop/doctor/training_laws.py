"""Laws of a training step: what is minimised, what is reported, and however a batch is cut."""

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional

from isoflop.doctor.compare import (
    Named,
    differing,
    inner,
    largest,
    minus,
    needs_choice,
    relative_difference,
)
from isoflop.doctor.law import Law, Measurement
from isoflop.doctor.probe import forced_routing, preferring_design, random_tokens, token_grid
from isoflop.doctor.slope import (
    STRONG,
    gradient_against_slope,
    router_gradients,
    z_losses,
    z_strength,
)
from isoflop.doctor.subject import NotApplicableError, Step, Subject

BALANCE = Step(balance_coefficient=STRONG)
Z_LOSS = Step(z_coefficient=STRONG)
"""One router loss alone, and strong."""

CUTS = (2, 8)
"""Parts into which a batch of eight sequences is cut."""


def _reported_loss(subject: Subject, seed: int) -> Measurement:
    """Reported loss minus the cross-entropy of the model's own logits, in nats."""
    tokens = random_tokens(subject, seed, extra=1)
    logits = subject.logits(tokens[:, :-1])
    entropy = functional.cross_entropy(logits.double().flatten(0, 1), tokens[:, 1:].flatten())
    reported = subject.step(tokens, Step(balance_coefficient=1.0, z_coefficient=1.0)).train_loss
    return Measurement(
        value=reported - entropy.item(), expected=0.0, note="router losses at coefficient 1"
    )


def _coefficient(subject: Subject, seed: int) -> Measurement:
    """Strength of the balance loss in the objective's gradient, over its coefficient."""
    tokens = random_tokens(subject, seed, extra=1)
    return _strength(subject, tokens, Step(balance_coefficient=STRONG), STRONG)


def _as_configured(subject: Subject, seed: int) -> Measurement:
    """The same, with the model's own coefficient and nothing switched on by us."""
    tokens = random_tokens(subject, seed, extra=1)
    return _strength(subject, tokens, Step(balance_coefficient=None), None)


def _accumulation(subject: Subject, seed: int) -> Measurement:
    tokens = random_tokens(subject, seed, extra=1)
    whole = subject.step(tokens, Step())
    worst = 0.0
    for parts in CUTS:
        report = subject.step(tokens, Step(micro_batches=parts))
        gradients = relative_difference(report.gradients, whole.gradients)
        loss = abs(report.train_loss - whole.train_loss) / whole.train_loss
        worst = largest(worst, gradients, loss)
    return Measurement(value=float(worst), expected=0.0)


def _balance_accumulation(subject: Subject, seed: int) -> Measurement:
    needs_choice(subject.shape)
    return _part_of_cuts(subject, seed, BALANCE, [Step(micro_batches=parts) for parts in CUTS])


def _balance_ranks(subject: Subject, seed: int) -> Measurement:
    needs_choice(subject.shape)
    return _part_of_cuts(subject, seed, BALANCE, [Step(ranks=parts) for parts in CUTS])


def _z_accumulation(subject: Subject, seed: int) -> Measurement:
    z_losses(subject, random_tokens(subject, seed))
    return _part_of_cuts(subject, seed, Z_LOSS, [Step(micro_batches=parts) for parts in CUTS])


def _z_ranks(subject: Subject, seed: int) -> Measurement:
    z_losses(subject, random_tokens(subject, seed))
    return _part_of_cuts(subject, seed, Z_LOSS, [Step(ranks=parts) for parts in CUTS])


def _part_of_cuts(subject: Subject, seed: int, alone: Step, cuts: list[Step]) -> Measurement:
    """Relative difference between a router loss's gradient of a cut batch and of the whole."""
    tokens = random_tokens(subject, seed, extra=1)
    whole = _part_gradients(subject, tokens, Step(), alone)
    worst, note = 0.0, None
    for how, parts in zip(cuts, CUTS, strict=True):
        gradients = _part_gradients(subject, tokens, how, alone)
        difference = relative_difference(gradients, whole)
        if not difference <= worst:
            factor = inner(gradients, whole) / (inner(whole, whole) or math.nan)
            worst = difference
            note = f"{factor:.3g} times as strong in {parts} parts as in one"
    return Measurement(value=worst, expected=0.0, note=note)


def _recomputation(subject: Subject, seed: int) -> Measurement:
    """Largest relative difference of any gradient; not a number if expert counts differ."""
    tokens = random_tokens(subject, seed, extra=1)
    plain = subject.step(tokens, Step(balance_coefficient=1.0))
    again = subject.step(tokens, Step(balance_coefficient=1.0, recompute=True))
    worst = relative_difference(again.gradients, plain.gradients)
    if not torch.equal(plain.expert_counts, again.expert_counts):
        counts = f"{int(again.expert_counts.sum())} instead of {int(plain.expert_counts.sum())}"
        return Measurement(value=math.nan, expected=0.0, note=f"expert counts {counts}")
    return Measurement(value=float(worst), expected=0.0)


def _counts(subject: Subject, seed: int) -> Measurement:
    """Largest difference of a layer's expert counts from tokens x k, whole, cut and recomputed."""
    tokens = random_tokens(subject, seed, extra=1)
    expected = tokens[:, 1:].numel() * subject.shape.top_k
    worst = 0
    for how in (Step(), Step(micro_batches=4), Step(ranks=2), Step(recompute=True)):
        counts = subject.step(tokens, how).expert_counts
        if len(counts) != subject.shape.num_layers:
            return Measurement(value=math.nan, expected=0.0, note=f"{len(counts)} layers counted")
        worst = max(worst, int((counts.sum(dim=-1) - expected).abs().max()))
    return Measurement(value=float(worst), expected=0.0)


def _idle_experts(subject: Subject, seed: int) -> Measurement:
    """Largest gradient of an expert that no token chose; not a number if any gradient is none."""
    shape = subject.shape
    if shape.top_k == shape.num_experts:
        raise NotApplicableError("k = E: no expert is ever idle")
    generator = torch.Generator().manual_seed(seed)
    grid = token_grid(shape)
    tokens = torch.randint(
        0, shape.vocabulary_size, (len(grid), grid.shape[1] + 1), generator=generator
    )
    with forced_routing(subject, preferring_design(shape, grid.numel())):
        report = subject.step(tokens, Step(balance_coefficient=1.0))
    expert_weights = {
        name: gradient
        for name, gradient in report.gradients.items()
        if gradient.ndim == 3 and gradient.shape[0] == shape.num_experts
    }
    if not expert_weights:
        raise NotApplicableError("the experts' weights are not stacked in one tensor")
    if any(not gradient.isfinite().all() for gradient in report.gradients.values()):
        return Measurement(value=math.nan, expected=0.0, note="a gradient is not finite")
    if not all(gradient[: shape.top_k].any() for gradient in expert_weights.values()):
        return Measurement(value=math.nan, expected=0.0, note="busy experts have no gradient")
    idle = max(gradient[shape.top_k :].abs().max().item() for gradient in expert_weights.values())
    return Measurement(value=idle, expected=0.0)


def _every_weight(subject: Subject, seed: int) -> Measurement:
    """Weights, as tensors, that one step leaves without any gradient by the cross-entropy."""
    tokens = random_tokens(subject, seed, extra=1)
    shape = subject.shape
    # One weight of a sum of 1 is 1 whatever the router says: only the balance loss teaches it.
    by_balance = shape.top_k == 1 and shape.weights_sum_to_one is not False
    gradients = subject.step(tokens, Step(balance_coefficient=float(by_balance))).gradients
    routers = [id(site.weight) for site in subject.router_sites()]
    without = []
    for name, parameter in subject.model.named_parameters():
        if shape.num_experts == 1 and id(parameter) in routers:
            continue
        if name not in gradients or not gradients[name].any():
            without.append(name)
    note = f"without gradient: {', '.join(without[:3])}" if without else None
    return Measurement(value=float(len(without)), expected=0.0, note=note)


def _evaluation(subject: Subject, seed: int) -> Measurement:
    """Gradients, as tensors, that an evaluation between two equal steps changes in any bit."""
    tokens = random_tokens(subject, seed, extra=1)
    before = subject.step(tokens, Step(balance_coefficient=1.0)).gradients
    subject.logits(random_tokens(subject, seed + 1))
    after = subject.step(tokens, Step(balance_coefficient=1.0)).gradients
    changed = differing(before, after)
    return Measurement(value=float(len(changed)), expected=0.0)


def _strength(
    subject: Subject, tokens: Tensor, how: Step, coefficient: float | None
) -> Measurement:
    """How strongly the sum of the balance losses acts on the routers, over its coefficient."""
    needs_choice(subject.shape)
    scale = subject.balance_coefficient() if coefficient is None else coefficient
    wanted = router_gradients(subject, subject.router_losses(tokens[:, :-1]).balance.sum())
    acting = minus(subject.step(tokens, how).gradients, subject.step(tokens, Step()).gradients)
    value = inner(acting, wanted) / (inner(wanted, wanted) or math.nan) / scale
    return Measurement(value=value, expected=1.0, note=f"at coefficient {scale:g}")


def _part_gradients(subject: Subject, tokens: Tensor, how: Step, alone: Step) -> Named:
    """A router loss's part of every gradient."""
    with_it = dataclasses.replace(
        how, balance_coefficient=alone.balance_coefficient, z_coefficient=alone.z_coefficient
    )
    return minus(subject.step(tokens, with_it).gradients, subject.step(tokens, how).gradients)


TRAINING_LAWS = (
    Law(
        name="gradient-is-the-slope",
        meaning="The step's gradient is the slope of the cross-entropy, found by moving the weights.",
        unit="relative difference",
        tolerance=1e-2,
        catches="linkedin/Liger-Kernel PR#1413: a fused backward was half wrong, its forward right",
        trains=True,
        check=gradient_against_slope,
    ),
    Law(
        name="reported-loss-is-cross-entropy",
        meaning="The training loss that is reported holds no router loss.",
        unit="nats",
        tolerance=1e-4,
        catches="mlfoundations/open_lm#253: the balance loss was inside the reported train loss",
        trains=True,
        check=_reported_loss,
    ),
    Law(
        name="balance-coefficient-acts",
        meaning="A balance coefficient c adds exactly c times the balance loss's gradient.",
        unit="times as strong",
        tolerance=1e-2,
        catches="NVIDIA-NeMo/Automodel#1408: once repaired, 180,000 times too strong",
        trains=True,
        check=_coefficient,
    ),
    Law(
        name="z-loss-coefficient-acts",
        meaning="A z coefficient c adds exactly c times the z-loss's gradient.",
        unit="times as strong",
        tolerance=1e-2,
        catches="NVIDIA/Megatron-LM PR#3768: scale of the z-loss changed with the set-up",
        trains=True,
        check=z_strength,
    ),
    Law(
        name="balance-acts-as-configured",
        meaning="The coefficient that the model comes with acts without anything else set.",
        unit="times as strong",
        tolerance=5e-2,
        catches="huggingface/trl#7222: the coefficient is ignored unless another field is set",
        trains=True,
        check=_as_configured,
    ),
    Law(
        name="accumulation-keeps-gradient",
        meaning="Loss and gradient are the same however many micro-batches make the batch.",
        unit="relative difference",
        tolerance=1e-4,
        catches="AMD-AGI/Primus PR#1046: only the first micro-batch's gradient arrived",
        trains=True,
        check=_accumulation,
    ),
    Law(
        name="accumulation-keeps-balance",
        meaning="The balance loss's gradient is the same however many micro-batches make the batch.",
        unit="relative difference",
        tolerance=1e-3,
        catches="NVIDIA-NeMo/Automodel PR#3359: M micro-batches weighted the loss M times",
        trains=True,
        check=_balance_accumulation,
    ),
    Law(
        name="ranks-keep-balance",
        meaning="The balance loss's gradient is the same however many processes share the batch: "
        "ours by the training step itself, a thread a process; others' simulated.",
        unit="relative difference",
        tolerance=1e-3,
        catches="NVIDIA/Megatron-LM#1498, #3672: balance over a local batch; gradient too small",
        trains=True,
        check=_balance_ranks,
    ),
    Law(
        name="accumulation-keeps-z-loss",
        meaning="The z-loss's gradient is the same however many micro-batches make the batch.",
        unit="relative difference",
        tolerance=1e-3,
        catches="NVIDIA/Megatron-LM PR#3768: scale of the z-loss changed with the set-up",
        trains=True,
        check=_z_accumulation,
    ),
    Law(
        name="ranks-keep-z-loss",
        meaning="The z-loss's gradient is the same however many processes share the batch: ours as "
        "in `ranks-keep-balance`.",
        unit="relative difference",
        tolerance=1e-3,
        catches="NVIDIA/Megatron-LM PR#3768: scale of the z-loss changed with the set-up",
        trains=True,
        check=_z_ranks,
    ),
    Law(
        name="recomputation-keeps-gradient",
        meaning="Recomputing activations changes neither gradients nor expert counts.",
        unit="relative difference",
        tolerance=1e-4,
        catches="NVIDIA/Megatron-LM#1330, pytorch/torchtitan PR#1593: recomputation counted twice",
        trains=True,
        check=_recomputation,
    ),
    Law(
        name="counts-add-up",
        meaning="Expert counts sum to tokens x k in every layer, whole, cut and recomputed.",
        unit="choices",
        tolerance=0.0,
        catches="pytorch/torchtitan PR#1593, #3686: counts doubled, later layers left out",
        trains=True,
        check=_counts,
    ),
    Law(
        name="idle-experts-learn-nothing",
        meaning="An expert without tokens has a zero gradient and harms no other.",
        unit="largest gradient",
        tolerance=0.0,
        catches="pytorch/torchtitan PR#1166: experts without tokens broke the grouped product",
        trains=True,
        check=_idle_experts,
    ),
    Law(
        name="every-weight-learns",
        meaning="The cross-entropy of one training step reaches every weight of every layer.",
        unit="weights left out",
        tolerance=0.0,
        catches="pytorch/torchtitan PR#3686: an early return left out the later layers",
        trains=True,
        check=_every_weight,
    ),
    Law(
        name="evaluation-leaves-no-trace",
        meaning="A training step after an evaluation is the step without it, bit for bit.",
        unit="gradients changed",
        tolerance=0.0,
        catches="AgileRL/AgileRL PR#591: evaluation leaked into training",
        trains=True,
        check=_evaluation,
    ),
)
"""In the order of the report."""
