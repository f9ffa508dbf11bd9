"""A small real model rewrites 200 files by SGCR and SCOR and 100 pages by math v1: what can be used?

    python benchmarks/rewrite_real_model.py --data DIR --endpoint http://127.0.0.1:8000/v1 --model NAME \\
        --out DIR [--files 200] [--pages 100]

DIR of --data holds python_code_raw.jsonl.gz and math_pages.jsonl.gz. The files are drawn by a seed among
those that compile, have a function or print something, and fit a small model's context. The
endpoint is any that speaks OpenAI's chat completions. Run again after a kill: nothing is asked twice.
Prints one table of outcomes a stage and writes every pair to --out for reading by eye.
"""

import argparse
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from isoflop.corpus.rewrite.python_source import is_python
from isoflop.corpus.seeds import stable_hash

MOST_CHARACTERS = 2500
"""Of a file or page, so that a 135M model on two cores ends in an hour. Chosen."""

FEWEST_CHARACTERS = 200

NEW_TOKENS = 768
"""Of a reply: half again what the longest input needs. Chosen for time; the paper's is 8,192."""


def drawn(path: Path, number: int, *, code: bool) -> list[dict[str, Any]]:
    """The first rows that fit, in an order fixed by their text."""
    with gzip.open(path, "rt", newline="\n") as lines:
        rows = [json.loads(line) for line in lines]
    fitting = [row for row in rows if FEWEST_CHARACTERS <= len(row["text"]) <= MOST_CHARACTERS]
    if code:
        fitting = [row for row in fitting if is_python(row["text"])]
    fitting.sort(key=lambda row: stable_hash(0, "real model", row["text"]))
    return fitting[:number]


def rewrite(source: Path, stage: str, out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the command line; its summary."""
    command = [
        sys.executable, "-m", "isoflop", "corpus", "rewrite", str(source), "--stage", stage,
        "--out", str(out), "--endpoint", arguments.endpoint, "--model", arguments.model,
        "--max-new-tokens", str(NEW_TOKENS), "--context-tokens", "8192",
        "--concurrency", str(arguments.concurrency), "--rows-per-shard", "20",
        "--request-seconds", "3600", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> int:
    """Exit status 0 when every row has an outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=16)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    for name, number in (("python_code_raw", arguments.files), ("math_pages", arguments.pages)):
        rows = drawn(arguments.data / f"{name}.jsonl.gz", number, code=name == "python_code_raw")
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(lines)
    code, pages = out / "python_code_raw.jsonl", out / "math_pages.jsonl"
    summaries = {
        "sgcr": rewrite(code, "sgcr", out / "sgcr", arguments),
        "math_v1": rewrite(pages, "math_v1", out / "math_v1", arguments),
        # SCOR reads what SGCR kept, and, so that 200 are asked, the raw files too.
        "scor after sgcr": rewrite(out / "sgcr", "scor", out / "scor_after_sgcr", arguments),
        "scor": rewrite(code, "scor", out / "scor", arguments),
    }
    for stage, summary in summaries.items():
        counts = summary["counts"]
        print(f"{stage}: read {counts['read']}, kept {counts['kept']}")
        for reason, number in sorted(counts["reasons"].items(), key=lambda pair: -pair[1]):
            print(f"  {number:4} {reason}")
        print(f"  notes {counts['notes']}, completion tokens {summary['completion_tokens']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
