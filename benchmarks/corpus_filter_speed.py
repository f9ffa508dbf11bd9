"""Our filter against one pylint process per file, side by side in one run; every score compared.

    python benchmarks/corpus_filter_speed.py --data FOLDER [--files 1000] [--round 25]
        [--first 0] [--record FILE]

The reference writes each text to a temporary file and starts pylint on it. Here so many files go
through ours (all measures, one worker), then through `python -m pylint`, one process a file, in turns.
Told are wall time and processor time (all processes, our start included) a file, their ratios, and
every file whose score differs. --record keeps every turn in a file and does no turn twice, so that a
run may be stopped and begun again, from --first on; what is told is the sum of the file.
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
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from isoflop.corpus.filters.config import PYLINT_DISABLED, FilterConfig
from isoflop.corpus.filters.lint import MODULE_NAME
from isoflop.corpus.filters.measure import MeasureJob
from isoflop.corpus.pool import Pool
from isoflop.corpus.rows import TextRow, text_id

RATED = re.compile(r"rated at (-?[\d.]+)/10")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """So many files both ways, from a place in the draw on."""

    first: int
    files: int
    ours_wall: float
    ours_cpu: float
    theirs_wall: float
    theirs_cpu: float
    different: tuple[str, ...]


def main() -> None:
    """Measure, and print."""
    options = parse()
    with gzip.open(Path(options.data) / "python_code_raw.jsonl.gz") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = random.Random(0).sample(rows, options.files)
    record = Path(options.record) if options.record else None
    turns = read_record(record) if record is not None and record.exists() else []
    done = {turn.first for turn in turns}
    firsts = [at for at in range(0, len(chosen), options.round) if at not in done]
    firsts.sort(key=lambda first: (first < options.first, first))
    for turn in measured(chosen, firsts, options.round):
        turns.append(turn)
        if record is not None:
            with record.open("a") as file:
                file.write(json.dumps(asdict(turn)) + "\n")
        files, different = sum(t.files for t in turns), sum(len(t.different) for t in turns)
        print(f"{files} files, {different} different", file=sys.stderr, flush=True)
    report(turns)


def measured(chosen: list[dict[str, str]], firsts: list[int], size: int) -> Iterator[Turn]:
    """Turn after turn; our start counts into the first."""
    begun, cpu = time.perf_counter(), processor_seconds()
    config = FilterConfig()
    with Pool(MeasureJob(config=config), 1, config.limits) as pool:
        for first in firsts:
            part = chosen[first : first + size]
            ours = [changes.get("pylint_score") for _, changes in pool.run(as_rows(part))]
            ours_wall, ours_cpu = time.perf_counter() - begun, processor_seconds() - cpu
            begun, cpu = time.perf_counter(), processor_seconds()
            theirs = [command_line_score(row["text"]) for row in part]
            theirs_wall, theirs_cpu = time.perf_counter() - begun, processor_seconds() - cpu
            pairs = zip(part, ours, theirs, strict=True)
            yield Turn(
                first=first,
                files=len(part),
                ours_wall=ours_wall,
                ours_cpu=ours_cpu,
                theirs_wall=theirs_wall,
                theirs_cpu=theirs_cpu,
                different=tuple(
                    f"{row['repo']} {row['path']}: ours {a}, command line {b}"
                    for row, a, b in pairs
                    if a != b
                ),
            )
            begun, cpu = time.perf_counter(), processor_seconds()


def read_record(path: Path) -> list[Turn]:
    """The turns of earlier runs."""
    turns = [json.loads(line) for line in path.read_text().splitlines()]
    return [Turn(**{**turn, "different": tuple(turn["different"])}) for turn in turns]


def report(turns: list[Turn]) -> None:
    """Print the figures."""
    files = sum(turn.files for turn in turns)
    different = [line for turn in turns for line in turn.different]
    print(f"files: {files}; scores that differ: {len(different)}")
    for line in different:
        print(f"  {line}")
    ours = sum(t.ours_wall for t in turns), sum(t.ours_cpu for t in turns)
    theirs = sum(t.theirs_wall for t in turns), sum(t.theirs_cpu for t in turns)
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
    """Of this process and of all below it, those that have ended too. On Linux."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ended = sum(usage.ru_utime + usage.ru_stime for usage in used)
    return ended + sum(map(_processor_seconds, descendants(os.getpid())))


def _processor_seconds(process: int) -> float:
    """Of a living process and of its children that have ended."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        # utime, stime, cutime, cstime: fields 14 to 17 of proc(5); two stand before the bracket.
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def descendants(process: int) -> list[int]:
    """Processes below a process, on Linux."""
    found: list[int] = []
    with suppress(OSError):
        path = Path(f"/proc/{process}/task/{process}/children")
        for child in map(int, path.read_text().split()):
            found += [child, *descendants(child)]
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of python_code_raw.jsonl.gz")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="place in the draw to begin with")
    parser.add_argument("--record", help="file of turns: those in it are not done again")
    parser.add_argument("--round", type=int, default=25, help="files of one turn")
    return parser.parse_args()


if __name__ == "__main__":
    main()
