"""Does GRPO teach a demo checkpoint what it half knows, and do random rewards not?

    python benchmarks/grpo_on_probes.py CHECKPOINT --items ITEMS [--seeds 0 1 2 3 4] [--steps 150] [--json]

ITEMS is the probe's items.jsonl of the run that the checkpoint is of. The held-out problems, which
pre-training never saw, are halved: GRPO is rewarded on one half, and both are asked greedily before and
after. The control differs in the reward alone: 1 or 0 by lot, as often as the real one at the start.
Intervals are over seeds (t distribution); the seed moves samples and order, not the checkpoint.
"""

import argparse
import dataclasses
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy import stats

from isoflop.corpus.seeds import stable_hash
from isoflop.evaluate.tasks.problem import Problem
from isoflop.posttrain.config import GrpoConfig, ProblemSource
from isoflop.posttrain.loop import GrpoRun, train_grpo
from isoflop.posttrain.problems import load_problems
from isoflop.posttrain.rewards import Reward
from isoflop.posttrain.rows import GrpoStepRow, GrpoValidationRow
from isoflop.records import EvaluationItem, read_rows, write_rows
from isoflop.sweep.lineage import open_tokenizer


class NoSandbox:
    """Probes need none."""

    def run(self, programs):
        raise AssertionError("a probe's answer is no program")


NO_SANDBOX = NoSandbox()

PARTS = ("train", "test")
"""The halves of the held-out problems, by the names of their sources."""


def halves(items: Path, home: Path) -> tuple[Path, Path]:
    """The held-out problems in two files, by lot."""
    rows = [row for row in read_rows(items, EvaluationItem) if row.split == "held_out"]
    random.Random(0).shuffle(rows)
    middle = len(rows) // 2
    for name, part in zip(PARTS, (rows[:middle], rows[middle:]), strict=True):
        write_rows(home / f"{name}.jsonl", part)
    return home / "train.jsonl", home / "test.jsonl"


def random_rewards(rate: float, seed: int):
    """1 for this share of answers, whatever they say."""

    def rewards(answers: Sequence[tuple[Problem, str]]) -> list[Reward]:
        # By the text too: the same answer to the same problem always earns the same.
        lots = (stable_hash(seed, "lot", problem.id, text) for problem, text in answers)
        return [Reward(value=float(lot % 10**6 < rate * 10**6), gradable=True) for lot in lots]

    return rewards


def source_of(path: Path) -> ProblemSource:
    return ProblemSource(task="probes", data=str(path), prompt="{question}", name=path.stem)


def config_of(sources: Sequence[ProblemSource], steps: int, seed: int) -> GrpoConfig:
    return GrpoConfig(
        train=sources[0],
        validation=tuple(sources),
        reward="answer",
        num_steps=steps,
        prompts_per_step=32,
        mini_batch_prompts=32,
        samples_per_prompt=8,
        micro_batch_answers=256,
        max_response_tokens=8,
        learning_rate=1e-3,
        validation_steps=steps,
        seed=seed,
    )


def accuracies(folder: Path) -> list[list[float]]:
    """[before, after] of train and test problems."""
    rows = list(read_rows(folder / "validation.jsonl", GrpoValidationRow))
    return [[row.reward for row in rows if row.source == name] for name in PARTS]


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95% interval over seeds."""
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / len(values) ** 0.5
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "seeds": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = open_tokenizer(arguments.checkpoint, None, None)
    begun = time.monotonic()
    found: dict[str, list[list[list[float]]]] = {"verified": [], "random": []}
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        sources = [source_of(path) for path in halves(arguments.items, home)]
        for seed in arguments.seeds:
            rate = None
            for kind, runs in found.items():
                folder = home / f"{kind}-{seed}"
                config = config_of(sources, arguments.steps, seed)
                problems = [load_problems(one, config.reward, NO_SANDBOX) for one in sources]
                asked = problems[0]
                if rate is not None:
                    asked = dataclasses.replace(asked, rewards=random_rewards(rate, seed))
                run = GrpoRun(
                    checkpoint=arguments.checkpoint,
                    tokenizer=tokenizer,
                    config=config,
                    train=asked,
                    validation=tuple(problems),
                    digest=kind,
                )
                train_grpo(run, folder, lambda *_: None)
                if rate is None:
                    rate = next(read_rows(folder / "steps.jsonl", GrpoStepRow)).reward
                runs.append(accuracies(folder))
    result = {
        kind: {
            name: {
                "before": runs[0][place][0],
                "after": interval([run[place][1] for run in runs]),
                "change": interval([run[place][1] - run[place][0] for run in runs]),
            }
            for place, name in enumerate(PARTS)
        }
        for kind, runs in found.items()
    }
    result["seconds"] = time.monotonic() - begun
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
