"""What the rules do to real code and real pages: speed, lint score, syntax, behaviour, lines removed.

    python benchmarks/rewrite_rules.py --data DIR --out DIR [--lint-files 100] [--fidelity-files N]

DIR of --data holds python_code_raw.jsonl.gz and math_pages.jsonl.gz. Lint scores are pylint's own, with
the messages disabled that arXiv:2505.02881's filter disables, on a seeded sample of the files that were
kept. Behaviour is compared on all kept files, or on the first N of a seeded order.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from isoflop.corpus.fidelity import (
    LIMITS,
    FidelityRow,
    Pair,
    compare_code,
    compare_page,
    join,
    summarise,
)
from isoflop.corpus.fidelity.commands import summary_to_text
from isoflop.corpus.intake import CorpusInput, open_input
from isoflop.corpus.rewrite import (
    CodeRewriter,
    CodeRules,
    MathRewriter,
    MathRules,
    RewriteConfig,
    rewrite,
)
from isoflop.corpus.rewrite.commands import summary_to_text as rewriting_to_text
from isoflop.corpus.rows import TextRow
from isoflop.corpus.seeds import stable_hash
from isoflop.records import read_rows, write_rows
from isoflop.sandbox import Sandbox

DISABLED = "E0401,C0114,C0301,C0103,C0116,C0411,R0903,W0511,C0412"
"""Messages that arXiv:2505.02881's filter disables."""


def kept(path: Path) -> Iterator[TextRow]:
    """Rows that were not rejected."""
    rows = open_input(CorpusInput(path=str(path)))
    return (row for row in rows if row.rejected_by is None)


def make(source: Path, out: Path, how: CodeRules | MathRules) -> None:
    """Rewrite by rules and print what it came to."""
    config = RewriteConfig(how=how, input_digest=source.name)
    rows = open_input(CorpusInput(path=str(source)))
    began = time.perf_counter()
    rewriter = CodeRewriter(how) if isinstance(how, CodeRules) else MathRewriter(how)
    summary = asyncio.run(rewrite(rows, out, config, lambda store: rewriter))
    seconds = time.perf_counter() - began
    print(rewriting_to_text(summary, out))
    print(f"{summary.counts.read / seconds:.0f} texts a second\n", flush=True)


def pylint_score(text: str, folder: Path) -> float | None:
    """The score that pylint's command line prints; None where it prints none."""
    path = folder / "sample.py"
    path.write_bytes(text.encode("utf-8"))
    command = [sys.executable, "-m", "pylint", f"--disable={DISABLED}", "--persistent=n", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"rated at (-?[0-9.]+)/10", done.stdout)
    return None if found is None else float(found[1])


def lint(pairs: list[Pair]) -> None:
    """Scores before and after, and their difference with its standard error."""
    before, after = [], []
    with tempfile.TemporaryDirectory() as name:
        for pair in pairs:
            scores = [pylint_score(row.text, Path(name)) for row in (pair.before, pair.after)]
            if scores[0] is not None and scores[1] is not None:
                before.append(scores[0])
                after.append(scores[1])
    gains = [b - a for a, b in zip(before, after, strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5
    print(
        f"pylint on {len(gains)} files: mean {statistics.mean(before):.2f} before, "
        f"{statistics.mean(after):.2f} after; gain {statistics.mean(gains):.2f} +- {error:.2f}; median "
        f"{statistics.median(before):.2f} before, {statistics.median(after):.2f} after; at least 7.0: "
        f"{sum(s >= 7 for s in before)} before, {sum(s >= 7 for s in after)} after; lower after: "
        f"{sum(g < -1e-9 for g in gains)}\n",
        flush=True,
    )


def main() -> int:
    """Exit status 0 when all was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lint-files", type=int, default=100)
    parser.add_argument("--fidelity-files", type=int)
    arguments = parser.parse_args()
    out: Path = arguments.out
    pages, code = (
        arguments.data / f"{name}.jsonl.gz" for name in ("math_pages", "python_code_raw")
    )
    make(pages, out / "pages", MathRules())
    page_pairs = join(kept(pages), kept(out / "pages"))
    print(summary_to_text(summarise(map(compare_page, page_pairs))), "\n")
    make(code, out / "code", CodeRules.installed())
    pairs = list(join(kept(code), kept(out / "code")))
    pairs.sort(key=lambda pair: stable_hash(0, "rules", pair.before.where))
    lint(pairs[: arguments.lint_files])
    began = time.perf_counter()
    chosen = pairs[: arguments.fidelity_files]
    with Sandbox(limits=LIMITS, workers=2) as sandbox:
        write_rows(out / "fidelity.jsonl", compare_code(chosen, sandbox))

    summary = summarise(read_rows(out / "fidelity.jsonl", FidelityRow))
    print(summary_to_text(summary))
    print(f"{len(chosen) / (time.perf_counter() - began):.1f} files a second")
    (out / "fidelity.json").write_text(json.dumps(asdict(summary), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
