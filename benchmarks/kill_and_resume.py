"""Kill a study at random moments, resume it each time, and compare with an undisturbed one.

    python benchmarks/kill_and_resume.py [NAME] [--kills 10] [--seed 0] [--set path=value ...]

SIGKILL goes to the study and its workers together. What is compared: table.csv
without its two columns of times, and the training and validation rows of every
run, byte by byte. Exit status 0 if all are equal.
"""

import argparse
import csv
import sys
from pathlib import Path

import kills

TIMES = {"tokens_per_second", "seconds"}
ROW_FILES = ("steps.jsonl", "losses.jsonl", "mixture.jsonl")


def without_times(path: Path) -> bytes:
    """The table's cells, its columns of times left out."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [place for place, name in enumerate(rows[0]) if name not in TIMES]
    return repr([[row[place] for place in kept] for row in rows]).encode()


def compared(out: Path) -> dict[str, bytes]:
    """The table and the rows of every run, of the one study in `out`."""
    (study,) = out.iterdir()
    found = {"table.csv": without_times(study / "table.csv")}
    for path in sorted((study / "train").glob("*/*.jsonl")):
        if path.name in ROW_FILES:
            found[str(path.relative_to(study))] = path.read_bytes()
    return found


def main() -> int:
    """Run both studies and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", default="demo")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    arguments = parser.parse_args()

    def command(out: Path) -> list[str]:
        changes = [text for change in arguments.set for text in ("--set", change)]
        return ["-m", "isoflop", "run", arguments.name, "--out", str(out), *changes]

    def life(whole: float) -> tuple[float, float]:
        # Kills spread over the whole study: each life lasts about a part of it.
        part = whole / (arguments.kills + 1)
        return 0.2 * part, 1.8 * part

    return kills.compare(
        kills.Killing(
            command=command,
            kills=arguments.kills,
            seed=arguments.seed,
            life=life,
            compared=compared,
            kept=lambda out: f"{len(list(out.rglob('DONE')))} stages done",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
