"""Routers that choose otherwise in rollouts than in updates: what it does to GRPO, with and without replay.

    python benchmarks/grpo_drift.py CHECKPOINT --items ITEMS [--figures FOLDER] [--seeds 0 1 2] [--json]

As grpo_on_probes.py, with `router_drift` on the rollouts' routers: what an engine does whose router rounds
otherwise. Told for each drift, with `replay_routing` off and on: the share of (token, layer) that
disagree, the mean divergence from the reference and the rollouts' reward over the last quarter of the
steps, and the greedy accuracy on unseen problems, asked without drift, before and after. Means over
seeds, 95% intervals by the t distribution.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from grpo_on_probes import NO_SANDBOX, PARTS, config_of, halves, interval, source_of
from isoflop.analysis.charts.chart import COLOURS, Axis, Chart, Mark, Series
from isoflop.analysis.charts.svg import svg_text
from isoflop.posttrain.loop import GrpoRun, train_grpo
from isoflop.posttrain.problems import load_problems
from isoflop.posttrain.rows import GrpoStepRow, GrpoValidationRow
from isoflop.records import read_rows
from isoflop.sweep.lineage import open_tokenizer

DRIFTS = (0.0, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Standard deviations of the noise on the routers' logits."""


def one_run(
    arguments: argparse.Namespace, sources: Any, setting: Any, folder: Path
) -> dict[str, float]:
    drift, replay, seed = setting
    config = dataclasses.replace(
        config_of(sources, arguments.steps, seed), router_drift=drift, replay_routing=replay
    )
    problems = [load_problems(one, config.reward, NO_SANDBOX) for one in sources]
    run = GrpoRun(
        checkpoint=arguments.checkpoint,
        tokenizer=open_tokenizer(arguments.checkpoint, None, None),
        config=config,
        train=problems[0],
        validation=tuple(problems),
        digest="drift",
    )
    train_grpo(run, folder, lambda *_: None)
    steps = list(read_rows(folder / "steps.jsonl", GrpoStepRow))
    asked = [
        row
        for row in read_rows(folder / "validation.jsonl", GrpoValidationRow)
        if row.source == PARTS[1]
    ]
    last = steps[-len(steps) // 4 :]
    return {
        "before": asked[0].reward,
        "accuracy": asked[-1].reward,
        "reward": statistics.fmean(row.reward for row in last),
        "divergence": statistics.fmean(row.divergence for row in last),
        "disagreement": statistics.fmean(row.routing_disagreement for row in steps),
    }


def chart(name: str, title: str, label: str, found: list[dict[str, Any]], value: str) -> Chart:
    # Zero has no place on a logarithmic axis: it stands a factor of three before the least.
    series = []
    for place, replay in enumerate((False, True)):
        marks = tuple(
            Mark(
                x=row["drift"] or DRIFTS[1] / 3,
                y=row[value]["mean"],
                low=row[value]["low"],
                high=row[value]["high"],
            )
            for row in found
            if row["replay"] == replay
        )
        words = "routing replayed" if replay else "not replayed"
        series.append(Series(label=words, colour=COLOURS[place], marks=marks, joined=True))
    return Chart(
        name=name,
        title=title,
        description=f"{label} against the drift of the rollouts' routers; first mark: no drift.",
        x=Axis(label="noise on the rollouts' router logits (first: none)", scale="log"),
        y=Axis(label=label, include=(0.0,)),
        series=tuple(series),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        sources = [source_of(path) for path in halves(arguments.items, home)]
        for drift in DRIFTS:
            for replay in (False, True):
                runs = [
                    one_run(
                        arguments, sources, (drift, replay, seed), home / f"{drift}-{replay}-{seed}"
                    )
                    for seed in arguments.seeds
                ]
                means = {name: interval([run[name] for run in runs]) for name in runs[0]}
                found.append({"drift": drift, "replay": replay, **means})
                told = ", ".join(
                    f"{name} {one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
                    for name, one in means.items()
                )
                print(f"drift {drift:g}, replay {replay}: {told}", flush=True)
    if arguments.figures:
        charts = (
            (
                "drift-accuracy",
                "Accuracy after GRPO with drifting routers",
                "greedy accuracy on unseen problems",
                "accuracy",
            ),
            (
                "drift-reward",
                "Reward of the last rollouts with drifting routers",
                "mean reward of rollouts",
                "reward",
            ),
            (
                "drift-divergence",
                "Divergence from the reference with drifting routers",
                "k3 divergence, nats a token",
                "divergence",
            ),
        )
        for name, title, label, value in charts:
            text = svg_text(chart(name, title, label, found, value))
            (arguments.figures / f"{name}.svg").write_text(text, encoding="utf-8")
    if arguments.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
