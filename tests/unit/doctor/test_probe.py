"""Forced routers route as designed, for every number of experts and every k."""

import itertools

import pytest
import torch

from fakes_doctor import ours
from isoflop.doctor import definitions
from isoflop.doctor.law import judge
from isoflop.doctor.probe import (
    LEAST_GAP,
    Design,
    crowded_design,
    even_design,
    forced_routing,
    opposed_design,
    preferring_design,
    random_tokens,
    token_grid,
)
from isoflop.doctor.router_laws import CROWDS, LEAST_EFFECT, ROUTER_LAWS
from isoflop.doctor.subject import NotApplicableError, Shape

SIZES = [
    (num_experts, top_k)
    for num_experts in (2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 31, 64, 256)
    for top_k in sorted({1, 2, 3, num_experts // 2, num_experts - 1, num_experts})
    if 1 <= top_k <= num_experts
]
CHOOSING = [(num_experts, top_k) for num_experts, top_k in SIZES if top_k < num_experts]


def shape(num_experts: int, top_k: int, num_layers: int = 2) -> Shape:
    return Shape(
        vocabulary_size=64,
        d_model=4,
        num_layers=num_layers,
        num_experts=num_experts,
        top_k=top_k,
        max_positions=64,
        weights_sum_to_one=True,
    )


def counts(logits: torch.Tensor, top_k: int) -> list[int]:
    chosen = definitions.chosen_experts(logits, top_k).flatten()
    return torch.bincount(chosen, minlength=logits.shape[-1]).tolist()


@pytest.mark.parametrize(("num_experts", "top_k"), SIZES)
def test_even_design_is_even_in_choices_and_in_probability(num_experts, top_k):
    size = shape(num_experts, top_k)
    num_tokens = token_grid(size).numel()
    for logits in even_design(size, num_tokens).logits():
        assert set(counts(logits, top_k)) == {num_tokens * top_k // num_experts}
        probabilities = logits.softmax(dim=-1).mean(dim=0)
        assert (probabilities * num_experts - 1).abs().max() < 1e-5
        assert definitions.balance_loss(logits, top_k) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("num_experts", "top_k"), CHOOSING)
def test_opposed_layers_are_uneven_alone_and_even_together(num_experts, top_k):
    size = shape(num_experts, top_k)
    layers = opposed_design(size, token_grid(size).numel()).logits()
    # Nearly dense layers can be uneven by little only.
    least = LEAST_EFFECT if top_k <= 0.9 * num_experts else 1e-3
    assert all(definitions.balance_loss(logits, top_k) > 1 + least for logits in layers)
    pooled = definitions.balance_loss(torch.cat(layers), top_k)
    if num_experts % 2 == 0:
        assert pooled == pytest.approx(1, abs=1e-4)
    mean = sum(definitions.balance_loss(logits, top_k) for logits in layers) / 2
    assert mean - pooled > least


@pytest.mark.parametrize(("num_experts", "top_k"), CHOOSING)
def test_no_rounding_can_change_a_choice_of_any_design(num_experts, top_k):
    size = shape(num_experts, top_k)
    num_tokens = token_grid(size).numel()
    designs = (
        even_design(size, num_tokens),
        opposed_design(size, num_tokens),
        crowded_design(size, num_tokens, [0.5, 1.0]),
        preferring_design(size, num_tokens),
    )
    for design in designs:
        assert design.gap() > LEAST_GAP
        for layer, exact in zip(design.inputs, design.logits(), strict=True):
            rounded = layer @ design.weight.T
            chosen = definitions.chosen_experts(rounded.double(), top_k).sort(dim=-1).values
            assert chosen.equal(definitions.chosen_experts(exact, top_k).sort(dim=-1).values)


def test_a_design_whose_choice_rounding_could_decide_is_refused():
    even = torch.ones(3, 4)
    with pytest.raises(NotApplicableError, match="logits of 3 experts differ by 0 only"):
        Design(weight=even, inputs=(torch.ones(2, 4),), top_k=2)
    assert Design(weight=even, inputs=(torch.ones(2, 4),), top_k=3).gap() == float("inf")


@pytest.mark.parametrize(
    ("num_experts", "top_k"),
    [(e, k) for e in (3, 7, 9, 11, 13, 15, 31) for k in (2, 3, 5) if k < e],
)
def test_a_healthy_model_with_an_odd_number_of_experts_keeps_the_laws_of_balance(
    num_experts, top_k
):
    subject = ours(num_experts=num_experts, top_k=top_k)
    rows = [judge(law, subject, 0) for law in ROUTER_LAWS]
    assert {row.law: row.verdict for row in rows if row.verdict != "pass"} == {}


@pytest.mark.parametrize(("num_experts", "top_k"), CHOOSING)
def test_crowding_raises_the_loss_at_every_step(num_experts, top_k):
    size = shape(num_experts, top_k, num_layers=1)
    num_tokens = token_grid(size).numel()
    losses = []
    for crowd in CROWDS:
        (logits,) = crowded_design(size, num_tokens, [crowd]).logits()
        losses.append(definitions.balance_loss(logits, top_k))
    # More than float32 could lose: the law compares what a model computes.
    steps = [after - before for before, after in itertools.pairwise(losses)]
    assert min(steps) > 1e-5


@pytest.mark.parametrize(("num_experts", "top_k"), CHOOSING)
def test_preferring_design_sends_all_tokens_to_the_first_experts(num_experts, top_k):
    size = shape(num_experts, top_k)
    for logits in preferring_design(size, 6).logits():
        assert counts(logits, top_k) == [6] * top_k + [0] * (num_experts - top_k)


def test_forced_routers_give_the_designed_logits_and_the_weights_come_back():
    subject = ours()
    tokens = token_grid(subject.shape)
    design = crowded_design(subject.shape, tokens.numel(), [0.25, 0.75])
    before = [site.weight.detach().clone() for site in subject.router_sites()]
    free = subject.choices(tokens)[0].logits
    with forced_routing(subject, design):
        for layer, expected in zip(subject.choices(tokens), design.logits(), strict=True):
            torch.testing.assert_close(layer.logits.double(), expected, atol=1e-5, rtol=1e-5)
    for site, weight in zip(subject.router_sites(), before, strict=True):
        assert site.weight.equal(weight)
    assert subject.choices(tokens)[0].logits.equal(free)


def test_weights_come_back_also_after_an_error():
    subject = ours()
    before = subject.router_sites()[0].weight.detach().clone()
    design = even_design(subject.shape, 16)
    with pytest.raises(RuntimeError), forced_routing(subject, design):
        raise RuntimeError
    assert subject.router_sites()[0].weight.equal(before)
    assert not subject.router_sites()[0].module._forward_pre_hooks


def test_tokens_come_from_the_seed_and_fit_the_model():
    subject = ours(sequence_length=5)
    assert random_tokens(subject, 3).equal(random_tokens(subject, 3))
    assert not random_tokens(subject, 3).equal(random_tokens(subject, 4))
    assert random_tokens(subject, 3, extra=1).shape == (8, 6)
