"""Kill a study at random moments, resume it each time, and compare with an undisturbed one.

    python benchmarks/kill_and_resume.py [NAME] [--kills 10] [--seed 0] [--set path=value ...]

SIGKILL goes to the study and its workers together. What is compared: table.csv
without its two columns of times, and the training and validation rows of every
run, byte by byte. Exit status 0 if all are equal.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

TIMES = {"tokens_per_second", "seconds"}
ROW_FILES = ("steps.jsonl", "losses.jsonl", "mixture.jsonl")


def start(arguments: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    """Start or resume the study."""
    changes = [text for change in arguments.set for text in ("--set", change)]
    command = [sys.executable, "-m", "isoflop", "run", arguments.name, "--out", str(out), *changes]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def children(process: int) -> list[int]:
    """Processes that `process` started, on Linux."""
    with suppress(OSError):
        return [
            int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    return []


def kill_all(study: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the study and its workers."""
    workers = children(study.pid)
    study.kill()
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    study.wait()


def without_times(path: Path) -> list[list[str]]:
    """The table's cells, its columns of times left out."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [place for place, name in enumerate(rows[0]) if name not in TIMES]
    return [[row[place] for place in kept] for row in rows]


def differences(first: Path, second: Path) -> list[str]:
    """What is not the same in two folders of one study."""
    found = []
    if without_times(first / "table.csv") != without_times(second / "table.csv"):
        found.append("table.csv")
    for path in sorted((first / "train").glob("*/*.jsonl")):
        other = second / path.relative_to(first)
        if path.name in ROW_FILES and path.read_bytes() != other.read_bytes():
            found.append(str(path.relative_to(first)))
    return found


def main() -> int:
    """Run both studies and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", default="demo")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    arguments = parser.parse_args()
    draws = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        begun = time.monotonic()
        if start(arguments, whole).wait():
            raise SystemExit("the undisturbed study failed")
        seconds = time.monotonic() - begun
        print(f"undisturbed: {seconds:.0f} s")
        # Kills spread over the whole study: each life lasts about a tenth of it.
        for number in range(arguments.kills):
            study = start(arguments, killed)
            life = draws.uniform(0.2, 1.8) * seconds / (arguments.kills + 1)
            try:
                status = study.wait(timeout=life)
                print(f"kill {number + 1}: the study had ended with status {status}")
            except subprocess.TimeoutExpired:
                kill_all(study)
                print(f"kill {number + 1}: after {life:.1f} s")
        if start(arguments, killed).wait():
            raise SystemExit("the last resume failed")
        name = next(whole.iterdir()).name
        found = differences(whole / name, killed / name)
    print("different: " + ", ".join(found) if found else "table.csv and all rows are equal")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
