"""A sample is what its prompt and seed say, whatever stands beside it and however it is batched."""

import dataclasses

import pytest
import torch

from isoflop.config import UserError
from isoflop.evaluate.prompts import shared_length
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.ours import OurGenerator, with_experts_per_token
from isoflop.evaluate.sampling.samples import Generator, Request
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer
from isoflop.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(merging) -> Tokenizer:
    return merging


@pytest.fixture(scope="module")
def model(tokenizer) -> Transformer:
    config = ModelConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        num_layers=2,
        d_model=32,
        num_heads=2,
        d_expert=32,
        num_experts=4,
        top_k=2,
        sequence_length=48,
        init_std=0.3,
    )
    return Transformer(config, seed=5)


REQUESTS = [
    Request(prompt=(5, 6, 7, 8, 9), seeds=(1, 2, 3)),
    Request(prompt=(40,), seeds=(4,)),
    Request(prompt=tuple(range(20, 36)), seeds=(1, 5)),
    Request(prompt=(7, 7), seeds=()),
    Request(prompt=(8, 9, 10), seeds=(6,)),
]


def found(generator, requests, sampling):
    """Samples by request and seed."""
    samples = list(generator.generate(requests, sampling))
    named = {(requests[one.request].prompt, one.seed): one for one in samples}
    assert len(named) == len(samples)
    return {name: (one.tokens, one.text, one.finish) for name, one in named.items()}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_sample_depends_on_its_prompt_and_seed_alone(model, tokenizer, temperature):
    sampling = Sampling(max_new_tokens=12, temperature=temperature, top_p=0.95)
    whole = found(OurGenerator(model, tokenizer, batch_sequences=7), REQUESTS, sampling)
    assert len(whole) == 7
    for places in (1, 2, 3, 64):
        generator = OurGenerator(model, tokenizer, batch_sequences=places)
        assert found(generator, REQUESTS, sampling) == whole
        assert found(generator, REQUESTS[::-1], sampling) == whole
    alone = {}
    for request in REQUESTS:
        for seed in request.seeds:
            one = dataclasses.replace(request, seeds=(seed,))
            alone |= found(OurGenerator(model, tokenizer, batch_sequences=1), [one], sampling)
    assert alone == whole
    texts = {tokens for tokens, _, _ in whole.values()}
    assert len(texts) > (1 if temperature == 0 else 5)


def test_more_tokens_than_the_model_can_read_cost_no_memory(model, tokenizer):
    generator = OurGenerator(model, tokenizer, batch_sequences=7)
    endless, whole = (
        found(generator, REQUESTS, Sampling(max_new_tokens=number)) for number in (10**12, 48)
    )
    assert endless == whole


def test_what_all_prompts_begin_with_is_computed_once_and_changes_nothing(model, tokenizer):
    shots = tuple(range(30, 50))
    prompts = [shots + own for own in ((5,), (6, 7), (5, 6, 7, 8), (9,))]
    assert shared_length(prompts) == len(shots)
    assert shared_length([*prompts, shots]) == len(shots) - 1
    assert shared_length([*prompts, (1, 2)]) == 0
    sampling = Sampling(max_new_tokens=8, temperature=0.8)
    generator = OurGenerator(model, tokenizer, batch_sequences=3)
    requests = [Request(prompt=prompt, seeds=(number,)) for number, prompt in enumerate(prompts)]
    alone = {}
    for request in requests:
        alone |= found(generator, [request], sampling)
    assert found(generator, requests, sampling) == alone


def test_greedy_samples_are_the_most_probable_tokens_of_the_full_forward(model, tokenizer):
    sampling = Sampling(max_new_tokens=10)
    for (prompt, _), (tokens, _, _) in found(
        OurGenerator(model, tokenizer, batch_sequences=4), REQUESTS, sampling
    ).items():
        row = torch.tensor([[*prompt, *tokens]])
        with torch.inference_mode():
            expected = model(row).logits[0].argmax(dim=-1)[len(prompt) - 1 : -1]
        assert list(tokens) == expected.tolist()


def test_samples_end_at_their_length_or_where_the_context_does(model, tokenizer):
    generator = OurGenerator(model, tokenizer, batch_sequences=2)
    long = [Request(prompt=tuple(range(20, 60)), seeds=(1,)), Request(prompt=(9,), seeds=(1,))]
    samples = found(generator, long, Sampling(max_new_tokens=20, temperature=1.5))
    for (prompt, _), (tokens, _, finish) in samples.items():
        if finish == "length":
            assert len(tokens) == min(20, 48 - len(prompt))


def test_a_stop_text_ends_a_sample_wherever_it_lies_in_tokens(model, tokenizer):
    generator = OurGenerator(model, tokenizer, batch_sequences=4)
    free = Sampling(max_new_tokens=30, temperature=1.0)
    for name, (tokens, text, _) in found(generator, REQUESTS, free).items():
        for begin in range(0, max(0, len(text) - 3), 3):
            stop = text[begin : begin + 3]
            request = Request(prompt=name[0], seeds=(name[1],))
            stopped = dataclasses.replace(free, stop=("never stands here", stop))
            ((few, cut, finish),) = found(generator, [request], stopped).values()
            assert finish == "stop"
            assert cut == text[: text.index(stop)]
            assert list(few) == list(tokens[: len(few)])
            # Not one token more than needed.
            assert stop not in tokenizer.decode(few[:-1])


def test_the_end_of_text_ends_a_sample(model, tokenizer):
    changed = Transformer(model.config, seed=5)
    changed.load_state_dict(model.state_dict())
    with torch.no_grad():
        changed.head.zero_()
        changed.head[tokenizer.end_of_text_id] = 0.0
    sampling = Sampling(max_new_tokens=400, temperature=1.0)
    samples = found(OurGenerator(changed, tokenizer, batch_sequences=3), REQUESTS, sampling)
    for tokens, _, finish in samples.values():
        assert tokenizer.end_of_text_id not in tokens
        assert finish in ("end_of_text", "length")


def test_another_k_is_the_model_built_with_it(model, tokenizer):
    config = dataclasses.replace(model.config, top_k=3)
    built = Transformer(config, seed=5)
    sampling = Sampling(max_new_tokens=8, temperature=0.7)
    expected = found(OurGenerator(built, tokenizer, batch_sequences=3), REQUESTS, sampling)
    changed = dataclasses.replace(sampling, experts_per_token=3)
    generator = OurGenerator(model, tokenizer, batch_sequences=3)
    assert found(generator, REQUESTS, changed) == expected
    assert found(generator, REQUESTS, sampling) != expected
    shared = with_experts_per_token(model, 3)
    assert shared.embedding.data_ptr() == model.embedding.data_ptr()
    for wrong in (0, 5):
        with pytest.raises(UserError, match="between 1 and num_experts=4"):
            found(generator, REQUESTS, dataclasses.replace(sampling, experts_per_token=wrong))


@pytest.mark.parametrize("prompt", [(), tuple(range(48)), tuple(range(60))])
def test_a_prompt_without_room_is_refused(model, tokenizer, prompt):
    generator = OurGenerator(model, tokenizer, batch_sequences=2)
    with pytest.raises(UserError, match="prompts must hold 1 to 47 tokens"):
        list(generator.generate([Request(prompt=prompt, seeds=(1,))], Sampling(max_new_tokens=3)))


def test_it_is_a_generator_and_no_requests_have_no_samples(model, tokenizer):
    generator = OurGenerator(model, tokenizer, batch_sequences=2)
    assert isinstance(generator, Generator)
    assert list(generator.generate([], Sampling(max_new_tokens=3))) == []
    with pytest.raises(UserError, match="batch_sequences=0"):
        OurGenerator(model, tokenizer, batch_sequences=0)


def test_a_record_is_what_the_full_forward_pass_says(model, tokenizer):
    """Log-probabilities and experts of every token, whichever place and step a sample had."""
    shots = tuple(range(30, 50))
    requests = [
        Request(prompt=(*shots, number), seeds=(number, number + 9)) for number in range(5, 9)
    ]
    sampling = Sampling(max_new_tokens=9, temperature=0.7)
    generator = OurGenerator(model, tokenizer, batch_sequences=3, record=True)
    samples = list(generator.generate(requests, sampling))
    assert len(samples) == 8
    for sample in samples:
        ended = (tokenizer.end_of_text_id,) if sample.finish == "end_of_text" else ()
        chosen = (*sample.tokens, *ended)
        whole = (*requests[sample.request].prompt, *chosen)
        cache, record = model.empty_cache(1, len(whole)), []
        with torch.inference_mode():
            positions = torch.arange(len(whole) - 1)[None]
            hidden, _ = model.hidden_cached(torch.tensor([whole[:-1]]), positions, cache, record)
            log_p = (model.logits(hidden[0]) / 0.7).log_softmax(dim=-1)
        begin = len(whole) - len(chosen)
        expected = [log_p[begin + place - 1, token].item() for place, token in enumerate(chosen)]
        assert sample.record.log_probs.tolist() == pytest.approx(expected, abs=1e-4)
        assert sample.record.experts.tolist() == torch.stack(record)[:, 0].tolist()
    plain = OurGenerator(model, tokenizer, batch_sequences=3).generate(requests, sampling)
    assert list(plain) == samples
    assert all(one.record is None for one in OurGenerator(
        model, tokenizer, batch_sequences=3).generate(requests, sampling))  # fmt: skip
