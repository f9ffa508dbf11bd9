"""Do the reference solutions pass in the sandbox, do wrong ones fail, how fast, and under load?

    python benchmarks/sandbox_programs.py --data DIR

DIR holds humaneval.jsonl.gz, humaneval_plus.jsonl.gz and mbpp_plus.jsonl.gz. Every reference solution
is run against its tests in a process of its own, calm and with a busy loop on every core; then
a wrong solution of every task: one that returns a constant. Prints a line for each measurement
and every verdict that is not the expected one.
"""

import argparse
import collections
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from isoflop.evaluate.tasks import programs
from isoflop.sandbox import Program, Sandbox

SHORT_PROGRAMS = 1000
"""Programs of the measurement of speed. Chosen."""

Case = tuple[str, Program]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a gzipped JSONL file."""
    with gzip.open(path, "rt", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def cases_of(data: Path) -> dict[str, list[Case]]:
    """Reference solutions with their tests, by data set."""
    builders = {
        "humaneval": programs.humaneval_program,
        "humaneval_plus": programs.humaneval_plus_program,
        "mbpp_plus": programs.mbpp_plus_program,
    }
    cases: dict[str, list[Case]] = {}
    for name, build in builders.items():
        cases[name] = []
        for row in rows_of(data / f"{name}.jsonl.gz"):
            head = row["prompt"] if name.startswith("humaneval") else ""
            source = head + row["canonical_solution"]
            cases[name].append((row["task_id"], Program(source=source, tests=build(row))))
    return cases


def wrong(case: Case) -> Case:
    """The same tests for functions that all return a constant no task asks for."""
    name, program = case
    source = program.source + (
        "\nfor _name, _value in list(globals().items()):\n"
        "    if type(_value) is type(lambda: 0):\n"
        "        globals()[_name] = lambda *a, **k: 'wrong'\n"
    )
    return f"wrong {name}", Program(source=source, tests=program.tests)


def measure(sandbox: Sandbox, label: str, cases: list[Case], expected: str) -> list[str]:
    """Run, print, and return the verdicts."""
    began = time.perf_counter()
    outcomes = list(sandbox.run(program for _, program in cases))
    seconds = time.perf_counter() - began
    counts = dict(collections.Counter(outcome.verdict for outcome in outcomes))
    used = sum(outcome.cpu_seconds for outcome in outcomes)
    print(
        f"{label}: {counts}, {len(cases) / seconds:.1f} programs/s, {seconds:.1f} s, "
        f"{used:.1f} s of processor time",
        flush=True,
    )
    for (name, _), outcome in zip(cases, outcomes, strict=True):
        if outcome.verdict not in expected.split():
            print(f"  {name}: {outcome.verdict}: {outcome.reason} ({outcome.cpu_seconds:.1f} s)")
    return [outcome.verdict for outcome in outcomes]


def main() -> int:
    """Exit status 0 if load changed no verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    cases = cases_of(data)
    with Sandbox(workers=2) as sandbox:
        sandbox.layers()
        for label, tests in (("one process", None), ("tests apart", "assert f(1) == 2")):
            program = Program(source="def f(x): return x + 1\nassert f(1) == 2", tests=tests)
            measure(sandbox, f"short, {label}", [("short", program)] * SHORT_PROGRAMS, "passed")
        every = [case for some in cases.values() for case in some]
        for name, some in cases.items():
            measure(sandbox, f"{name}, wrong", [wrong(case) for case in some], "failed error")
        calm = [measure(sandbox, name, some, "passed") for name, some in cases.items()]
        loop = [sys.executable, "-c", "while True: pass"]
        busy = [subprocess.Popen(loop) for _ in range(os.cpu_count() or 1)]
        try:
            loaded = [
                measure(sandbox, f"{name}, cores busy", some, "passed")
                for name, some in cases.items()
            ]
        finally:
            for process in busy:
                process.kill()
                process.wait()
    changed = sum(
        a != b for x, y in zip(calm, loaded, strict=True) for a, b in zip(x, y, strict=True)
    )
    print(f"verdicts changed by load: {changed} of {len(every)}")
    return int(changed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
