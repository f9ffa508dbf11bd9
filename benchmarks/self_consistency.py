"""The figure of what more samples buy, from `isoflop vote --json` of several checkpoints.

isoflop vote FOLDER FOLDER --json > votes.json
python benchmarks/self_consistency.py votes.json --labels E64,E8 --figure FILE.svg
"""

import argparse
import json
from pathlib import Path

from isoflop.analysis.charts.chart import COLOURS, Axis, Chart, Mark, Series
from isoflop.analysis.charts.svg import svg_text

NORMAL_95 = 1.959964


def series(label: str, name: str, curve: list[dict], colour: str) -> Series:
    marks = tuple(
        Mark(
            x=point["num_samples"],
            y=point[name],
            low=point[name] - NORMAL_95 * point[f"{name}_standard_error"],
            high=point[name] + NORMAL_95 * point[f"{name}_standard_error"],
        )
        for point in curve
    )
    return Series(label=f"{label}: {name}", colour=colour, marks=marks, joined=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("votes", type=Path)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--figure", type=Path, required=True)
    arguments = parser.parse_args()
    runs = json.loads(arguments.votes.read_text())["runs"]
    kinds = ("majority", "coverage")
    found = [
        series(label, kind, run["curve"], COLOURS[2 * place + number])
        for place, (label, run) in enumerate(zip(arguments.labels.split(","), runs, strict=True))
        for number, kind in enumerate(kinds)
    ]
    chart = Chart(
        name="self-consistency",
        title="Majority vote and coverage against samples a problem",
        description="Share of problems solved, with 95% intervals, a line a checkpoint and reading.",
        x=Axis(label="samples a problem", scale="log", at=(1, 2, 4, 8, 16, 32, 64, 128)),
        y=Axis(label="problems solved", form="share", include=(0.0, 1.0), within=(0.0, 1.0)),
        series=tuple(found),
    )
    arguments.figure.write_text(svg_text(chart), encoding="utf-8")


if __name__ == "__main__":
    main()
