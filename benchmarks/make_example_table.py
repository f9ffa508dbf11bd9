"""Make tables of runs with a known truth: the tutorial's, and a large one to time the report on.

    python benchmarks/make_example_table.py docs/example/lab-runs.csv
    python benchmarks/make_example_table.py --large /tmp/large.csv      65 cells x 3 seeds x 30 checkpoints

No model was trained. Validation losses follow the published joint law (arXiv:2502.05172) with E/k
for its experts, plus 0.4% noise between runs. Task losses follow from them: recall ("triviaqa")
falls with the loss; reasoning ("gsm8k") also falls, but rises with sparsity beyond E/k = 8 by 0.06 bits
per byte a doubling, so that its best density is 1/8 or, for small models, sparser. Accuracies are
sigmoids of the task losses, with the scatter of 1,319 questions. A token takes its FLOPs at 4e14 FLOP/s
and 2e-15 s for each parameter (memory traffic), with 3% noise.
"""

import argparse
import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from isoflop.analysis.laws.joint import joint_loss
from isoflop.design.family import Cell, grid
from isoflop.experiments.paper import paper_cells
from isoflop.model.config import ModelConfig
from isoflop.model.count import active_params, total_params, train_flops_per_token_megatron

SEED = 2026
NOISE = 0.004
QUESTIONS = 1319
SEQUENCE = 2048

Row = dict[str, str | int | float]


def lab_cells() -> list[Cell]:
    """Four widths, E of 4 to 64, two experts a token."""
    base = ModelConfig(
        vocabulary_size=32_768,
        num_layers=12,
        d_model=512,
        num_heads=4,
        d_expert=1024,
        num_experts=4,
        top_k=2,
        sequence_length=SEQUENCE,
    )
    return grid(base, d_models=(256, 512, 768, 1024), num_experts=(4, 8, 16, 32, 64), top_ks=(2,))


def true_loss(active: float, tokens: float, expansion: float) -> float:
    """Nats a token by the published joint law: active parameters, tokens read, E/k."""
    given = (np.array([float(one)]) for one in (active, tokens, expansion))
    return float(joint_loss(*given)[0])


def rows(
    cells: list[Cell], tokens: tuple[float, ...], seeds: int, checkpoints: int
) -> Iterator[Row]:
    """One line a checkpoint."""
    generator = np.random.default_rng(SEED)
    for cell in cells:
        for budget in tokens:
            for seed in range(seeds):
                luck = generator.normal(size=3)
                for number in range(1, checkpoints + 1):
                    yield _row(cell, budget, seed, number / checkpoints, luck, generator)


def _row(
    cell: Cell,
    budget: float,
    seed: int,
    share: float,
    luck: np.ndarray,
    generator: np.random.Generator,
) -> Row:
    model, read = cell.model, round(budget * share)
    total, active = total_params(model), active_params(model)
    expansion = model.num_experts / model.top_k
    loss = true_loss(active, read, expansion)
    loss *= math.exp(NOISE * (luck[0] + 0.3 * generator.normal()))
    recall = 0.35 * (loss - 1.4) + 0.02 * luck[1]
    reasoning = 0.22 * (loss - 1.4) + 0.06 * max(math.log2(expansion / 8), 0) + 0.012 * luck[2]
    flops = train_flops_per_token_megatron(model, SEQUENCE)
    seconds = (flops / 4e14 + 2e-15 * total) * math.exp(0.03 * generator.normal())
    name = f"d{model.d_model}-E{model.num_experts}-k{model.top_k}-{budget / 1e9:g}B"
    return {
        **{"cell": name, "seed": seed, "tokens": read},
        **{"num_layers": model.num_layers, "d_model": model.d_model, "d_expert": model.d_expert},
        **{"num_experts": model.num_experts, "top_k": model.top_k},
        **{"total_params": total, "active_params": active, "train_flops": float(flops * read)},
        "train_loss": round(loss - 0.01, 5),
        "validation_loss": round(loss, 5),
        "triviaqa.bits_per_byte": round(max(recall, 0.01), 5),
        "triviaqa.accuracy": _accuracy(recall, 0.3, generator),
        "gsm8k.bits_per_byte": round(max(reasoning, 0.01), 5),
        "gsm8k.accuracy": _accuracy(reasoning, 0.25, generator),
        "tokens_per_second": round(1 / seconds),
    }


def _accuracy(task_loss: float, middle: float, generator: np.random.Generator) -> float:
    share = 0.9 / (1 + math.exp(14 * (task_loss - middle)))
    return round(float(generator.binomial(QUESTIONS, share)) / QUESTIONS, 5)


def main() -> None:
    """Write one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--large", action="store_true", help="65 cells x 3 seeds x 30 checkpoints")
    asked = parser.parse_args()
    if asked.large:
        lines = list(rows(paper_cells(), (125e9,), 3, 30))
    else:
        lines = list(rows(lab_cells(), (2e9, 8e9, 3.2e10), 3, 1))
    with asked.path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
