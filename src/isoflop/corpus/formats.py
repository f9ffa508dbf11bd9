"""Records of a file, whatever its format: JSONL (plain, gzip, zstd), Parquet, Arrow, or a text file.

A record comes with its place, as its plain value or as the `BadRecordError` that says why there is
none. A file that cannot be read to its end is the user's mistake: half a corpus must not pass for
a whole one.

Lines end with a line feed and nothing else: a text may hold any other separator. Memory is bounded
by the longest record that is taken, not by the file.
"""

import gzip
import importlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isoflop.config import UserError

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
"""Names of files of one JSON object a line; ".json" as in C4's shards."""

COMPRESSIONS = (".gz", ".zst")
"""Of JSONL, after its own suffix."""

PARQUET_SUFFIXES = (".parquet",)
ARROW_SUFFIXES = (".arrow", ".ipc", ".feather")
"""Arrow's file format, and its stream format, which the `datasets` library keeps."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

MAX_RECORD_BYTES = 1 << 26
"""Longest line, or text file of a folder, that is taken; a longer one is set aside. 64 MiB, chosen."""

ZSTD_READ_BYTES = 8192
"""Compressed bytes taken at once: small, so that memory stays flat for well-compressed text."""

BATCH_ROWS = 1024
"""Rows of Parquet decoded at once. Chosen, not tuned."""

DETAIL_CHARACTERS = 80
"""Longest quotation of a bad value."""

RawRecord = tuple[str, Any]
"""Its place, and its plain value or a BadRecordError."""

DAMAGED = "the file is cut short or damaged: fetch or compress it again"


class BadRecordError(ValueError):
    """One record that cannot be used: a reason that can be counted, and what exactly was wrong."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        # Python's own messages quote what they read, lone surrogates too.
        self.detail = detail.encode("utf-8", "backslashreplace").decode("utf-8")


def is_data_file(path: Path) -> bool:
    """Whether the file's name is that of a file of records.

    >>> [is_data_file(Path(name)) for name in ("a.jsonl.gz", "b.parquet", "c.py")]
    [True, True, False]
    """
    return path.suffix in PARQUET_SUFFIXES + ARROW_SUFFIXES or _is_jsonl(path)


def read_records(path: Path, columns: Sequence[str] | None = None) -> Iterator[RawRecord]:
    """Every record of a file of records, in order; places count from 1.

    Args:
        columns: of Parquet and Arrow, which must each be there once; None: all.

    Raises:
        UserError: another kind of file, a missing column, or a file not readable to its end.
    """
    if path.suffix in PARQUET_SUFFIXES:
        return _read_parquet(path, columns)
    if path.suffix in ARROW_SUFFIXES:
        return _read_arrow(path, columns)
    if not _is_jsonl(path):
        allowed = ", ".join((*PARQUET_SUFFIXES, *ARROW_SUFFIXES, *JSONL_SUFFIXES))
        raise UserError(
            f"{printable(path)}: must be a folder or end with {allowed}, or a JSONL suffix and "
            f"{' or '.join(COMPRESSIONS)}"
        )
    return _read_jsonl(path)


def read_text_file(path: Path) -> str:
    """A text file whole, without its byte order mark.

    Raises:
        BadRecordError: no regular file, longer than MAX_RECORD_BYTES, or not UTF-8.
        UserError: it may not be read.
    """
    if not path.is_file():
        raise BadRecordError("not a regular file", "a broken link, a pipe or a device")
    with (
        whole_file(path, "allow reading it, or take it out of the folder"),
        path.open("rb") as file,
    ):
        raw = file.read(MAX_RECORD_BYTES + 1)
    if len(raw) > MAX_RECORD_BYTES:
        raise BadRecordError("too long", f"more than {MAX_RECORD_BYTES:,} bytes")
    return str(decoded(raw.removeprefix(BYTE_ORDER_MARK), path.suffix))


def require_text(value: Any, name: str) -> str:
    """`value` if it can be trained on.

    Raises:
        BadRecordError: no text, only white space, or a lone surrogate, which UTF-8 cannot hold.
    """
    if value is None:
        raise BadRecordError("no text", f"{name!r} is null")
    if not isinstance(value, str):
        raise BadRecordError("text is not a string", f"{name!r} is {quote(value)}")
    if not value.strip():
        raise BadRecordError("empty text", f"{name!r} holds {len(value)} characters of white space")
    return require_unicode(value, name)


def require_unicode(text: str, name: str) -> str:
    """`text` if UTF-8 can hold it.

    Raises:
        BadRecordError: it has a lone surrogate.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecordError("lone surrogate", f"{name!r} at character {error.start}") from None
    return text


def decoded(value: Any, name: str) -> Any:
    """Bytes as text; anything else as it is.

    Raises:
        BadRecordError: bytes that are not UTF-8.
    """
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecordError(
            "not UTF-8", f"{name!r}: {error.reason} at byte {error.start}"
        ) from None


def quote(value: Any) -> str:
    """The value in ASCII, cut to a length that fits a report."""
    text = ascii(value)
    return text if len(text) <= DETAIL_CHARACTERS else text[: DETAIL_CHARACTERS - 3] + "..."


@contextmanager
def whole_file(path: Path, remedy: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors of a file that cannot be read to its end into one clear line."""
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except UserError:
        raise  # It has its own words; it is a ValueError too.
    except caught as error:
        problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
        problem = problem.splitlines()[0]
        raise UserError(
            f"{printable(path)}: cannot be read to its end: {problem}; {remedy}"
        ) from None


def printable(path: Path) -> str:
    """The path as text that UTF-8 can hold, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "replace")


def extra(package: str, what: str, extra_name: str = "corpus") -> Any:
    """Import a package of an extra.

    Raises:
        UserError: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{what} needs {package.partition('.')[0]}; run: pip install 'isoflop[{extra_name}]'"
        ) from None


def _is_jsonl(path: Path) -> bool:
    plain = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    return plain.suffix in JSONL_SUFFIXES


def _read_jsonl(path: Path) -> Iterator[RawRecord]:
    lines = {".gz": _gzip_lines, ".zst": _zstd_lines}.get(path.suffix, _plain_lines)
    for number, line in enumerate(lines(path), start=1):
        if line is not None and number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        yield f"{printable(path)}:{number}", _parse(line)


def _parse(line: bytes | None) -> Any:
    """The JSON value of a line, or why there is none."""
    if line is None:
        return BadRecordError("too long", f"a line of more than {MAX_RECORD_BYTES:,} bytes")
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRecordError("not UTF-8", f"{error.reason} at byte {error.start}")
    except RecursionError:
        return BadRecordError("malformed JSON", "nested too deeply")
    except ValueError as error:  # also a whole number of more digits than Python reads
        problem = "the line is blank" if not line.strip() else str(error)
        return BadRecordError("malformed JSON", problem)


def _bounded_lines(file: io.BufferedIOBase) -> Iterator[bytes | None]:
    """Lines of a file; None for one longer than MAX_RECORD_BYTES, which is never held whole."""
    while line := file.readline(MAX_RECORD_BYTES):
        if len(line) < MAX_RECORD_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(MAX_RECORD_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None


def _plain_lines(path: Path) -> Iterator[bytes | None]:
    with whole_file(path, "allow reading it"), path.open("rb") as lines:
        yield from _bounded_lines(lines)


def _gzip_lines(path: Path) -> Iterator[bytes | None]:
    with whole_file(path, DAMAGED, EOFError, zlib.error), gzip.open(path, "rb") as lines:
        yield from _bounded_lines(lines)


def _zstd_lines(path: Path) -> Iterator[bytes | None]:
    zstandard = extra("zstandard", f"{printable(path)}: reading it")
    with (
        whole_file(path, DAMAGED, zstandard.ZstdError, EOFError),
        io.BufferedReader(_Pieces(_zstd_pieces(path, zstandard))) as lines,
    ):
        yield from _bounded_lines(lines)


class _Pieces(io.RawIOBase):
    """Pieces of bytes, read as one file."""

    def __init__(self, pieces: Iterable[bytes]):
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken


def _zstd_pieces(path: Path, zstandard: Any) -> Iterator[bytes]:
    """Decompressed pieces of all frames. zstandard's own reader takes a cut file for a whole one."""
    with path.open("rb") as raw:
        frame, started = zstandard.ZstdDecompressor().decompressobj(), False
        while data := raw.read(ZSTD_READ_BYTES):
            while data:
                started = True
                yield frame.decompress(data)
                data = b""
                if frame.eof:
                    data = frame.unused_data
                    frame, started = zstandard.ZstdDecompressor().decompressobj(), False
        if started:
            raise EOFError("the last frame is incomplete")


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Iterator[RawRecord]:
    pyarrow = extra("pyarrow", f"{printable(path)}: reading it")
    from pyarrow import parquet

    errors = (pyarrow.ArrowException, ValueError, OverflowError)
    with whole_file(path, DAMAGED, *errors), parquet.ParquetFile(path) as file:
        names = _wanted(path, file.schema_arrow.names, columns)
        batches = file.iter_batches(BATCH_ROWS, columns=names, use_threads=False)
        yield from _rows(path, pyarrow, names, batches)


def _read_arrow(path: Path, columns: Sequence[str] | None) -> Iterator[RawRecord]:
    pyarrow = extra("pyarrow", f"{printable(path)}: reading it")
    from pyarrow import ipc

    errors = (pyarrow.ArrowException, ValueError, OverflowError)
    with whole_file(path, DAMAGED, *errors), pyarrow.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            opened = ipc.open_file(file)
            batches = (opened.get_batch(place) for place in range(opened.num_record_batches))
        else:
            file.seek(0)
            opened = ipc.open_stream(file)
            batches = iter(opened)
        names = _wanted(path, opened.schema.names, columns)
        pieces = (batch.slice(at, BATCH_ROWS) for batch in batches for at in _starts(batch))
        yield from _rows(path, pyarrow, names, pieces)


def _starts(batch: Any) -> range:
    """Arrow's batches may be of any length; they are turned into Python values piece by piece."""
    return range(0, batch.num_rows, BATCH_ROWS)


def _wanted(path: Path, there: list[str], columns: Sequence[str] | None) -> list[str]:
    """The columns to read: each wanted one must be there once."""
    wanted = list(there if columns is None else columns)
    for name in wanted:
        if there.count(name) != 1:
            raise UserError(
                f"{printable(path)}: needs one column {name!r}; it has {', '.join(there)}"
            )
    return wanted


def _rows(
    path: Path, pyarrow: Any, names: list[str], batches: Iterable[Any]
) -> Iterator[RawRecord]:
    number = 0
    for batch in batches:
        columns = [_plain_values(pyarrow, batch.column(name)) for name in names]
        for place in range(batch.num_rows):
            number += 1
            values = [column[place] for column in columns]
            yield f"{printable(path)}:{number}", dict(zip(names, values, strict=True))


def _plain_values(pyarrow: Any, column: Any) -> list[Any]:
    """A column as Python values, text as bytes: text that is not UTF-8 is one record's fault.

    Validated first: pyarrow follows the offsets of a damaged file out of memory.

    Raises:
        ArrowException: the column is damaged.
    """
    types = pyarrow.types
    if types.is_string(column.type):
        column = column.view(pyarrow.binary())
    elif types.is_large_string(column.type):
        column = column.view(pyarrow.large_binary())
    column.validate(full=True)
    if types.is_dictionary(column.type):
        return _plain_values(pyarrow, column.dictionary_decode())
    values: list[Any] = column.to_pylist()
    return values
