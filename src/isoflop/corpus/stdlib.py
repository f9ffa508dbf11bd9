"""The running interpreter's standard library as a corpus of real code.

Every file is decoded as Python decodes source and compiled; what does not
compile (the library's own tests hold such files) is set aside.
"""

import importlib.util
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from isoflop.config import UserError
from isoflop.corpus.config import StdlibSource
from isoflop.corpus.filters.syntax import COMPILE_ERRORS
from isoflop.corpus.formats import BadRecordError, printable, require_text, whole_file
from isoflop.corpus.readers import Record
from isoflop.corpus.seeds import stable_hash
from isoflop.records import Document, SetAside

NOT_STANDARD = ("site-packages", "dist-packages", "__pycache__")
"""Folders below the library that belong to others."""


def read_stdlib(source: StdlibSource, seed: int) -> Iterator[Record]:
    """Files in an order fixed by the seed, until `max_bytes` of text are kept.

    An id is the path relative to the library, with forward slashes.

    Raises:
        UserError: the interpreter has no library on disk, or a file cannot be read.
    """
    root, kept_bytes = stdlib_root(), 0
    names = stdlib_files(root)
    for name in sorted(names, key=lambda name: (stable_hash(seed, "stdlib order", name), name)):
        if source.max_bytes is not None and kept_bytes >= source.max_bytes:
            return
        path = root / name
        try:
            with whole_file(path, "repair the Python installation"):
                raw = path.read_bytes()
            text = require_text(python_text(raw), "file")
        except BadRecordError as bad:
            yield SetAside(where=printable(Path(name)), reason=bad.reason, detail=bad.detail)
        else:
            kept_bytes += len(text.encode("utf-8"))
            yield Document(id=name, text=text)


def stdlib_root() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def stdlib_files(root: Path) -> list[str]:
    """Sorted relative paths of the library's .py files.

    Raises:
        UserError: there are none.
    """
    found = []
    for parent, folders, names in os.walk(root):
        folders[:] = [folder for folder in folders if folder not in NOT_STANDARD]
        paths = [Path(parent, name) for name in names if name.endswith(".py")]
        found += [path.relative_to(root).as_posix() for path in paths if path.is_file()]
    if not found:
        raise UserError(
            f"{root}: the standard library of this Python has no .py files on disk (it may be "
            "zipped); use a TextSource, or another Python"
        )
    return sorted(found)


def python_text(raw: bytes) -> str:
    """Python source as text, line ends as line feeds.

    Raises:
        BadRecordError: its encoding is unknown or wrong, or it does not compile.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            text = importlib.util.decode_source(raw)
        except (SyntaxError, ValueError, LookupError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise BadRecordError("not decodable as Python source", problem) from None
        try:
            compile(text, "source.py", "exec", dont_inherit=True)
        except COMPILE_ERRORS as error:
            problem = f"{type(error).__name__}: {error}"
            raise BadRecordError("does not compile", problem) from None
    return text
