"""Texts of any corpus as rows, each with its place, its id and the columns it came with.

    a file of records              JSONL (.gz, .zst), Parquet, Arrow
    a folder of files of records   in the order of their paths
    a folder of source files       one text a file
    a folder that a stage wrote    its kept rows
    "hub:NAME" or "hub:FOLDER"     a data set of the Hugging Face hub, or a folder in its layout

Every record becomes one row. A record without a usable text is a row rejected by "read", so that
kept + rejected = read holds from the first stage on.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from isoflop.config import UserError
from isoflop.corpus.formats import (
    BadRecordError,
    RawRecord,
    extra,
    is_data_file,
    printable,
    quote,
    read_records,
    read_text_file,
    require_text,
    require_unicode,
)
from isoflop.corpus.readers import files_below, text_of
from isoflop.corpus.rows import Scalar, TextRow, text_id
from isoflop.corpus.shards import is_stage_folder, kept_rows, stage_digest

HUB = "hub:"

SOURCE_SUFFIXES = (".py",)
"""Of source files, where a folder holds no files of records."""

LARGEST_INTEGER = (1 << 63) - 1
"""Of a column that is carried along as a number; larger ones are carried as text."""

SAMPLED_BYTES = 1 << 16
"""At each end of a file, for its digest. Chosen."""

Kind = Literal["auto", "records", "files", "rows", "hub"]


@dataclass(frozen=True, kw_only=True)
class CorpusInput:
    """Where texts are read."""

    path: str
    """A file, a folder, or "hub:" and the name of a data set."""
    kind: Kind = "auto"
    """"auto": as it looks; "records": files of records; "files": source files; "rows": what a stage
    wrote; "hub": a data set of the hub."""
    text_field: str = "text"
    """Field or column of the text."""
    suffixes: tuple[str, ...] = SOURCE_SUFFIXES
    """Of source files."""
    split: str = "train"
    """Of a data set of the hub."""
    configuration: str | None = None
    """Of a data set of the hub; None: its default."""

    def __post_init__(self) -> None:
        if not self.path:
            raise UserError("give the path of a corpus: a file, a folder, or hub:NAME")
        if not all(self.suffixes):
            raise UserError("an empty suffix would match every file; name suffixes, e.g. .py")


def open_input(source: CorpusInput) -> Iterator[TextRow]:
    """The rows of a corpus, in an order that depends on the input alone.

    Raises:
        UserError: nothing there, of an unknown kind, or not readable to its end.
    """
    kind = input_kind(source)
    if kind == "hub":
        return (_row(source, *record) for record in _hub_records(source))
    path = _path(source)
    if kind == "rows":
        return kept_rows(path)
    if kind == "files":
        return (_file_row(path, file) for file in files_below(path, source.suffixes))
    return (_row(source, *record) for file in _data_files(path) for record in read_records(file))


def input_kind(source: CorpusInput) -> Kind:
    """What the input is.

    Raises:
        UserError: it is not there, or it may be two things.
    """
    if source.kind != "auto":
        return source.kind
    if source.path.startswith(HUB):
        return "hub"
    path = _path(source)
    if path.is_file():
        return "records"
    if is_stage_folder(path):
        return "rows"
    has_data, has_sources = bool(_data_files(path)), bool(files_below(path, source.suffixes))
    if has_data and has_sources:
        raise UserError(
            f"{printable(path)}: holds files of records and {', '.join(source.suffixes)} files; "
            "say which with --kind records or --kind files"
        )
    if not has_data and not has_sources:
        raise UserError(
            f"{printable(path)}: holds neither files of records (.jsonl, .parquet, .arrow) nor "
            f"{', '.join(source.suffixes)} files"
        )
    return "records" if has_data else "files"


def input_digest(source: CorpusInput) -> str:
    """Digest of what the input is: of its files' names, sizes and both ends of their bytes.

    A run that goes on in a folder must read what it began with; reading terabytes to be sure would
    cost more than the run.
    """
    kind = input_kind(source)
    if kind == "hub" and not Path(source.path.removeprefix(HUB)).is_dir():
        return hashlib.sha256(source.path.encode()).hexdigest()
    path = Path(source.path.removeprefix(HUB)) if kind == "hub" else _path(source)
    if kind == "rows":
        return stage_digest(path)
    files = [path] if path.is_file() else _input_files(source, kind, path)
    total = hashlib.sha256()
    for file in files:
        if file.is_file():
            name = printable(file if file == path else file.relative_to(path))
            total.update(f"{name}\0{_ends_digest(file)}\n".encode())
    return total.hexdigest()


def _input_files(source: CorpusInput, kind: Kind, path: Path) -> list[Path]:
    return files_below(path, source.suffixes) if kind == "files" else _data_files(path)


def _ends_digest(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as opened:
        ends = hashlib.sha256(opened.read(SAMPLED_BYTES))
        opened.seek(max(0, size - SAMPLED_BYTES))
        ends.update(opened.read())
    return f"{size} {ends.hexdigest()}"


def _path(source: CorpusInput) -> Path:
    path = Path(source.path).expanduser()
    if not (path.is_file() or path.is_dir()):
        raise UserError(
            f"there is no file or folder {source.path!r}; give the path of a corpus (relative "
            f"paths start from {Path.cwd()}), or {HUB}NAME for a data set of the hub"
        )
    return path


def _data_files(path: Path) -> list[Path]:
    """The file, or all files of records below the folder; hidden ones are left out."""
    if path.is_file():
        return [path]
    files = (file for file in files_below(path, ("",)) if is_data_file(file))
    return [file for file in files if not _is_hidden(file.relative_to(path))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _row(source: CorpusInput, where: str, record: Any) -> TextRow:
    """The record as a row, or as a row that "read" rejects."""
    try:
        if isinstance(record, BadRecordError):
            raise record
        text = text_of(record, source.text_field)
        metadata = {
            require_unicode(str(name), "column"): _scalar(value)
            for name, value in record.items()
            if name != source.text_field
        }
    except BadRecordError as bad:
        return _rejected(where, bad)
    return TextRow(id=text_id(text), text=text, where=where, metadata=metadata)


def _file_row(folder: Path, file: Path) -> TextRow:
    where = printable(file)
    try:
        text = require_text(read_text_file(file), file.suffix)
    except BadRecordError as bad:
        return _rejected(where, bad)
    name = printable(file.relative_to(folder))
    return TextRow(id=text_id(text), text=text, where=where, metadata={"path": name})


def _rejected(where: str, bad: BadRecordError) -> TextRow:
    return TextRow(
        id=text_id(where),
        text="",
        where=where,
        rejected_by="read",
        reason=bad.reason,
        detail=bad.detail,
    )


def _scalar(value: Any) -> Scalar:
    """A user's value as it is, or as JSON text where it is no scalar."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) <= LARGEST_INTEGER else quote(value)
    try:
        return json.dumps(value, default=str).encode("utf-8", "backslashreplace").decode("utf-8")
    except (ValueError, RecursionError):
        return quote(type(value).__name__)


def _hub_records(source: CorpusInput) -> Iterator[RawRecord]:
    """Records of a data set, one after the other: nothing is downloaded whole."""
    name = source.path.removeprefix(HUB)
    datasets = extra("datasets", f"{source.path}: reading it")
    where = f"{name} ({source.configuration or 'default'}, {source.split})"
    try:
        rows = datasets.load_dataset(name, source.configuration, split=source.split, streaming=True)
        for number, row in enumerate(rows, start=1):
            yield f"{where}:{number}", dict(row)
    except (OSError, ValueError, LookupError, datasets.exceptions.DatasetsError) as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{where}: cannot be loaded: {problem}") from None
