"""Does a recommendation's interval hold the truth, and how far is its choice from the best one?

    python benchmarks/recommend_coverage.py [--draws 60] [--seed 40000] [--case NAME] [--json FILE]

Tables are drawn like the tutorial's (four widths, E of 4 to 64, three token budgets, three seeds, 60
cells), and `isoflop recommend` is asked for one figure and a budget within and beyond what was run:

    loss        the published joint law, 0.4% noise between runs
    recall      0.35 (loss - 1.4) bits per byte, noise 0.02
    turning     0.22 (loss - 1.4), and 0.02 log2(E/k / 4)^2 on top: a bowl that a surface can follow
    kinked      0.22 (loss - 1.4), and 0.06 a doubling beyond E/k = 8: a kink that it cannot
    accuracy    a sigmoid of the kinked figure, asked of 1,319 questions

The truth of every candidate is known. Told: how often the 95% interval of the recommended model's
figure holds that model's truth; how much worse the choice truly is than the best candidate of the
same budget, against the spread of all candidates; how many doublings of E/k and of active parameters
lie between the two; and how often the first is truly better where it is said to be surely better.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from isoflop.analysis.recommend.candidates import Candidate, candidates
from isoflop.analysis.recommend.choose import Choice, Scored
from isoflop.analysis.recommend.recommend import Recommendation, Request, recommend
from isoflop.analysis.recommend.runs import FEATURES, Runs
from isoflop.analysis.recommend.text import SURE
from isoflop.analysis.tables.check import check_table
from isoflop.analysis.tables.files import raw_table
from isoflop.analysis.tables.run_table import RunTable
from isoflop.model.count import active_params, total_params, train_flops_per_token_megatron
from make_example_table import QUESTIONS, SEQUENCE, lab_cells, true_loss

TOKENS = (2e9, 8e9, 3.2e10)
SEEDS = 3
NOISE = 0.004
WITHIN, BEYOND = 3e19, 3e20
"""Budgets in FLOPs; the largest run of the table takes 5.5e19."""

Truth = Callable[[float, float], float]
"""Figure from a loss and E/k."""


def kinked(loss: float, expansion: float) -> float:
    """The tutorial's reasoning task."""
    return 0.22 * (loss - 1.4) + 0.06 * max(math.log2(expansion / 8), 0)


def turning(loss: float, expansion: float) -> float:
    """A bowl in log E/k."""
    return 0.22 * (loss - 1.4) + 0.02 * math.log2(expansion / 4) ** 2


def accuracy(loss: float, expansion: float) -> float:
    """Of the kinked task."""
    return 0.9 / (1 + math.exp(14 * (kinked(loss, expansion) - 0.25)))


class Case(NamedTuple):
    """One figure: its column, its truth, and the scatter of runs about it."""

    column: str
    truth: Truth
    noise: float
    """Added to the figure; 0 where it follows the loss's own, or the questions'."""


CASES = {
    "loss": Case("validation_loss", lambda loss, _: loss, 0.0),
    "recall": Case("recall.bits_per_byte", lambda loss, _: 0.35 * (loss - 1.4), 0.02),
    "turning": Case("turning.bits_per_byte", turning, 0.012),
    "kinked": Case("kinked.bits_per_byte", kinked, 0.012),
    "accuracy": Case("kinked.accuracy", accuracy, 0.0),
}


class Outcome(NamedTuple):
    """One recommendation beside the truth."""

    held: bool
    regret: float
    """Truth of the choice less that of the best candidate, as a share of the candidates' range."""
    doublings_expansion: float
    doublings_active: float
    surely: bool
    surely_right: bool


def draw(case: Case, seed: int) -> RunTable:
    """One laboratory's table."""
    generator = np.random.default_rng(seed)
    lines = []
    for cell in lab_cells():
        model, expansion = cell.model, cell.model.num_experts / cell.model.top_k
        flops = train_flops_per_token_megatron(model, SEQUENCE)
        for tokens in TOKENS:
            loss = true_loss(active_params(model), tokens, expansion)
            for run in range(SEEDS):
                seen = loss * math.exp(NOISE * generator.normal())
                figure = case.truth(seen, expansion) + case.noise * generator.normal()
                if case.column.endswith("accuracy"):
                    figure = generator.binomial(QUESTIONS, figure) / QUESTIONS
                lines.append(
                    {
                        "cell": f"d{model.d_model}-E{model.num_experts}-{tokens:g}",
                        "seed": run,
                        "tokens": round(tokens),
                        "num_layers": model.num_layers,
                        "d_model": model.d_model,
                        "d_expert": model.d_expert,
                        "num_experts": model.num_experts,
                        "top_k": model.top_k,
                        "total_params": total_params(model),
                        "active_params": active_params(model),
                        "train_flops": float(flops * tokens),
                        case.column: figure,
                    }
                )
    return check_table(raw_table("drawn", lines, (f"line {i}" for i in range(len(lines)))))


def outcome(case: Case, table: RunTable, flops: float) -> Outcome:
    """Ask once and compare with the truth of all candidates."""
    found = recommend(table, Request(flops=flops, tasks=((case.column, 1.0),)))
    reach = _reach(table, case.column)
    offered = [
        (model, flops / model.flops_per_token)
        for model in candidates(table)
        if Scored.of(model, flops / model.flops_per_token, [reach]) is not None
    ]
    figures = [_truth(case, model, tokens) for model, tokens in offered]
    sign = -1.0 if found.better == "higher" else 1.0
    at = int(np.argmin(sign * np.array(figures)))
    chosen = _truth(case, found.best, found.best.tokens)
    (prediction,) = found.best.predictions
    sure, right = _claim(case, found, sign)
    return Outcome(
        held=prediction.low <= chosen <= prediction.high,
        regret=sign * (chosen - figures[at]) / float(np.ptp(figures)),
        doublings_expansion=math.log2(
            found.best.num_experts / found.best.top_k / offered[at][0].expansion
        ),
        doublings_active=math.log2(found.best.active_params / offered[at][0].active_params),
        surely=sure,
        surely_right=right,
    )


def _claim(case: Case, found: Recommendation, sign: float) -> tuple[bool, bool]:
    """Whether the best is called surely better than the runner-up, and whether it then is."""
    second, share = found.runner_up, found.beats_runner_up
    if second is None or share is None or share < SURE:
        return False, False
    first = _truth(case, found.best, found.best.tokens)
    return True, sign * (first - _truth(case, second, second.tokens)) < 0


def _truth(case: Case, model: Candidate | Choice, tokens: float) -> float:
    expansion = model.num_experts / model.top_k
    return case.truth(true_loss(model.active_params, tokens, expansion), expansion)


def _reach(table: RunTable, column: str) -> Runs:
    """What candidates are measured against; the figures themselves do not matter."""
    final = table.final
    settings = {name: final.number(name) for name in FEATURES if name != "expansion"}
    settings["expansion"] = final.number("num_experts") / final.number("top_k")
    zeros = np.zeros(len(final), dtype=int)
    return Runs(column=column, settings=settings, figure=final.number(column), cluster=zeros)


def summary(outcomes: list[Outcome]) -> dict[str, float | int | None]:
    """Shares and medians over draws."""
    regrets = np.array([one.regret for one in outcomes])
    sure = [one for one in outcomes if one.surely]
    return {
        "draws": len(outcomes),
        "held": float(np.mean([one.held for one in outcomes])),
        "best found": float((regrets <= 0).mean()),
        "median regret": float(np.median(regrets)),
        "90% regret": float(np.quantile(regrets, 0.9)),
        "mean doublings of E/k": float(np.mean([abs(o.doublings_expansion) for o in outcomes])),
        "mean doublings of active": float(np.mean([abs(o.doublings_active) for o in outcomes])),
        "surely": len(sure),
        "surely and right": sum(one.surely_right for one in sure),
    }


def main() -> None:
    """Print a line a figure and budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--seed", type=int, default=40_000, help="of the first table")
    parser.add_argument("--case", choices=sorted(CASES))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results = {}
    for name in [asked.case] if asked.case else CASES:
        case = CASES[name]
        start = time.perf_counter()
        found: dict[float, list[Outcome]] = {WITHIN: [], BEYOND: []}
        for number in range(asked.draws):
            table = draw(case, asked.seed + number)
            for flops, outcomes in found.items():
                outcomes.append(outcome(case, table, flops))
        for flops, outcomes in found.items():
            one = summary(outcomes)
            results[f"{name}, {flops:.0e} FLOP"] = one
            words = ", ".join(
                f"{key} {value if isinstance(value, int) else f'{value:.3f}'}"
                for key, value in one.items()
            )
            print(f"{name:9} {flops:.0e}: {words}", flush=True)
        print(f"{'':9} {time.perf_counter() - start:.0f} s", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
