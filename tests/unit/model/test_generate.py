"""Cached greedy decoding is the argmax of the full forward pass, token by token."""

import pytest
import torch

from isoflop.config import UserError
from isoflop.model.config import ModelConfig
from isoflop.model.generate import generate_greedy
from isoflop.model.transformer import Transformer

NO_STOP = -1
"""No token: generation ends at its limit."""


def model(**changes) -> Transformer:
    fields = {
        "vocabulary_size": 40,
        "num_layers": 2,
        "d_model": 16,
        "num_heads": 2,
        "d_expert": 32,
        "num_experts": 4,
        "top_k": 2,
        "sequence_length": 24,
        "init_std": 0.4,
    }
    return Transformer(ModelConfig(**(fields | changes)), seed=3)


PROMPTS = [[5], [1, 2, 3], list(range(12)), [7, 7], [39, 0, 4, 8, 15]]


@torch.inference_mode()
def slow_greedy(net: Transformer, prompt: list[int], max_new_tokens: int, stop: int) -> list[int]:
    """The definition: run the whole sequence again for each token."""
    sequence = list(prompt)
    while len(sequence) - len(prompt) < max_new_tokens:
        token = net(torch.tensor([sequence])).logits[0, -1].argmax().item()
        if token == stop:
            break
        sequence.append(token)
        if len(sequence) > net.config.sequence_length:
            break
    return sequence[len(prompt) :]


@pytest.mark.parametrize("num_experts", [1, 4])
def test_cached_decoding_equals_full_forward_for_prompts_of_unequal_lengths(num_experts):
    net = model(num_experts=num_experts, top_k=min(2, num_experts))
    answers = generate_greedy(net, PROMPTS, max_new_tokens=9, stop_token=NO_STOP)
    assert answers == [slow_greedy(net, prompt, 9, NO_STOP) for prompt in PROMPTS]
    assert [len(answer) for answer in answers] == [9] * len(PROMPTS)


def test_generation_stops_before_the_stop_token_and_only_there():
    """Take as stop token one that really comes: answers become prefixes of the endless ones."""
    net = model()
    endless = generate_greedy(net, PROMPTS, max_new_tokens=10, stop_token=NO_STOP)
    stop = endless[2][4]
    stopped = generate_greedy(net, PROMPTS, max_new_tokens=10, stop_token=stop)
    for long, short in zip(endless, stopped, strict=True):
        assert short == (long[: long.index(stop)] if stop in long else long)
    assert any(len(short) < 10 for short in stopped)


def test_a_prompts_answer_does_not_depend_on_its_neighbours():
    net = model()
    together = generate_greedy(net, PROMPTS, max_new_tokens=6, stop_token=NO_STOP)
    alone = [
        generate_greedy(net, [prompt], max_new_tokens=6, stop_token=NO_STOP)[0]
        for prompt in PROMPTS
    ]
    assert together == alone
    backwards = generate_greedy(net, PROMPTS[::-1], max_new_tokens=6, stop_token=NO_STOP)
    assert backwards[::-1] == together


def test_generation_ends_where_the_sequence_length_does():
    net = model(sequence_length=14)
    prompts = [list(range(12)), [3]]
    answers = generate_greedy(net, prompts, max_new_tokens=100, stop_token=NO_STOP)
    assert answers == [slow_greedy(net, prompt, 100, NO_STOP) for prompt in prompts]
    assert [len(answer) for answer in answers] == [3, 14]


def test_fewer_tokens_are_a_prefix_of_more():
    net = model()
    more = generate_greedy(net, PROMPTS, max_new_tokens=8, stop_token=NO_STOP)
    fewer = generate_greedy(net, PROMPTS, max_new_tokens=3, stop_token=NO_STOP)
    assert fewer == [answer[:3] for answer in more]


def test_prompts_without_tokens_or_room_are_refused():
    net = model()
    assert generate_greedy(net, [], max_new_tokens=3, stop_token=0) == []
    with pytest.raises(UserError, match="1 to 23 tokens"):
        generate_greedy(net, [[1], []], max_new_tokens=3, stop_token=0)
    with pytest.raises(UserError, match="got 1 to 24"):
        generate_greedy(net, [[1], [1] * 24], max_new_tokens=3, stop_token=0)
