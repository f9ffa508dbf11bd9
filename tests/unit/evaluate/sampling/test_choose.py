"""Draws follow the model's distribution, cut as asked, and depend on seed and place alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from isoflop.evaluate.sampling.choose import choose, choose_in_torch, uniforms
from isoflop.evaluate.sampling.config import Sampling

DRAWS = 20_000
LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.5, -3.0, 0.0])


def sampling(**changes) -> Sampling:
    return Sampling(**{"max_new_tokens": 1, "temperature": 1.0, **changes})


def drawn(**changes) -> list[int]:
    """How often each token is drawn."""
    numbers = uniforms(np.arange(DRAWS, dtype=np.uint64), np.zeros(DRAWS, dtype=np.uint64))
    tokens, _ = choose(LOGITS.expand(DRAWS, -1), sampling(**changes), torch.from_numpy(numbers))
    return torch.bincount(tokens, minlength=len(LOGITS)).tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    expected = (LOGITS.double() / temperature).softmax(dim=0) * DRAWS
    assert chisquare(drawn(temperature=temperature), expected.tolist()).pvalue > 1e-4


def test_only_the_k_most_probable_are_drawn_in_their_proportion():
    counts = drawn(top_k=2)
    kept = LOGITS.double().softmax(dim=0)[[0, 3]]
    assert sum(counts) == counts[0] + counts[3]
    assert chisquare([counts[0], counts[3]], (kept / kept.sum() * DRAWS).tolist()).pvalue > 1e-4


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.8, 0.95, 0.999])
def test_the_nucleus_is_the_fewest_tokens_that_hold_top_p(top_p):
    probabilities = LOGITS.double().softmax(dim=0).sort(descending=True)
    size = 1 + int((probabilities.values.cumsum(0) < top_p).sum())
    nucleus = set(probabilities.indices[:size].tolist())
    seen = {token for token, count in enumerate(drawn(top_p=top_p)) if count}
    assert seen <= nucleus
    assert probabilities.indices[0].item() in seen
    if top_p < 0.99:
        assert seen == nucleus


@given(st.floats(0, 1, exclude_max=True), st.floats(0.01, 1), st.integers(1, 9))
def test_any_draw_is_a_token_that_may_be_drawn(number, top_p, top_k):
    one, _ = choose(
        LOGITS[None], sampling(top_p=top_p, top_k=top_k), torch.tensor([number]).double()
    )
    order = LOGITS.argsort(descending=True).tolist()
    assert one.item() in order[:top_k]


CUTS = [
    {},
    {"temperature": 0.6, "top_p": 0.95},
    {"temperature": 1.7, "top_p": 0.3},
    {"top_k": 7},
    {"temperature": 0.3, "top_p": 0.9, "top_k": 40},
    {"top_p": 1e-9},
    {"top_k": 1},
    {"temperature": 1e-4},
    {"temperature": 0.0},
]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("vocabulary", [1, 2, 63, 64, 65, 700])
@pytest.mark.parametrize("spread", [0.0, 0.01, 3.0, 30.0])
def test_the_kernel_draws_what_the_definition_does(cut, vocabulary, spread):
    """Another token only where the number lies within rounding of the border between two."""
    source = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(64, vocabulary, generator=source) * spread
    # Ties, also at the border of what is kept.
    logits[::2] = logits[::2].round()
    uniform = torch.rand(64, generator=source, dtype=torch.float64)
    found, log_probs = choose(logits, sampling(**cut), uniform, with_log_probs=True)
    expected = choose_in_torch(logits, sampling(**cut), uniform)
    nudged = [
        choose_in_torch(logits, sampling(**cut), (uniform + nudge).clamp(0, 1 - 1e-9))
        for nudge in (-1e-5, 1e-5)
    ]
    for row, token in enumerate(found.tolist()):
        near = {expected[row].item(), *(one[row].item() for one in nudged)}
        # Rounding may also let one token more or less into a nucleus.
        assert token in near or cut.get("top_p", 1.0) < 1.0
    same = (found == expected).float().mean().item()
    assert same >= 0.95
    scaled = logits.double() / (cut.get("temperature", 1.0) or 1.0)
    truth = scaled.log_softmax(dim=-1).gather(1, found[:, None])[:, 0]
    torch.testing.assert_close(log_probs.double(), truth, rtol=1e-5, atol=2e-5)


def test_temperature_0_is_the_most_probable_and_of_equals_the_first():
    logits = torch.tensor([[0.0, 3.0, 3.0], [1.0, 0.0, -1.0]])
    found, _ = choose(logits, sampling(temperature=0.0), torch.tensor([0.9, 0.9]))
    assert found.tolist() == [1, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("with_log_probs", [True, False])
def test_a_row_that_is_not_finite_has_no_token_and_the_others_have(
    bad, temperature, with_log_probs
):
    logits = torch.tensor([[0.0, 9.0], [0.0, bad], [9.0, 0.0]])
    given = (logits, sampling(temperature=temperature), torch.full((3,), 0.5))
    found, log_probs = choose(*given, with_log_probs=with_log_probs)
    assert found.tolist() == choose_in_torch(*given).tolist() == [1, -1, 0]
    if log_probs is not None:
        assert log_probs[[0, 2]].isfinite().all()


def test_numbers_are_uniform_and_those_of_neighbours_do_not_hang_together():
    seeds = np.repeat(np.arange(300, dtype=np.uint64), 300)
    places = np.tile(np.arange(300, dtype=np.uint64), 300)
    numbers = uniforms(seeds, places)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert len(set(numbers)) == len(numbers)
    assert kstest(numbers, "uniform").pvalue > 1e-4
    square = numbers.reshape(300, 300)
    for one, other in ((square[1:], square[:-1]), (square[:, 1:], square[:, :-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02
