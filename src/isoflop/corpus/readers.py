"""Read a user's own text as documents to train on: a file of records, or a folder of text files.

A record that cannot be used is set aside with its place and a countable reason,
so read = kept + set aside.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.corpus.config import TextSource
from isoflop.corpus.formats import (
    BadRecordError,
    RawRecord,
    decoded,
    printable,
    quote,
    read_records,
    read_text_file,
    require_text,
    require_unicode,
)
from isoflop.records import Document, SetAside

Record = Document | SetAside


def read_text(source: TextSource) -> Iterator[Record]:
    """Every record of the source, in the order of its file or of its sorted file names.

    Raises:
        UserError: the path is missing, of an unknown kind, or not readable to its end.
    """
    path = text_path(source)
    if path.is_dir():
        return _read_folder(source, path)
    wanted = [name for name in (source.text_field, source.id_field) if name is not None]
    return _without_repeated_ids(source, read_records(path, wanted))


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
    return files_below(folder, source.suffixes)


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files at any depth whose name ends with one of `suffixes`, sorted by their relative path.

    Raises:
        UserError: a folder cannot be listed.
    """
    found = []
    endings = tuple(suffix.lower() for suffix in suffixes)
    for parent, _, names in os.walk(folder, onerror=_raise_unreadable):
        found += [Path(parent, name) for name in names if name.lower().endswith(endings)]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _raise_unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be listed: {error.strerror}; allow reading it")


def _without_repeated_ids(source: TextSource, records: Iterator[RawRecord]) -> Iterator[Record]:
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
                    raise BadRecordError("duplicate id", f"{quote(document.id)} came before")
                seen.add(document.id)
        except BadRecordError as bad:
            yield SetAside(where=where, reason=bad.reason, detail=bad.detail)
        else:
            yield document


def _document(source: TextSource, record: Any, where: str) -> Document:
    """The record as a document, or BadRecordError."""
    text = text_of(record, source.text_field)
    if source.id_field is None:
        return Document(id=Path(where).name, text=text)
    value = decoded(record.get(source.id_field), source.id_field)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRecordError(
            "no id", f"{source.id_field!r} is {quote(value)}, not text or a whole number"
        )
    return Document(id=require_unicode(str(value), source.id_field), text=text)


def text_of(record: Any, text_field: str) -> str:
    """The text of a plain record.

    Raises:
        BadRecordError: no object, no such field, or no text that can be trained on.
    """
    if not isinstance(record, dict):
        raise BadRecordError("not an object", f"the line holds {quote(record)}")
    if text_field not in record:
        raise BadRecordError("no text", f"no field {text_field!r}; it has {quote(list(record))}")
    return require_text(decoded(record[text_field], text_field), text_field)


def _read_folder(source: TextSource, folder: Path) -> Iterator[Record]:
    """One document a file; its id is the path relative to the folder."""
    for path in text_files(source, folder):
        try:
            name = require_unicode(path.relative_to(folder).as_posix(), "file name")
            yield Document(id=name, text=require_text(read_text_file(path), path.suffix))
        except BadRecordError as bad:
            yield SetAside(where=printable(path), reason=bad.reason, detail=bad.detail)
