"""Tokens per second of our generator against transformers' `generate` on the exported checkpoint.

    python benchmarks/sampler_speed.py CHECKPOINT [--samples 128] [--new-tokens 48] [--rounds 5]

One prompt, many samples, float32, one thread, in alternation in one process. First the greedy
outputs of both are compared on eight prompts, token by token; speeds are told only if all agree.
Neither side can end early: transformers is given no end of text, ours counts until the length.
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
from isoflop.model.checkpoint import load_checkpoint
from isoflop.model.huggingface.export import export_checkpoint
from isoflop.sweep.lineage import open_tokenizer

PROMPTS = 8


def theirs(model, prompt, sampling, samples):
    options = {"do_sample": False}
    if sampling.temperature:
        options = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
        }
    with torch.inference_mode():
        rows = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=sampling.max_new_tokens,
            min_new_tokens=sampling.max_new_tokens,
            num_return_sequences=samples,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
            **options,
        )
    return rows[:, len(prompt) :].tolist()


def ours(generator, prompt, sampling, samples):
    requests = [Request(prompt=tuple(prompt), seeds=tuple(range(samples)))]
    return [list(sample.tokens) for sample in generator.generate(requests, sampling)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_checkpoint(arguments.checkpoint)
    tokenizer = Endless(open_tokenizer(arguments.checkpoint, None, None))
    generator = OurGenerator(model, tokenizer, batch_sequences=arguments.samples)
    source = torch.Generator().manual_seed(0)
    prompts = torch.randint(
        2, model.config.vocabulary_size, (PROMPTS, 12), generator=source
    ).tolist()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        export_checkpoint(arguments.checkpoint, Path(folder) / "hf", tokenizer=None)
        peers = {}
        for name in ("eager", "grouped_mm", "batched_mm"):
            peers[name] = AutoModelForCausalLM.from_pretrained(
                Path(folder) / "hf", dtype=torch.float32, experts_implementation=name
            ).eval()
    greedy = Sampling(max_new_tokens=arguments.new_tokens)
    agree = sum(
        ours(generator, prompt, greedy, 1) == theirs(peers["eager"], prompt, greedy, 1)
        for prompt in prompts
    )
    print(json.dumps({"greedy_equal": agree, "of": PROMPTS}))
    if agree < PROMPTS:
        raise SystemExit("greedy outputs differ: no speed is told")
    drawn = Sampling(max_new_tokens=arguments.new_tokens, temperature=0.6, top_p=0.95)
    contestants = {"ours": lambda: ours(generator, prompts[0], drawn, arguments.samples)}
    for name, peer in peers.items():
        contestants[f"transformers {name}"] = lambda peer=peer: theirs(
            peer, prompts[0], drawn, arguments.samples
        )
    for turn in range(arguments.rounds + 1):
        for name, run in contestants.items():
            begun = time.perf_counter()
            tokens = sum(map(len, run()))
            # The first turn warms up.
            if turn:
                results.setdefault(name, []).append(tokens / (time.perf_counter() - begun))
    medians = {name: statistics.median(speeds) for name, speeds in results.items()}
    best = max((name for name in medians if name != "ours"), key=medians.__getitem__)
    ratios = [a / b for a, b in zip(results["ours"], results[best], strict=True)]
    print(
        json.dumps(
            {
                "tokens_per_second": {name: round(speed) for name, speed in medians.items()},
                "best_peer": best,
                "ratio_median": statistics.median(ratios),
                "ratio_least": min(ratios),
                "ratio_most": max(ratios),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
