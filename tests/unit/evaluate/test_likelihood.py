"""Figures are those of one forward pass over each whole sequence, whatever sequences share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.evaluate import likelihood
from isoflop.evaluate.likelihood import Asked, group_by_beginning, read_likelihoods
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer

ROOM = 48
MODEL = Transformer(
    ModelConfig(
        vocabulary_size=40,
        num_layers=2,
        d_model=16,
        num_heads=2,
        d_expert=32,
        num_experts=4,
        top_k=2,
        sequence_length=ROOM,
        init_std=0.4,
    ),
    seed=3,
)


@torch.inference_mode()
def slow(one: Asked) -> torch.Tensor:
    """The definition: the whole sequence by itself."""
    return MODEL(torch.tensor([one.tokens[:-1]])).logits[0, one.first - 1 :].double()


def check(asked: list[Asked], batch_items: int = 8) -> None:
    found = read_likelihoods(
        MODEL, asked, lambda place, logits: (place, logits), batch_items=batch_items
    )
    assert [place for place, _ in found] == list(range(len(asked)))
    for one, (_, logits) in zip(asked, found, strict=True):
        torch.testing.assert_close(logits, slow(one), rtol=1e-4, atol=1e-4)


SHOTS = tuple(range(20))
QUESTIONS = [(1, 2, 3) * 6, (4, 5, 6) * 6, (7,)]
CHOICES = [(8, 9), (10,), (8, 9, 11)]


@pytest.mark.parametrize("batch_items", [1, 2, 5, 100])
def test_shots_and_questions_that_sequences_share(batch_items):
    """Three choices after each of two questions after the same shots, and sequences apart."""
    asked = [
        Asked(SHOTS + question + choice, len(SHOTS + question))
        for choice in CHOICES
        for question in QUESTIONS
    ]
    asked += [Asked((12, 13), 1), Asked(SHOTS[:18], 3), Asked((*SHOTS, 5), 20)]
    check(asked, batch_items)


def test_each_question_is_a_group_of_its_own_and_shots_alone_one_group():
    with_choices = [
        Asked(SHOTS + question + choice, len(SHOTS + question))
        for choice in CHOICES
        for question in QUESTIONS[:2]
    ]
    groups = group_by_beginning(with_choices)
    assert [len(group.places) for group in groups] == [3, 3]
    assert {len(group.beginning) for group in groups} == {len(SHOTS) + 18 - 1}
    single = [Asked((*SHOTS, other, 3, 4), len(SHOTS) + 2) for other in range(21, 30)]
    (group,) = group_by_beginning(single)
    assert group.beginning == SHOTS
    assert sorted(group.places) == list(range(9))
    assert [one.beginning for one in group_by_beginning([Asked((1, 2), 1), Asked((2, 2), 1)])] == [
        (),
        (),
    ]


def test_filling_behind_a_sequence_that_ends_with_the_context_spoils_nothing():
    """One sequence ends at the last position; the longer rest of another is filled up beside it."""
    full = tuple(place % 37 for place in range(ROOM + 1))
    asked = [
        Asked(full, 40),
        Asked((*full[:39], 39, 38), 40),
        Asked((39,) * 17 + full[:31], 18),
        Asked((39,) * 17 + (1, 2), 18),
    ]
    beginnings = {len(group.beginning) for group in group_by_beginning(asked)}
    assert beginnings == {39, 17}
    check(asked, 4)


@settings(max_examples=60)
@given(st.data())
def test_any_sequences(data):
    begin = st.sampled_from([(), SHOTS, SHOTS[:17], SHOTS + QUESTIONS[0]])
    rest = st.lists(st.integers(0, 39), min_size=2, max_size=10).map(tuple)
    asked = []
    for tokens in data.draw(st.lists(st.tuples(begin, rest), min_size=1, max_size=9)):
        whole = tokens[0] + tokens[1]
        asked.append(Asked(whole, data.draw(st.integers(1, len(whole) - 1))))
    check(asked, data.draw(st.integers(1, 9)))


@pytest.mark.parametrize("limit", ["LOGITS_LIMIT", "TOKENS_LIMIT", "CACHE_BYTES_LIMIT"])
def test_a_batch_too_large_for_memory_is_split(limit, monkeypatch):
    sizes = []
    hidden = Transformer.hidden_cached

    def seen(self, tokens, *rest):
        sizes.append(len(tokens))
        return hidden(self, tokens, *rest)

    monkeypatch.setattr(Transformer, "hidden_cached", seen)
    asked = [Asked((*SHOTS, one, 2, 3), 20) for one in range(6)]
    check(asked, 100)
    assert max(sizes) == 6
    sizes.clear()
    monkeypatch.setattr(likelihood, limit, 1)
    check(asked, 100)
    assert max(sizes) == 1


def test_no_sequences_and_logits_that_are_not_finite():
    assert read_likelihoods(MODEL, [], lambda place, logits: place, batch_items=2) == []
    broken = Transformer(MODEL.config, seed=3)
    with torch.no_grad():
        broken.head[0, 0] = float("nan")
    assert read_likelihoods(broken, [Asked((1, 2), 1)], lambda *_: 0, batch_items=1) == [None]
