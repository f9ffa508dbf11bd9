"""Rows of a benchmark: from a local file, a folder in the hub's layout, or the hub itself.

    FILE.jsonl, .ndjson, .json   one object a line; .json may also be one list; with .gz too
    FILE.parquet                 through pyarrow
    FOLDER                       a data set as the hub keeps it, through `datasets`
    no path                      the task's data set on the hub, through `datasets`

A line that cannot be read is set aside. A file cut short is the user's mistake: part of a
benchmark must not pass for the whole. A line ends with a line feed and nothing else.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.evaluate.tasks.problem import BadRowError
from isoflop.extras import import_extra

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")

NOT_AN_OBJECT = "not an object"

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Row = tuple[str, Mapping[str, Any] | BadRowError]
"""Where it stands, and what it holds or why it cannot be read."""


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file, in order.

    Raises:
        UserError: no such file, another kind of file, empty, or not readable to its end.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .jsonl, .jsonl.gz, .json or .parquet file")
    if path.suffix == ".parquet":
        return _numbered(path, _parquet_rows(path))
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if plain.suffix not in JSON_SUFFIXES:
        raise UserError(
            f"{path}: must end with .parquet or {', '.join(JSON_SUFFIXES)}, or these with .gz"
        )
    raw = _bytes_of(path).removeprefix(BYTE_ORDER_MARK)
    if not raw.strip():
        raise UserError(f"{path}: the file is empty; fetch it again")
    if plain.suffix == ".json" and raw.lstrip().startswith(b"["):
        return _numbered(path, _list_rows(path, raw))
    return _json_lines(path, raw)


def read_hub(name: str, config: str | None, split: str) -> Iterator[Row]:
    """The rows of one split of a data set.

    Args:
        name: the data set's name on the hub, or a local folder in the hub's layout.
        config: of the data set's configurations; None for its only or default one.

    Raises:
        UserError: `datasets` is not installed, or the data set, its configuration or its split
            cannot be had.
    """
    datasets = import_extra("datasets", "eval", f"{name}: reading it")
    where = f"{name} ({config or 'default'}, {split})"
    # A folder is read as it lies; only what came over the network is worth a cache.
    streaming = Path(name).is_dir()
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            name, config, split=split, streaming=streaming
        )
        for number, row in enumerate(rows, start=1):
            yield f"{where}:{number}", row
    except (OSError, ValueError, LookupError, datasets.exceptions.DatasetsError) as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{where}: cannot be loaded: {problem}; give a local copy with --data"
        ) from None


def _bytes_of(path: Path) -> bytes:
    """The whole file, decompressed."""
    if path.suffix != ".gz":
        return path.read_bytes()
    whole = bytearray()
    try:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                whole += line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        line_number = whole.count(b"\n") + 1
        raise UserError(
            f"{path}:{line_number}: cannot be read to its end: {error}; the file is cut short or "
            "damaged: fetch or compress it again"
        ) from None
    return bytes(whole)


def _json_lines(path: Path, raw: bytes) -> Iterator[Row]:
    *lines, last = raw.split(b"\n")
    for number, line in enumerate([*lines, last], start=1):
        if not line.strip():
            continue
        row = _parsed(line)
        is_broken = isinstance(row, BadRowError) and row.reason != NOT_AN_OBJECT
        if is_broken and number > len(lines):
            raise UserError(f"{path}:{number}: the file ends inside a line ({row}); fetch it again")
        yield f"{path}:{number}", row


def _parsed(line: bytes) -> Mapping[str, Any] | BadRowError:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRowError("not UTF-8", f"at byte {error.start}")
    except RecursionError:
        return BadRowError("malformed JSON", "nested too deeply")
    except ValueError as error:  # also a whole number of more digits than Python reads
        return BadRowError("malformed JSON", str(error))
    return value if isinstance(value, dict) else BadRowError(NOT_AN_OBJECT, type(value).__name__)


def _list_rows(path: Path, raw: bytes) -> list[Any]:
    try:
        rows = json.loads(raw.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}; fetch it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON in UTF-8: {error}; fetch it again") from None
    return list(rows)


def _parquet_rows(path: Path) -> list[Any]:
    pyarrow = import_extra("pyarrow", "eval", f"{path}: reading it")
    parquet = import_extra("pyarrow.parquet", "eval", f"{path}: reading it")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read to its end: {problem}; fetch it again") from None
    return list(rows)


def _numbered(path: Path, rows: list[Any]) -> Iterator[Row]:
    """Rows with their places, counted from 1."""
    if not rows:
        raise UserError(f"{path}: the file holds no rows; fetch it again")
    for number, row in enumerate(rows, start=1):
        held = row if isinstance(row, dict) else BadRowError(NOT_AN_OBJECT, type(row).__name__)
        yield f"{path}:{number}", held
