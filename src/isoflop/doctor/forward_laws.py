"""Laws of the forward pass: what a logit depends on, and that every way to compute it agrees."""

import torch
from torch import Tensor

from isoflop.doctor.compare import Named, apart, largest, relative_difference
from isoflop.doctor.law import Law, Measurement
from isoflop.doctor.probe import different_tokens, random_tokens
from isoflop.doctor.subject import NotApplicableError, Step, Subject


def _future(subject: Subject, seed: int) -> Measurement:
    """Largest gradient of a logit by a later position's embedding."""
    largest_later = 0.0
    for position, gradient in _gradients_by_position(subject, seed):
        later = gradient[position + 1 :].abs()
        largest_later = largest(largest_later, later.max().item() if later.numel() else 0.0)
    return Measurement(value=largest_later, expected=0.0)


def _past(subject: Subject, seed: int) -> Measurement:
    """Share of the pairs of a position and one at or before it in which the first sees the second."""
    window = subject.shape.window
    seen = total = 0
    for position, gradient in _gradients_by_position(subject, seed):
        first = 0 if window is None else max(0, position + 1 - window)
        seen += int(gradient[first : position + 1].any(dim=-1).sum())
        total += position + 1 - first
    note = None if window is None else f"within the declared window of {window} positions"
    return Measurement(value=seen / total, expected=1.0, note=note)


def _companions(subject: Subject, seed: int) -> Measurement:
    """Largest relative change of a sequence's logits between alone and beside others."""
    tokens = random_tokens(subject, seed)
    together = subject.logits(tokens)
    alone = torch.cat([subject.logits(sequence[None]) for sequence in tokens])
    return Measurement(value=apart(alone, together), expected=0.0)


def _padding_side(subject: Subject, seed: int) -> Measurement:
    """Largest relative change of logits when padding is added on the right or on the left."""
    tokens = random_tokens(subject, seed)
    quarter = tokens.shape[1] // 4
    tokens, padding = tokens[:, quarter:], tokens[:, :quarter]
    plain = subject.logits(tokens)
    real, none = torch.ones_like(tokens).bool(), torch.zeros_like(padding).bool()
    right = subject.logits(torch.cat([tokens, padding], dim=1), torch.cat([real, none], dim=1))
    left = subject.logits(torch.cat([padding, tokens], dim=1), torch.cat([none, real], dim=1))
    on_right = apart(right[:, : tokens.shape[1]], plain)
    on_left = apart(left[:, quarter:], plain)
    note = f"right {on_right:.2g}, left {on_left:.2g}"
    return Measurement(value=largest(on_right, on_left), expected=0.0, note=note)


def _cache(subject: Subject, seed: int) -> Measurement:
    """Largest relative difference between cached decoding and the full pass, from three starts."""
    tokens = random_tokens(subject, seed, batch=3)
    full = subject.logits(tokens)
    length = tokens.shape[1]
    starts = sorted({1, length // 2, length - 1} - {0})
    worst = largest(*(apart(subject.cached_logits(tokens, start), full) for start in starts))
    return Measurement(value=worst, expected=0.0)


def _experts(subject: Subject, seed: int) -> Measurement:
    """Largest relative difference of logits or gradients between a way and the plain loop."""
    names = subject.experts_implementations()
    if len(names) < 2:
        raise NotApplicableError("there is one way to compute the experts")
    tokens = random_tokens(subject, seed, extra=1)
    results = []
    for name in names:
        with subject.experts_as(name):
            logits = subject.logits(tokens[:, :-1])
            results.append((logits, subject.step(tokens, Step()).gradients))
    (logits, gradients), *others = results
    worst = 0.0
    for other_logits, other_gradients in others:
        difference = relative_difference(other_gradients, gradients)
        worst = largest(worst, apart(other_logits, logits), difference)
    return Measurement(value=worst, expected=0.0, note=f"{', '.join(names[1:])} against {names[0]}")


def _bfloat16(subject: Subject, seed: int) -> Measurement:
    """Largest distance from float32 of a way's bfloat16 logits or gradients, over the loop's own.

    Every token goes to its float32 experts: a rounded router that sends one elsewhere would hide
    what the products do.
    """
    names = subject.bfloat16_implementations()
    if len(names) < 2:
        raise NotApplicableError("there is one way to compute the model in bfloat16")
    tokens = random_tokens(subject, seed, extra=1)
    with subject.experts_as(names[0]):
        exact = _logits_and_gradients(subject, tokens)
        choices = subject.choices(tokens[:, :-1])
    distances = []
    for name in names:
        with subject.bfloat16_as(name, choices):
            found = _logits_and_gradients(subject, tokens)
        distances.append([relative_difference(*pair) for pair in zip(found, exact, strict=True)])
    loop, *others = distances
    ratios = [largest(*(own / base for own, base in zip(o, loop, strict=True))) for o in others]
    note = (
        f"{', '.join(names[1:])}; {names[0]} is {loop[0]:.2g} (logits) and {loop[1]:.2g} (gradients) "
        "from float32"
    )
    return Measurement(value=largest(*ratios), expected=1.0, note=note)


def _logits_and_gradients(subject: Subject, tokens: Tensor) -> tuple[Named, Named]:
    return {"logits": subject.logits(tokens[:, :-1])}, subject.step(tokens, Step()).gradients


def _gradients_by_position(subject: Subject, seed: int) -> list[tuple[int, Tensor]]:
    """Every position, with the gradient of a random mix of its logits by all embeddings."""
    tokens = different_tokens(subject, seed)
    generator = torch.Generator().manual_seed(seed)
    pull = torch.randn(subject.shape.vocabulary_size, generator=generator)
    positions = range(tokens.shape[1])
    return [(place, subject.input_gradient(tokens, place, pull)) for place in positions]


FORWARD_LAWS = (
    Law(
        name="future-is-unseen",
        meaning="No logit has any gradient by a later token.",
        unit="largest gradient",
        tolerance=0.0,
        catches="google-deepmind/nanodo's test of causality: a wrong mask trains well and decodes "
        "badly",
        trains=True,
        check=_future,
    ),
    Law(
        name="past-is-seen",
        meaning="Every logit has a gradient by its own token and by all before it, or by those in a "
        "declared window.",
        unit="share of pairs",
        tolerance=0.0,
        catches="google-deepmind/nanodo's test of causality, other half: a mask that hides too much",
        trains=True,
        check=_past,
    ),
    Law(
        name="companions-do-not-matter",
        meaning="Logits of a sequence do not depend on the sequences in its batch.",
        unit="relative difference",
        tolerance=2e-5,
        catches="EleutherAI/lm-evaluation-harness#704, vllm-project/vllm#11778: log-probabilities "
        "change with the batch",
        trains=False,
        check=_companions,
    ),
    Law(
        name="padding-side-does-not-matter",
        meaning="Logits of real tokens do not depend on padding, on either side.",
        unit="relative difference",
        tolerance=2e-5,
        catches="EleutherAI/lm-evaluation-harness#1625: results change with batch size and padding",
        trains=False,
        check=_padding_side,
    ),
    Law(
        name="cache-equals-full-pass",
        meaning="Decoding with the key-value cache gives the logits of the full pass.",
        unit="relative difference",
        tolerance=2e-5,
        catches="vllm-project/vllm#48305: six sources of divergence between training and decoding",
        trains=False,
        check=_cache,
    ),
    Law(
        name="expert-implementations-agree",
        meaning="Every way to compute the experts gives the loop's logits and gradients.",
        unit="relative difference",
        tolerance=1e-4,
        catches="linkedin/Liger-Kernel PR#1413: a fused backward was half wrong, its forward right",
        trains=True,
        check=_experts,
    ),
    Law(
        name="bfloat16-is-near-float32",
        meaning="With bfloat16 products every way to compute the model is as near to float32 as the "
        "plain loop in PyTorch, in logits and gradients.",
        unit="times the loop's rounding",
        tolerance=1.0,
        catches="linkedin/Liger-Kernel PR#1413: a fused backward was half wrong, its forward right",
        trains=True,
        check=_bfloat16,
    ),
)
"""In the order of the report."""
