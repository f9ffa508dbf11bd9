"""Read a user's own text: JSONL (plain, gzip, zstd), Parquet, or a folder of text files.

A record that cannot be used is set aside with its place and a countable reason,
so read = kept + set aside. A file that cannot be read to its end is the user's
mistake: half a corpus must not pass for a whole one.

Lines end with a line feed and nothing else: a text may hold any other separator.
"""

import gzip
import importlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.corpus.config import TextSource
from isoflop.records import Document, SetAside

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
"""Names of files of one JSON object a line; ".json" as in C4's shards."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

ZSTD_READ_BYTES = 8192
"""Compressed bytes taken at once: small, so that memory stays flat for well-compressed text."""

PARQUET_BATCH_ROWS = 1024
"""Rows decoded at once. Chosen, not tuned."""

DETAIL_CHARACTERS = 80
"""Longest quotation of a bad value."""

Record = Document | SetAside


class BadRecordError(ValueError):
    """One record that cannot be used; the reader turns it into a `SetAside`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        # Python's own messages quote what they read, lone surrogates too.
        self.detail = detail.encode("utf-8", "backslashreplace").decode("utf-8")


def read_text(source: TextSource) -> Iterator[Record]:
    """Every record of the source, in the order of its file or of its sorted file names.

    Raises:
        UserError: the path is missing, of an unknown kind, or not readable to its end.
    """
    path = text_path(source)
    if path.is_dir():
        return _read_folder(source, path)
    records = _read_parquet if path.suffix == ".parquet" else _read_jsonl
    return _without_repeated_ids(source, records(source, path))


def text_path(source: TextSource) -> Path:
    """The file or folder that the source names.

    Raises:
        UserError: there is none.
    """
    path = Path(source.path).expanduser()
    if not (path.is_file() or path.is_dir()):
        raise UserError(
            f"{source.name}: there is no file or folder {source.path!r}; give the path of one "
            f"(relative paths start from {Path.cwd()})"
        )
    return path


def text_files(source: TextSource, folder: Path) -> list[Path]:
    """The files of a folder source, sorted by their path relative to the folder."""
    found = []
    for parent, _, names in os.walk(folder, onerror=_raise_unreadable):
        for name in names:
            if name.lower().endswith(tuple(suffix.lower() for suffix in source.suffixes)):
                found.append(Path(parent, name))
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def require_text(value: Any, name: str) -> str:
    """`value` if it can be trained on.

    Raises:
        BadRecordError: no text, only white space, or a lone surrogate, which UTF-8 cannot hold.
    """
    if value is None:
        raise BadRecordError("no text", f"{name!r} is null")
    if not isinstance(value, str):
        raise BadRecordError("text is not a string", f"{name!r} is {_quote(value)}")
    if not value.strip():
        raise BadRecordError("empty text", f"{name!r} holds {len(value)} characters of white space")
    return _require_unicode(value, name)


@contextmanager
def whole_file(path: Path, remedy: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors of a file that cannot be read to its end into one clear line."""
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except caught as error:
        problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
        problem = problem.splitlines()[0]
        raise UserError(
            f"{printable(path)}: cannot be read to its end: {problem}; {remedy}"
        ) from None


def printable(path: Path) -> str:
    """The path as text that UTF-8 can hold, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "replace")


def _without_repeated_ids(
    source: TextSource, records: Iterator[tuple[str, Any]]
) -> Iterator[Record]:
    """Documents of (place, record) pairs; the first document of an id wins."""
    seen: set[str] = set()
    for where, record in records:
        try:
            if isinstance(record, BadRecordError):
                raise record
            document = _document(source, record, where)
            if source.id_field is not None:
                # Ids made of line numbers cannot repeat: no set to hold.
                if document.id in seen:
                    raise BadRecordError("duplicate id", f"{_quote(document.id)} came before")
                seen.add(document.id)
        except BadRecordError as bad:
            yield SetAside(where=where, reason=bad.reason, detail=bad.detail)
        else:
            yield document


def _document(source: TextSource, record: Any, where: str) -> Document:
    """The record as a document, or BadRecordError."""
    if not isinstance(record, dict):
        raise BadRecordError("not an object", f"the line holds {_quote(record)}")
    if source.text_field not in record:
        raise BadRecordError(
            "no text", f"no field {source.text_field!r}; it has {_quote(list(record))}"
        )
    text = require_text(_decoded(record[source.text_field], source.text_field), source.text_field)
    if source.id_field is None:
        return Document(id=Path(where).name, text=text)
    value = _decoded(record.get(source.id_field), source.id_field)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRecordError(
            "no id", f"{source.id_field!r} is {_quote(value)}, not text or a whole number"
        )
    return Document(id=_require_unicode(str(value), source.id_field), text=text)


def _decoded(value: Any, name: str) -> Any:
    """Bytes as text; anything else as it is."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecordError(
            "not UTF-8", f"{name!r}: {error.reason} at byte {error.start}"
        ) from None


def _require_unicode(text: str, name: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecordError("lone surrogate", f"{name!r} at character {error.start}") from None
    return text


def _quote(value: Any) -> str:
    """The value in ASCII, cut to a length that fits a report."""
    text = ascii(value)
    return text if len(text) <= DETAIL_CHARACTERS else text[: DETAIL_CHARACTERS - 3] + "..."


def _raise_unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be listed: {error.strerror}; allow reading it")


def _read_folder(source: TextSource, folder: Path) -> Iterator[Record]:
    """One document a file; its id is the path relative to the folder."""
    for path in text_files(source, folder):
        try:
            if not path.is_file():
                raise BadRecordError("not a regular file", "a broken link, a pipe or a device")
            with whole_file(path, "allow reading it, or take it out of the folder"):
                raw = path.read_bytes()
            name = _require_unicode(path.relative_to(folder).as_posix(), "file name")
            text = _decoded(raw.removeprefix(BYTE_ORDER_MARK), path.suffix)
            yield Document(id=name, text=require_text(text, path.suffix))
        except BadRecordError as bad:
            yield SetAside(where=printable(path), reason=bad.reason, detail=bad.detail)


def _read_jsonl(source: TextSource, path: Path) -> Iterator[tuple[str, Any]]:
    """(place, parsed line or BadRecordError) for every line of a file of JSON lines."""
    plain = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    if plain.suffix not in JSONL_SUFFIXES:
        raise UserError(
            f"{source.name}: {printable(path)} must be a folder or end with .parquet or "
            f"{', '.join(JSONL_SUFFIXES)}, or these with .gz or .zst"
        )
    lines = {".gz": _gzip_lines, ".zst": _zstd_lines}.get(path.suffix, _plain_lines)
    for number, line in enumerate(lines(path), start=1):
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        yield f"{printable(path)}:{number}", _parse(line)


def _parse(line: bytes) -> Any:
    """The JSON value of a line, or why there is none."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRecordError("not UTF-8", f"{error.reason} at byte {error.start}")
    except RecursionError:
        return BadRecordError("malformed JSON", "nested too deeply")
    except ValueError as error:  # also a whole number of more digits than Python reads
        problem = "the line is blank" if not line.strip() else str(error)
        return BadRecordError("malformed JSON", problem)


def _plain_lines(path: Path) -> Iterator[bytes]:
    with whole_file(path, "allow reading it"), path.open("rb") as lines:
        yield from lines


def _gzip_lines(path: Path) -> Iterator[bytes]:
    remedy = "the file is cut short or damaged: fetch or compress it again"
    with whole_file(path, remedy, EOFError, zlib.error), gzip.open(path, "rb") as lines:
        yield from lines


def _zstd_lines(path: Path) -> Iterator[bytes]:
    """Lines over all frames of a zstd file."""
    rest: list[bytes] = []
    for piece in _zstd_pieces(path):
        *whole, last = piece.split(b"\n")
        for line in whole:
            yield b"".join(rest) + line + b"\n"
            rest = []
        rest.append(last)
    if any(rest):
        yield b"".join(rest)


def _zstd_pieces(path: Path) -> Iterator[bytes]:
    """Decompressed pieces. zstandard's own reader takes a cut file for a whole one."""
    zstandard = _extra("zstandard", path)
    remedy = "the file is cut short or damaged: fetch or compress it again"
    with whole_file(path, remedy, zstandard.ZstdError, EOFError), path.open("rb") as raw:
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


def _read_parquet(source: TextSource, path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) for every row; the place counts rows from 1."""
    pyarrow = _extra("pyarrow", path)
    from pyarrow import parquet

    wanted = [name for name in (source.text_field, source.id_field) if name is not None]
    remedy = "the file is cut short or damaged: fetch or write it again"
    number = 0
    with whole_file(path, remedy, pyarrow.ArrowException), parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        for name in wanted:
            if schema.names.count(name) != 1:
                columns_there = ", ".join(schema.names)
                raise UserError(
                    f"{printable(path)}: needs one column {name!r}; it has {columns_there}"
                )
        batches = file.iter_batches(PARQUET_BATCH_ROWS, columns=wanted, use_threads=False)
        for batch in batches:
            columns = [_plain_values(pyarrow, batch.column(name)) for name in wanted]
            for values in zip(*columns, strict=True):
                number += 1
                yield f"{printable(path)}:{number}", dict(zip(wanted, values, strict=True))


def _plain_values(pyarrow: Any, column: Any) -> list[Any]:
    """A column as Python values, text as bytes: pyarrow does not check that it is UTF-8."""
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_text = pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)
    values: list[Any] = (column.cast(pyarrow.large_binary()) if is_text else column).to_pylist()
    return values


def _extra(package: str, path: Path) -> Any:
    """Import a package of the extra `corpus`."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{printable(path)}: reading it needs {package}; run: pip install 'isoflop[corpus]'"
        ) from None
