"""The bits of an answer: equal to brute force, summing as probabilities do, whatever the batch."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.evaluate import likelihood
from isoflop.evaluate.losses import answer_bits, encode_question, healed_bits, task_losses
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import Tokenizer

PAIRS = [
    ("the sheep", " sheared"),
    ("the she", "ep"),  # Inside "sheep".
    ("thenc", "e she showed"),
    ("12", "34"),
    ("t", "hence"),
    ("the shore ", "the"),  # " the" begins with the prompt's space.
    ("é", "té là"),
    ("", "she showed 12"),
    ("zzz", "q"),
    ("the sheep sheared", " the shore and the sheep showed"),
]
START = (0,)


@torch.inference_mode()
def slow_bits(model: Transformer, tokenizer: Tokenizer, prompt: str, answer: str) -> float:
    """The definition, token by token, one forward pass each, every vocabulary token looked at."""
    tokens = [*START, *tokenizer.encode(prompt + answer)]
    end_of_prompt = len(prompt.encode())
    bits, at = 0.0, 0
    for place, token in enumerate(tokens[1:], start=1):
        begin, at = at, at + len(tokenizer.token_bytes(token))
        if at <= end_of_prompt:
            continue
        logits = model(torch.tensor([tokens[:place]])).logits[0, -1].double().tolist()
        leftover = prompt.encode()[begin:] if begin < end_of_prompt else b""
        total = sum(
            math.exp(logit)
            for other, logit in enumerate(logits)
            if not leftover or tokenizer.token_bytes(other).startswith(leftover)
        )
        bits -= math.log2(math.exp(logits[token]) / total)
    return bits


def test_the_table_holds_joined_and_unjoined_pairs(merging):
    joined = [encode_question(merging, *pair).joined for pair in PAIRS]
    assert sum(joined) >= 3
    assert joined.count(False) >= 3


def test_task_loss_equals_the_slow_definition(model, merging):
    found = task_losses(model, merging, PAIRS, batch_items=4, start=START)
    for (prompt, answer), loss in zip(PAIRS, found, strict=True):
        assert loss is not None
        assert loss.bits == pytest.approx(slow_bits(model, merging, prompt, answer), rel=1e-5)
        assert loss.num_bytes == len(answer.encode())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text("the sorp12é", min_size=1, max_size=14), cut=st.integers(0, 13))
def test_task_loss_equals_the_slow_definition_on_any_cut(model, merging, text, cut):
    cut = min(cut, len(text) - 1)
    prompt, answer = text[:cut], text[cut:]
    (loss,) = task_losses(model, merging, [(prompt, answer)], batch_items=1, start=START)
    assert loss is not None
    assert loss.bits == pytest.approx(slow_bits(model, merging, prompt, answer), rel=1e-5)


def test_without_a_spanning_token_it_is_the_plain_sum_over_the_answers_tokens(model, merging):
    plain = [pair for pair in PAIRS if not encode_question(merging, *pair).joined]
    for prompt, answer in plain:
        tokens = [*START, *merging.encode(prompt), *merging.encode(answer)]
        log_p = model(torch.tensor([tokens])).logits[0].double().log_softmax(dim=-1)
        count = len(merging.encode(answer))
        expected = -sum(
            log_p[place - 1, tokens[place]].item()
            for place in range(len(tokens) - count, len(tokens))
        ) / math.log(2)
        (loss,) = task_losses(model, merging, [(prompt, answer)], batch_items=1, start=START)
        assert loss is not None
        assert not loss.joined
        assert loss.num_tokens == count
        assert loss.bits == pytest.approx(expected, rel=1e-5)


def test_with_one_token_a_byte_the_bits_are_those_of_the_string(model, plain_bytes):
    """No merges: the whole text's bits are the sum over all bytes, and any cut adds up to it."""
    text = "the sheep é 1234"
    tokens = [*START, *plain_bytes.encode(text)]
    assert len(tokens) == 1 + len(text.encode())
    log_p = model(torch.tensor([tokens])).logits[0].double().log_softmax(dim=-1)
    whole = -sum(log_p[place - 1, tokens[place]].item() for place in range(1, len(tokens)))
    pairs = [
        pair for cut in range(1, len(text)) for pair in (("", text[:cut]), (text[:cut], text[cut:]))
    ]
    found = task_losses(model, plain_bytes, [("", text), *pairs], batch_items=7, start=START)
    bits = [loss.bits for loss in found if loss is not None]
    assert bits[0] == pytest.approx(whole / math.log(2), rel=1e-5)
    assert not any(loss.joined for loss in found if loss is not None)
    for first, second in zip(bits[1::2], bits[2::2], strict=True):
        assert first + second == pytest.approx(bits[0], rel=1e-5)


@pytest.mark.parametrize("leftover", [b" ", b"t", b" she", "é".encode()[:1]])
def test_healed_probabilities_of_all_continuations_sum_to_one(model, merging, leftover):
    """Over the tokens that begin with the leftover; and over the bytes that may come next."""
    allowed = merging.tokens_starting_with(leftover)
    brute = [token for token in range(320) if merging.token_bytes(token).startswith(leftover)]
    assert sorted(allowed) == brute
    assert len(brute) > 1
    logits = model(torch.tensor([[5, 6, 7]])).logits[0, -1].detach()
    by_next_byte: dict[bytes, float] = {}
    for token in allowed:
        following = merging.token_bytes(token)[len(leftover) :][:1]
        probability = 2.0 ** -healed_bits(logits, token, allowed)
        by_next_byte[following] = by_next_byte.get(following, 0.0) + probability
    assert sum(by_next_byte.values()) == pytest.approx(1.0, abs=1e-6)
    assert b"" in by_next_byte
    assert all(0 < value < 1 for value in by_next_byte.values())


def test_the_prompts_tail_costs_nothing(model, merging):
    """Healing only takes away what the leftover costs: never more bits than the plain token's."""
    for prompt, answer in PAIRS:
        question = encode_question(merging, prompt, answer, start=START)
        if not question.joined:
            continue
        log_p = model(torch.tensor([question.tokens])).logits[0].double().log_softmax(dim=-1)
        plain = -sum(
            log_p[place - 1, question.tokens[place]].item()
            for place in range(question.first_answer, len(question.tokens))
        ) / math.log(2)
        (healed,) = answer_bits(model, merging, [question], batch_items=1)
        assert 0 <= healed < plain


@pytest.mark.parametrize("batch_items", [1, 2, 3, 100])
def test_bits_do_not_depend_on_the_batch(model, merging, batch_items):
    expected = task_losses(model, merging, PAIRS, batch_items=len(PAIRS), start=START)
    found = task_losses(model, merging, PAIRS, batch_items=batch_items, start=START)
    backwards = task_losses(model, merging, PAIRS[::-1], batch_items=batch_items, start=START)
    for one, other, turned in zip(expected, found, reversed(backwards), strict=True):
        assert one is not None
        assert other is not None
        assert turned is not None
        assert other.bits == pytest.approx(one.bits, rel=1e-5)
        assert turned.bits == pytest.approx(one.bits, rel=1e-5)
        assert one[1:] == other[1:] == turned[1:]


def test_a_batch_too_large_for_memory_is_split(model, merging, monkeypatch):
    expected = task_losses(model, merging, PAIRS, batch_items=100, start=START)
    monkeypatch.setattr(likelihood, "LOGITS_LIMIT", 1)
    found = task_losses(model, merging, PAIRS, batch_items=100, start=START)
    for one, other in zip(expected, found, strict=True):
        assert one is not None
        assert other is not None
        assert other.bits == pytest.approx(one.bits, rel=1e-5)


def test_where_the_answer_begins():
    """Spans by hand, for a tokenizer without bytes: characters decide."""
    tokenizer = word_tokenizer()
    question = encode_question(tokenizer, "ab cd ", "ab", start=(2,))
    assert question.tokens == (2, 0, 1, 0)
    assert (question.first_answer, question.leftover, question.num_bytes) == (3, b"", 2)
    spanned = encode_question(tokenizer, "ab c", "d")
    assert (spanned.parted, spanned.joined, spanned.leftover) == (False, True, b"")


def test_a_join_that_cannot_be_parted_has_no_loss_and_stops_no_other(model, without_bytes):
    pairs = [("the sheep", " sheared"), ("the she", "ep"), ("12", "34")]
    found = task_losses(model, without_bytes, pairs, batch_items=3, start=START)
    assert [one is None for one in found] == [False, True, False]
    alone = task_losses(model, without_bytes, pairs[:1], batch_items=1, start=START)
    assert found[0].bits == pytest.approx(alone[0].bits, rel=1e-5)


def test_a_space_that_the_tokenizer_adds_belongs_to_the_prompt(model, merging, prefixing):
    for prompt, answer in PAIRS:
        if not prompt or any(digit.isdigit() for digit in prompt + answer):
            continue
        question = encode_question(prefixing, prompt, answer)
        assert question == encode_question(merging, " " + prompt, answer)
    spans = prefixing.spans("the sheep")
    assert (spans[0].start_byte, spans[-1].end_byte) == (0, len("the sheep"))
    assert encode_question(prefixing, "", "the").leftover == b""


def word_tokenizer() -> Tokenizer:
    """Whole words, as of a user's file that keeps no bytes."""
    from tokenizers import Tokenizer as LibraryTokenizer
    from tokenizers import models, pre_tokenizers

    library = LibraryTokenizer(
        models.WordLevel({"ab": 0, "cd": 1, "<|endoftext|>": 2, "?": 3}, unk_token="?")
    )
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(Path("words.json"), library, TokenizerConfig())


def test_items_without_room_are_left_out_and_the_last_that_fits_is_not_cut(model, plain_bytes):
    """The model reads 48 tokens; the last of an item is only predicted."""
    fitting, long = ("a" * 40, "b" * 8), ("a" * 40, "b" * 9)
    found = task_losses(model, plain_bytes, [long, fitting, ("c", "d")], batch_items=8, start=START)
    assert found[0] is None
    assert found[1] is not None
    assert found[1].num_tokens == 8
    assert found[2] is not None
    expected = slow_bits(model, plain_bytes, *fitting)
    assert found[1].bits == pytest.approx(expected, rel=1e-5)


def test_an_answer_without_any_context_cannot_be_scored(model, plain_bytes):
    assert task_losses(model, plain_bytes, [("", "abc")], batch_items=1) == [None]
    assert task_losses(model, plain_bytes, [], batch_items=1) == []


def test_an_empty_answer_is_refused(model, merging):
    with pytest.raises(UserError, match="empty answer"):
        task_losses(model, merging, [("the", "")], batch_items=1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_stop_with_a_clear_error(merging, value):
    config = ModelConfig(
        vocabulary_size=320,
        num_layers=1,
        d_model=8,
        num_heads=2,
        d_expert=8,
        num_experts=2,
        top_k=2,
        sequence_length=48,
    )
    broken = Transformer(config)
    with torch.no_grad():
        broken.head[17] = value
    assert task_losses(broken, merging, PAIRS[:1], batch_items=1, start=START) == [None]
