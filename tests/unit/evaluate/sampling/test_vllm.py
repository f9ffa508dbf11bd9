"""What the generator asks of vLLM and makes of its answers, with a module in vLLM's place."""

import importlib.metadata
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from isoflop.config import UserError
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.samples import Request
from isoflop.evaluate.sampling.vllm import VllmGenerator

REQUESTS = [Request(prompt=(5, 6), seeds=(1, 2**63 + 2)), Request(prompt=(7,), seeds=(3,))]


@pytest.fixture
def engines(merging, monkeypatch):
    """Every engine that was loaded; each answers "the" with a stop text behind it."""
    loaded = []

    class LLM:
        def __init__(self, **options):
            self.options, self.asked = options, []
            loaded.append(self)

        def generate(self, prompts, parameters, use_tqdm):
            if any(len(prompt["prompt_token_ids"]) > 2 for prompt in prompts):
                raise ValueError("too long")
            self.asked += zip(prompts, parameters, strict=True)
            tokens = [*merging.encode("the Question: b"), merging.end_of_text_id]
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens)]) for _ in prompts]

    module = SimpleNamespace(LLM=LLM, SamplingParams=lambda **given: SimpleNamespace(**given))
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0")
    return loaded


def test_each_sample_is_a_request_with_its_seed_and_ends_before_the_stop_text(engines, merging):
    sampling = Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9, top_k=3, stop=("Question:",))
    with VllmGenerator(Path("hf"), merging) as generator:
        samples = list(generator.generate(REQUESTS, sampling))
    assert generator.name == "vllm 0.0"
    assert [(one.request, one.seed) for one in samples] == [(0, 1), (0, 2**63 + 2), (1, 3)]
    assert {(one.text, one.finish) for one in samples} == {("the ", "stop")}
    assert merging.end_of_text_id not in samples[0].tokens
    (engine,) = engines
    assert engine.options == {"model": "hf", "dtype": "float32"}
    prompts, parameters = zip(*engine.asked, strict=True)
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [[5, 6], [5, 6], [7]]
    assert [one.seed for one in parameters] == [1, 2, 3]
    first = parameters[0]
    assert (first.temperature, first.top_p, first.top_k) == (0.5, 0.9, 3)
    assert (first.max_tokens, first.stop) == (9, ["Question:"])


def test_greedy_answers_have_no_seed_and_another_k_is_another_engine(engines, merging):
    generator = VllmGenerator(Path("hf"), merging)
    for experts in (None, None, 1):
        greedy = Sampling(max_new_tokens=9, experts_per_token=experts)
        assert [one.finish for one in generator.generate(REQUESTS, greedy)] == ["end_of_text"] * 3
    assert [engine.options.get("hf_overrides") for engine in engines] == [
        None,
        {"num_experts_per_tok": 1},
    ]
    assert {(one.seed, one.top_k) for _, one in engines[0].asked} == {(None, 0)}
    assert list(generator.generate([], Sampling(max_new_tokens=1))) == []
    with pytest.raises(UserError, match="vllm refuses the prompts: too long"):
        list(generator.generate([Request(prompt=(1, 2, 3), seeds=(1,))], greedy))
