"""Fuzzed inputs through readers, filters and parsers of replies: no crash, nothing lost.

    python benchmarks/corpus_fuzz.py [--readers 4000] [--filters 2000] [--lint 200] [--replies 6000]
        [--seed 0]

Readers: files of every format with bytes changed, cut, doubled and inserted. A file must give rows, or
one UserError that names it; of JSONL every line must give one row. Filters: programs changed at random,
and texts of hostile characters, must come back once each, in their order, measured or with a reason.
Replies: what models answer, changed at random, through every stage's parser, complete and cut, and bodies
of responses through their reader: each must be parsed or have its reason, within a second of processor time.
Exit status 0 if all did.
"""

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from isoflop.config import UserError
from isoflop.corpus.filters.config import FilterConfig, Limits, LintConfig
from isoflop.corpus.filters.decide import decide
from isoflop.corpus.filters.measure import MeasureJob
from isoflop.corpus.filters.run import measured
from isoflop.corpus.formats import extra
from isoflop.corpus.intake import CorpusInput, open_input
from isoflop.corpus.pool import Pool
from isoflop.corpus.rewrite.completion import MOST_TOKENS, read_reply
from isoflop.corpus.rewrite.messages import NoReply
from isoflop.corpus.rewrite.reasons import Reason
from isoflop.corpus.rewrite.replies import Parsed, Unusable
from isoflop.corpus.rewrite.stages import STAGES
from isoflop.corpus.rows import TextRow, row_from_fields, row_to_json, text_id

PROGRAM = '''"""A module."""
import os, sys
from collections import OrderedDict as D

# 数を数える
@decorator
class A(B, metaclass=M):
    """Doc."""
    x: int = 1

    def f(self, a, *b, c=1, **d) -> "A":
        self.y.z = [i for i in range(10) if i % 2]
        try:
            return lambda q: f"{q!r:>{self.x}}" + 'é'
        except (ValueError, OSError) as error:
            raise RuntimeError from error
        finally:
            del self.y.z

async def g():
    async with a as b:
        await b
    match x:
        case {"k": [1, *_]}:
            print(1 if x else 2)
'''
REPLIES = (
    f"### Evaluation: 7/10\n\n### Suggestions:\n- Name it.\n\n### Improved Code:\n```python\n{PROGRAM}```\n",
    f"<think>\nHm.\n</think>\nSure! Here is the code:\n\n```python\n{PROGRAM}```\n\nI hope this helps!",
    "**Score:** 6.5 out of 10\n\n~~~py\ndef f():\n    '''Doc.\n    ```\n    x\n    ```\n    '''\n~~~\n",
    "## Problem\nWhat is $1+1$?\n## Approach\nAdd.\n## Solution\n\\boxed{2}\n#### 2\n## Verification\nYes.",
    "Question: How do I reverse a list in Python?\n\nUse `reversed`.",
    "I'm sorry, I cannot help with that.<|im_end|>",
    "8",
)
"""As models write them: with a score, thinking, nested fences, sections, a label, a refusal."""

SNIPPETS = (
    *("```", "```python\n", "~~~", "\n### ", "\n**", "<think>", "</think>", "/10", "Score:"),
    *("<|im_end|>", "\\boxed{", "Here is the text:\n", "\0", " " * 200, "\n" * 200, "1" * 50),
)
"""Marks that parsers look for, and what no parser expects."""

BODY = (
    json.dumps(
        {
            "model": "m",
            "choices": [
                {"message": {"role": "assistant", "content": "é 1 HALF"}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        },
        ensure_ascii=False,
    )
    .encode()
    .replace(b"HALF", b"\\ud83d")
)

BODIES = (
    BODY,
    BODY.replace(b'"prompt_tokens": 3', b'"prompt_tokens": %d' % 2**62),
    BODY.replace(b'"prompt_tokens": 3', b'"prompt_tokens": 1' + b"0" * 30),
    BODY.replace(b'"completion_tokens": 2', b'"completion_tokens": 1' + b"0" * 400),
)
"""A good reply, and counts of tokens that no server can have counted."""

HOSTILE = "\0\x01\ufeff\ud800\udfff\u2028\u2029\x0c\r\n\t '\"\\#()[]{}:;,.=+-*/@é漢🙂\u202e0123abc_"


def main() -> None:
    """Fuzz, and print what came out."""
    options = parse()
    rng = random.Random(options.seed)
    lost = fuzz_readers(options.readers, rng)
    cheap = FilterConfig(
        lint=LintConfig(measure="none", threshold=None), limits=Limits(cpu_seconds=10.0)
    )
    lost += fuzz_filters(options.filters, rng, cheap)
    lost += fuzz_filters(options.lint, rng, FilterConfig(limits=Limits(cpu_seconds=20.0)))
    lost += fuzz_replies(options.replies, rng)
    print(f"lost or crashed: {lost}")
    sys.exit(lost > 0)


def fuzz_readers(count: int, rng: random.Random) -> int:
    """Changed files of every format; returns how many broke a rule."""
    results: Counter[str] = Counter()
    broken = 0
    with tempfile.TemporaryDirectory() as name:
        whole = whole_files(Path(name))
        for number in range(count):
            suffix, raw = whole[number % len(whole)]
            path = Path(name) / f"fuzzed{suffix}"
            path.write_bytes(changed_bytes(raw, rng))
            try:
                rows = list(open_input(CorpusInput(path=str(path))))
            except UserError as error:
                results[f"{suffix}: refused"] += 1
                clear = str(path) in str(error) and "\n" not in str(error)
                broken += told(not clear, f"{suffix}, an error that is not clear: {error}")
                continue
            results[f"{suffix}: read"] += 1
            for row in rows:
                same = row_from_fields(json.loads(row_to_json(row))) == row
                broken += told(not same, f"{suffix}, a row that changes when written: {row}")
                both = bool(row.text) == (row.rejected_by is not None)
                broken += told(both, f"{suffix}, neither text nor reason, or both: {row}")
            if suffix == ".jsonl":
                lines = path.read_bytes().split(b"\n")
                expected = len(lines) - (not lines[-1])
                broken += told(len(rows) != expected, f"{len(rows)} rows of {expected} lines")
    print(f"readers, {count} files: {dict(sorted(results.items()))}")
    return broken


def whole_files(folder: Path) -> list[tuple[str, bytes]]:
    """(suffix, bytes) of the same records in every format."""
    records = [
        {"text": f"text {n} é\u2028", "path": "a.py", "n": n, "deep": {"k": [n]}} for n in range(20)
    ]
    lines = "".join(json.dumps(r, ensure_ascii=n % 2 == 0) + "\n" for n, r in enumerate(records))
    made = [(".jsonl", lines.encode()), (".jsonl.gz", gzip.compress(lines.encode(), mtime=0))]
    zstandard = extra("zstandard", "fuzzing")
    pyarrow = extra("pyarrow", "fuzzing")
    made.append((".jsonl.zst", zstandard.compress(lines.encode())))
    table = pyarrow.Table.from_pylist(records)
    extra("pyarrow.parquet", "fuzzing").write_table(table, folder / "a.parquet")
    made.append((".parquet", (folder / "a.parquet").read_bytes()))
    ipc = extra("pyarrow.ipc", "fuzzing")
    for name, opener in (("file", ipc.new_file), ("stream", ipc.new_stream)):
        path = folder / f"{name}.arrow"
        with opener(str(path), table.schema) as writer:
            writer.write_table(table)
        made.append((".arrow", path.read_bytes()))
    return made


def changed_bytes(raw: bytes, rng: random.Random) -> bytes:
    """One to three changes; now and then none."""
    changed = bytearray(raw)
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = rng.randbytes(rng.randint(1, 20))
            case 3:
                changed[at:at] = changed[max(0, at - 30) : at]
            case 4:
                del changed[at : at + rng.randint(1, 30)]
    return bytes(changed)


def fuzz_filters(count: int, rng: random.Random, config: FilterConfig) -> int:
    """Changed programs through the pool; returns how many were lost."""
    texts = [changed_text(rng) for _ in range(count)]
    rows = [TextRow(id=text_id(t), text=t, where="a.py") for t in texts]
    with Pool(MeasureJob(config=config), 1, config.limits) as pool:
        found = [decide(measured(row, changes), config) for row, changes in pool.run(rows)]
    reasons = Counter(f"{r.rejected_by}: {r.reason}" for r in found)
    print(f"filters, {count} texts, pylint {config.lint.measure}: {dict(reasons.most_common())}")
    broken = abs(len(found) - count) + sum(a.text != b for a, b in zip(found, texts, strict=True))
    return broken + sum(row.rejected_by is not None and not row.reason for row in found)


def changed_text(rng: random.Random) -> str:
    """A program with a few changes, or hostile characters only. Lone surrogates are replaced: readers
    let none through."""
    if rng.random() < 0.2:
        text = "".join(rng.choice(HOSTILE) for _ in range(rng.randint(0, 400)))
    else:
        pieces = list(PROGRAM)
        for _ in range(rng.randint(0, 6)):
            at = rng.randrange(len(pieces))
            match rng.randrange(4):
                case 0:
                    pieces[at] = rng.choice(HOSTILE)
                case 1:
                    del pieces[at : at + rng.randint(1, 40)]
                case 2:
                    pieces[at:at] = pieces[at : at + rng.randint(1, 100)] * rng.randint(1, 30)
                case 3:
                    pieces[at:at] = list(rng.choice(("(", "[", "not ", "lambda: ", "-"))) * 60
        text = "".join(pieces)
    return text.encode("utf-8", "replace").decode("utf-8")


def fuzz_replies(count: int, rng: random.Random) -> int:
    """Changed replies through every parser, changed bodies through their reader; how many broke a rule."""
    results: Counter[str] = Counter()
    broken, slowest = 0, 0.0
    for _ in range(count):
        reply = changed_reply(rng)
        stage = rng.choice(list(STAGES.values()))
        begun = time.process_time()
        found = stage.parse(reply, complete=rng.random() < 0.7)
        slowest = max(slowest, time.process_time() - begun)
        broken += told(not is_result(found), f"{stage.name}, no result {found!r} of {reply!r}")
        results["parsed" if isinstance(found, Parsed) else found.reason.value] += 1
        try:
            read = read_reply(changed_bytes(rng.choice(BODIES), rng))
            read.text.encode("utf-8")
            # What is beyond 64 bits cannot be stored, nor can a sum that is.
            counts = (read.prompt_tokens, read.completion_tokens)
            bad = any(tokens is not None and not 0 <= tokens <= MOST_TOKENS for tokens in counts)
        except NoReply as problem:
            bad = not isinstance(problem.reason, Reason)
            results[f"body: {problem.reason.value}"] += 1
        broken += told(bad, "a body refused without a reason, or tokens out of range")
    print(
        f"replies, {count} and as many bodies, slowest {slowest:.3f} s: {dict(results.most_common())}"
    )
    return broken + (slowest > 1.0)


def told(broken: bool, words: str) -> bool:
    """Whether a rule is broken, which is then told."""
    if broken:
        print(f"BROKEN: {words[:600]}")
    return broken


def is_result(found: object) -> bool:
    """A reply that can be used, or a reason with a detail that a file can hold."""
    if isinstance(found, Unusable):
        return isinstance(found.reason, Reason) and bool(found.detail.encode("utf-8"))
    if not isinstance(found, Parsed):
        return False
    in_range = found.score is None or 0 <= found.score <= 10
    return in_range and (found.text, found.score, found.question) != (None, None, None)


def changed_reply(rng: random.Random) -> str:
    """A reply with marks and characters put in, doubled or cut; now and then a long one."""
    text = rng.choice(REPLIES)
    for _ in range(rng.randint(0, 8)):
        at = rng.randint(0, len(text))
        match rng.randrange(4):
            case 0:
                text = text[:at] + rng.choice(SNIPPETS) + text[at:]
            case 1:
                text = text[:at] + text[at + rng.randint(1, 60) :]
            case 2:
                text = text[:at] + text[max(0, at - 200) : at] * rng.randint(1, 20) + text[at:]
            case 3:
                text = text[:at] + rng.choice(HOSTILE) + rng.choice(REPLIES) + text[at:]
    return text


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=4000)
    parser.add_argument("--filters", type=int, default=2000)
    parser.add_argument("--lint", type=int, default=200)
    parser.add_argument("--replies", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
