"""Our filter against one pylint process per file, side by side in one run; every score compared.

    python benchmarks/corpus_filter_speed.py --data FOLDER [--files 1000] [--round 25]

The reference writes each text to a temporary file and starts pylint on it. Here so many files go
through ours (all measures, one worker), then through `python -m pylint`, one process a file, in turns.
Told are wall time and processor time (all processes, our start included) a file, their ratios, and
every file whose score differs.
"""

import argparse
import gzip
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from isoflop.corpus.filters.config import PYLINT_DISABLED, FilterConfig
from isoflop.corpus.filters.lint import MODULE_NAME
from isoflop.corpus.filters.measure import MeasureJob
from isoflop.corpus.pool import Pool
from isoflop.corpus.rows import TextRow, text_id

RATED = re.compile(r"rated at (-?[\d.]+)/10")


def main() -> None:
    """Measure, and print."""
    options = parse()
    with gzip.open(Path(options.data) / "python_code_raw.jsonl.gz") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = random.Random(0).sample(rows, options.files)
    rounds = [chosen[at : at + options.round] for at in range(0, len(chosen), options.round)]
    ours_wall, ours_cpu, theirs_wall, theirs_cpu = 0.0, 0.0, 0.0, 0.0
    different: list[str] = []
    begun, cpu = time.perf_counter(), processor_seconds()
    config = FilterConfig()
    pool = Pool(MeasureJob(config=config), 1, config.limits)
    ours_wall += time.perf_counter() - begun
    for number, part in enumerate(rounds):
        begun = time.perf_counter()
        ours = [changes.get("pylint_score") for _, changes in pool.run(as_rows(part))]
        ours_wall += time.perf_counter() - begun
        begun, before = time.perf_counter(), processor_seconds()
        theirs = [command_line_score(row["text"]) for row in part]
        theirs_wall += time.perf_counter() - begun
        theirs_cpu += processor_seconds() - before
        for row, a, b in zip(part, ours, theirs, strict=True):
            if a != b:
                different.append(f"{row['repo']} {row['path']}: ours {a}, command line {b}")
        done = sum(len(part) for part in rounds[: number + 1])
        print(f"{done} files, {len(different)} different", file=sys.stderr, flush=True)
    pool.__exit__()
    # What all processes took, less theirs: our start, the pool, and this driver.
    ours_cpu = processor_seconds() - cpu - theirs_cpu
    report(options.files, (ours_wall, ours_cpu), (theirs_wall, theirs_cpu), different)


def report(
    files: int,
    ours: tuple[float, float],
    theirs: tuple[float, float],
    different: list[str],
) -> None:
    """Print the figures."""
    print(f"files: {files}; scores that differ: {len(different)}")
    for line in different:
        print(f"  {line}")
    for name, (wall, cpu) in (("ours", ours), ("a process a file", theirs)):
        speed = f"{files / cpu:.2f} files a second of one core"
        print(
            f"{name}: {wall / files:.4f} s, {cpu / files:.4f} s of processor time a file; {speed}"
        )
    ratios = (theirs[0] / ours[0], theirs[1] / ours[1])
    print(f"ratio: {ratios[0]:.1f} by wall time, {ratios[1]:.1f} by processor time")


def as_rows(part: list[dict[str, str]]) -> Iterator[TextRow]:
    """Rows as the readers make them."""
    for row in part:
        metadata: dict[str, str | int | float | bool | None] = {"path": row["path"]}
        yield TextRow(id=text_id(row["text"]), text=row["text"], where="", metadata=metadata)


def command_line_score(text: str) -> float | None:
    """What `python -m pylint` prints; None where it prints no rating."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{MODULE_NAME}.py"
        path.write_bytes(text.encode("utf-8"))
        options = [f"--rcfile={os.devnull}", "--persistent=n"]
        command = [
            sys.executable,
            "-m",
            "pylint",
            *options,
            "--disable=" + ",".join(PYLINT_DISABLED),
        ]
        done = subprocess.run(
            [*command, str(path)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYLINTHOME": folder},
            check=False,
        )
    found = RATED.search(done.stdout)
    return None if found is None else float(found[1])


def processor_seconds() -> float:
    """Of this process and of all its children that have ended."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of python_code_raw.jsonl.gz")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--round", type=int, default=25, help="files of one turn")
    return parser.parse_args()


if __name__ == "__main__":
    main()
