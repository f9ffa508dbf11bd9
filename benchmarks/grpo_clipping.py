"""What clipping gradients in L2 and then in L1 does to updates, against the size of the model.

    python benchmarks/grpo_clipping.py [--figure FILE.svg] [--json] [--seeds 0 1 2]

The released trainer of arXiv:2508.18672 clips to an L2 norm of 1 and then, by a call meant to log the
norm, to an L1 norm of 1. Here models of five sizes take one GRPO update of the study's settings on the
same random answers and rewards, from fresh moments, once with each clipping. Told: parameters, mean size
of a gradient after clipping, L2 norm of the update over that of the L2-clipped one. AdamW divides by the
gradient's own size, so that what is left of the shrinking is what its epsilon of 1e-8 leaves; with SGD, or
an epsilon that is added before, it would be the whole of it. The second figure is the same for SGD.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

from isoflop.allocator import keep_freed_memory
from isoflop.analysis.charts.chart import COLOURS, Axis, Chart, Curve, Mark, Series
from isoflop.analysis.charts.svg import svg_text
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer
from isoflop.posttrain.config import GrpoConfig, ProblemSource
from isoflop.posttrain.grpo import group_advantages
from isoflop.posttrain.policy import Answer, AnswerBatch
from isoflop.posttrain.update import NOTHING_SEEN, MicroBatch, MiniBatch, update

SIZES = (
    # d_model, layers, experts
    (32, 2, 4),
    (64, 2, 16),
    (128, 4, 16),
    (256, 4, 32),
    (512, 4, 32),
)
PROMPTS, SAMPLES, PROMPT_TOKENS, TOKENS = 4, 5, 12, 20
MAX_L1 = 1.0
"""As released."""


def make_model(size: tuple[int, int, int], seed: int) -> Transformer:
    d_model, layers, experts = size
    return Transformer(
        ModelConfig(
            vocabulary_size=1024,
            num_layers=layers,
            d_model=d_model,
            num_heads=2,
            d_expert=2 * d_model,
            num_experts=experts,
            top_k=2,
            sequence_length=64,
        ),
        seed=seed,
    )


def mini_batch(seed: int) -> MiniBatch:
    source = torch.Generator().manual_seed(seed)

    def tokens(number: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 1024, (number,), generator=source).tolist())

    prompts = [tokens(PROMPT_TOKENS) for _ in range(PROMPTS)]
    answers = [
        Answer(prompt=one, response=tokens(TOKENS)) for one in prompts for _ in range(SAMPLES)
    ]
    rewards = torch.rand(PROMPTS, SAMPLES, generator=source).round()
    batch = AnswerBatch.of(answers, torch.device("cpu"))
    part = MicroBatch(
        batch=batch,
        advantages=group_advantages(rewards).flatten(),
        sampler_log_probs=torch.zeros(batch.mask.shape),
        old_log_probs=None,
        reference_log_probs=None,
        seen=NOTHING_SEEN,
    )
    return MiniBatch([part], int(batch.mask.sum()), len(answers))


def one_update(
    size: tuple[int, int, int], seed: int, max_l1: float | None, optimizer_name: str
) -> tuple[float, float, int]:
    """L2 norm of the change of all weights, mean gradient after clipping, parameters."""
    model = make_model(size, seed).train()
    config = GrpoConfig(
        train=ProblemSource(task="probes"),
        prompts_per_step=PROMPTS,
        mini_batch_prompts=PROMPTS,
        max_gradient_l1_norm=max_l1,
        divergence_coefficient=0.0,
    )
    kinds = {"AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}
    # No decay: it would hide what the gradients do.
    # A small SGD step would be lost under the weights' rounding; its ratio does not depend on the rate.
    rate = 1.0 if optimizer_name == "SGD" else config.learning_rate
    optimizer = kinds[optimizer_name](model.parameters(), lr=rate, weight_decay=0.0)
    before = [weights.detach().clone() for weights in model.parameters()]
    update(model, optimizer, mini_batch(seed), config, step=1)
    with torch.no_grad():
        change = torch.stack(
            [
                (now - then).double().norm()
                for now, then in zip(model.parameters(), before, strict=True)
            ]
        ).norm()
        sizes = torch.stack([weights.grad.abs().double().sum() for weights in model.parameters()])
    number = sum(weights.numel() for weights in model.parameters())
    return change.item(), sizes.sum().item() / number, number


def measure(seeds: list[int]) -> list[dict[str, float]]:
    rows = []
    for size in SIZES:
        found: dict[str, list[float]] = {"AdamW": [], "SGD": []}
        means: dict[str, list[float]] = {"l2": [], "l2_then_l1": []}
        for seed in seeds:
            for name, ratios in found.items():
                ours, mean, number = one_update(size, seed, None, name)
                theirs, small, _ = one_update(size, seed, MAX_L1, name)
                ratios.append(theirs / ours)
                if name == "AdamW":
                    means["l2"].append(mean)
                    means["l2_then_l1"].append(small)
        row = {
            "parameters": number,
            **{f"update_ratio_{name}": statistics.fmean(ratios) for name, ratios in found.items()},
            **{f"spread_{name}": statistics.pstdev(ratios) for name, ratios in found.items()},
            **{f"mean_gradient_{name}": statistics.fmean(one) for name, one in means.items()},
        }
        rows.append(row)
        print(
            f"{number:>12,} parameters: update after both clippings / after L2 alone: AdamW "
            f"{row['update_ratio_AdamW']:.4f}, SGD {row['update_ratio_SGD']:.2e}; mean gradient "
            f"{row['mean_gradient_l2_then_l1']:.1e} instead of {row['mean_gradient_l2']:.1e}",
            flush=True,
        )
    return rows


def chart(rows: list[dict[str, float]]) -> Chart:
    series = tuple(
        Series(
            label=name,
            colour=COLOURS[place],
            marks=tuple(Mark(x=row["parameters"], y=row[f"update_ratio_{name}"]) for row in rows),
            joined=True,
        )
        for place, name in enumerate(("AdamW", "SGD"))
    )
    ends = (rows[0]["parameters"], rows[-1]["parameters"])
    return Chart(
        name="grpo-clipping",
        title="Update after L2 and L1 clipping over update after L2 clipping alone",
        description="Ratio of update sizes against the number of parameters, a line an optimiser.",
        x=Axis(label="parameters", scale="log", form="count"),
        y=Axis(label="ratio of the updates' L2 norms", scale="log"),
        series=series,
        curves=(
            Curve(
                label="ours: no second clipping",
                colour="#1f2933",
                points=tuple((x, 1.0) for x in ends),
                dashed=True,
            ),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = measure(arguments.seeds)
    if arguments.figure:
        arguments.figure.write_text(svg_text(chart(rows)), encoding="utf-8")
    if arguments.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
