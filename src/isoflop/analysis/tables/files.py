"""Lines of a table from a file: CSV, TSV, JSON, JSON lines or Parquet, as the file has them.

A line is a dictionary from column to value; what the values must be is checked in `check`.
"""

import csv
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.analysis.tables.columns_file import TOO_DEEP, check_tokens_per_step, read_object
from isoflop.config import UserError

MAX_FIELD_BYTES = 10_000_000
"""Longest field of a CSV that is read. Chosen: names and numbers are short."""

CHART_COLUMN = re.compile(r".+ - (?!.*(?:__MIN|__MAX|_step)$).+")
"""The column of one run in an exported chart, its least and greatest left out."""


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """Lines as read, before any check."""

    name: str
    lines: tuple[dict[str, Any], ...]
    places: tuple[str, ...]
    """File and line of each."""
    notes: tuple[str, ...] = ()


def read_file(path: Path) -> RawTable:
    """The lines of one file, by its ending.

    Raises:
        UserError: not readable as what its ending says, or an unknown ending.
    """
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_json_lines,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        known = ", ".join((*readers, ".wandb"))
        raise UserError(f"{path}: a table of runs ends in one of {known}, or is a folder")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return readers[path.suffix](path)


def _read_csv(path: Path) -> RawTable:
    csv.field_size_limit(MAX_FIELD_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            reader = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            head = [name.strip() for name in next(reader, [])]
            _check_head(head, path)
            lines, places = [], []
            for fields in reader:
                place = f"{path}:{reader.line_num}"
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(head):
                    raise UserError(
                        f"{place}: {len(fields)} fields where the first line names {len(head)}"
                    )
                lines.append(dict(zip(head, (field.strip() for field in fields), strict=True)))
                places.append(place)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not CSV: {error}") from None
    return _chart_export(RawTable(name=path.stem, lines=tuple(lines), places=tuple(places)), path)


def _chart_export(table: RawTable, path: Path) -> RawTable:
    """A chart of Weights & Biases saved as CSV has a column "RUN - FIGURE" for each run, with its
    least and greatest beside it: one line a run and step is made of it. Other tables are kept.

    A chart holds no shapes: NAME.columns.json beside NAME.csv may give each run's, as an object of
    runs, each an object of columns (and tokens_per_step, where no tokens are charted)."""
    if not table.lines or "Step" not in table.lines[0]:
        return table
    wanted = [name for name in table.lines[0] if CHART_COLUMN.fullmatch(name)]
    fixed = _chart_columns(path.with_suffix(".columns.json"))
    lines, places = [], []
    for line, place in zip(table.lines, table.places, strict=True):
        for name in wanted:
            run, figure = name.rsplit(" - ", 1)
            if line[name] != "":
                known = dict(fixed.get(run, {}))
                per_step = known.pop("tokens_per_step", None)
                if per_step is not None:
                    known.setdefault("tokens", _step(line["Step"], place) * per_step)
                lines.append({"run": run, **known, "step": line["Step"], figure: line[name]})
                places.append(place)
    return RawTable(name=table.name, lines=tuple(lines), places=tuple(places))


def _chart_columns(shapes: Path) -> dict[str, dict[str, Any]]:
    """The columns that NAME.columns.json gives each run of a chart; {} without such a file."""
    if not shapes.exists():
        return {}
    remedy = "write an object of runs, each an object of columns and values"
    found = read_object(shapes, remedy)
    for run, columns in found.items():
        if not isinstance(columns, dict):
            raise UserError(f"{shapes}: run {run!r} is {str(columns)[:40]!r}; {remedy}")
        check_tokens_per_step(columns.get("tokens_per_step"), f"{shapes}: run {run!r}")
    return found


def _step(text: str, place: str) -> float:
    try:
        step = float(text)
    except ValueError:
        step = math.nan
    if not math.isfinite(step):
        raise UserError(f"{place}: Step is {text!r}; it must be a number")
    return step


def _check_head(head: list[str], path: Path) -> None:
    if not any(head):
        raise UserError(f"{path}: empty; the first line must name the columns")
    if len(head) == 1 and ";" in head[0]:
        raise UserError(
            f"{path}:1: one column {head[0][:60]!r}: the file seems to be separated by semicolons; "
            "save it with commas, and numbers with points"
        )
    twice = sorted({name for name in head if head.count(name) > 1})
    if twice:
        raise UserError(f"{path}:1: the column {twice[0]!r} stands twice; rename one")


def _read_json(path: Path) -> RawTable:
    """A list of objects, or an object of columns, each a list of equal length."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: {TOO_DEEP}") from None
    if not isinstance(data, dict | list):
        raise UserError(
            f"{path}: holds {str(data)[:40]!r}; it must hold a list of objects, one a line, or an "
            "object of columns"
        )
    if isinstance(data, dict):
        lengths = {len(v) if isinstance(v, list) else -1 for v in data.values()}
        if len(lengths) != 1 or -1 in lengths:
            raise UserError(f"{path}: an object must hold columns, each a list of equal length")
        data = [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    return raw_table(path.stem, data, (f"{path}: item {i + 1}" for i in range(len(data))))


def _read_json_lines(path: Path) -> RawTable:
    lines, places = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            lines.append(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from None
        except RecursionError:
            raise UserError(f"{path}:{number}: {TOO_DEEP}") from None
        places.append(f"{path}:{number}")
    return raw_table(path.stem, lines, places)


def _read_parquet(path: Path) -> RawTable:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ModuleNotFoundError:
        raise UserError(
            f"{path}: reading Parquet needs pyarrow: pip install 'isoflop[corpus]'"
        ) from None
    try:
        lines = parquet.read_table(path).to_pylist()
    except ArrowInvalid as error:
        raise UserError(f"{path}: not Parquet: {error}") from None
    return raw_table(path.stem, lines, (f"{path}: row {i + 1}" for i in range(len(lines))))


def raw_table(name: str, lines: Any, places: Iterable[str]) -> RawTable:
    """Lines with their places, once every line is known to be an object.

    Raises:
        UserError: a line that is no object of names and values.
    """
    found = tuple(places)
    for line, place in zip(lines, found, strict=True):
        if not isinstance(line, dict):
            raise UserError(f"{place}: expected an object of columns, got {str(line)[:40]!r}")
    return RawTable(name=name, lines=tuple(lines), places=found)
