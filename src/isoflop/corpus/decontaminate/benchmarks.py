"""Benchmark items from files, whatever columns they have.

    question, answer               GSM8K, GSM-Plus
    problem, solution              MATH, MATH-500
    prompt, canonical_solution     HumanEval, HumanEval+, MBPP+
    text, code                     MBPP
    prompt, answer                 prompt-answer files
    query, endings                 HellaSwag, as the evaluation harness keeps it

These two columns are searched for and no others: not HumanEval's `test`, whose text alone is no hit,
nor hints, choices beside the answer's column, or titles.

An item with neither part is an error of the file, never an item that every text holds.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.corpus.formats import BadRecordError, decoded, printable, quote, read_records

LAYOUTS = (
    ("question", "answer"),
    ("problem", "solution"),
    ("prompt", "canonical_solution"),
    ("text", "code"),
    ("prompt", "answer"),
    ("query", "endings"),
)
"""Columns of question and answer; the first pair that a row has."""

CODE_ANSWERS = ("canonical_solution", "code")
"""Columns whose answer is Python."""

ID_COLUMNS = ("task_id", "unique_id", "id", "idx", "ind_in_val")
"""Columns that name an item, the first that a row has; else its number in the file, from 0."""

DATA_ENDINGS = (".gz", ".zst", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".ipc")


@dataclass(frozen=True, kw_only=True)
class BenchmarkItem:
    """One question of a benchmark with its answer."""

    benchmark: str
    item: str
    """As the benchmark names it, so that scores can be joined."""
    question: str
    answer: str
    answer_is_code: bool
    prompt_is_code: bool
    """Whether question and answer together are a program, as HumanEval's."""


def read_benchmarks(paths: Sequence[str]) -> list[BenchmarkItem]:
    """All items of the files, each given as its path or as NAME=PATH.

    Raises:
        UserError: a file that cannot be read, a row that is no item, or an item given twice.
    """
    items: list[BenchmarkItem] = []
    seen: set[tuple[str, str]] = set()
    for text in paths:
        name, equals, path = text.partition("=")
        file = Path(path if equals else text).expanduser()
        if not file.is_file():
            raise UserError(f"{text}: no such file; give PATH or NAME=PATH of a benchmark")
        for item in _read_file(name if equals else _stem(file), file):
            if (item.benchmark, item.item) in seen:
                raise UserError(f"{printable(file)}: {item.benchmark} has two items {item.item!r}")
            seen.add((item.benchmark, item.item))
            items.append(item)
    if not items:
        raise UserError("no benchmark item: give at least one benchmark file with rows")
    return items


def items_digest(items: Sequence[BenchmarkItem]) -> str:
    """Names the items, in their order."""
    total = hashlib.sha256()
    for item in items:
        total.update(repr(item).encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def _stem(file: Path) -> str:
    name = file.name
    while name.endswith(DATA_ENDINGS):
        name = name[: name.rindex(".")]
    return name


def _read_file(benchmark: str, file: Path) -> Iterator[BenchmarkItem]:
    for number, (where, record) in enumerate(read_records(file)):
        if isinstance(record, BadRecordError):
            raise UserError(f"{where}: {record}; fetch the benchmark again")
        if not isinstance(record, dict):
            raise UserError(f"{where}: not an object; fetch the benchmark again")
        yield _item(benchmark, where, number, record)


def _item(benchmark: str, where: str, number: int, record: dict[str, Any]) -> BenchmarkItem:
    for question, answer in LAYOUTS:
        if record.get(question) and record.get(answer):
            break
    else:
        pairs = "; ".join(" and ".join(pair) for pair in LAYOUTS)
        raise UserError(
            f"{where}: no question and answer among {quote(list(record))}; known pairs: {pairs}"
        )
    name = next((record[column] for column in ID_COLUMNS if record.get(column) is not None), number)
    is_code = answer in CODE_ANSWERS
    return BenchmarkItem(
        benchmark=benchmark,
        item=str(decoded(name, "id")),
        question=_text(where, question, record[question]),
        answer=_text(where, answer, record[answer]),
        answer_is_code=is_code,
        prompt_is_code=is_code and question == "prompt",
    )


def _text(where: str, name: str, value: Any) -> str:
    """A text, or a list of texts one after the other."""
    try:
        value = decoded(value, name)
    except BadRecordError as bad:
        raise UserError(f"{where}: {bad}") from None
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: {name!r} is {quote(value)}, not text")
    return value
