"""A file of rows in any of the forms that a stage writes. Equal rows give equal bytes."""

import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from isoflop.corpus.formats import extra
from isoflop.corpus.rows import TextRow

COMPRESSION_LEVELS = {"jsonl.gz": 6, "jsonl.zst": 3}
"""The libraries' own defaults."""

PARQUET_BATCH_BYTES = 1 << 24
"""Text held at once while Parquet is written. Chosen."""

Format = Literal["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """A full disk does not say where; the user needs to know."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise


def write_whole(file: IO[bytes], data: bytes) -> None:
    """Write all of `data` to an unbuffered file, which on a nearly full disk takes a part and is silent.

    Raises:
        OSError: it cannot be written whole.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def write_lines(path: Path, lines: Iterable[bytes], form: Format) -> None:
    """Write rows, each a line of JSON with its line end.

    Raises:
        UserError: the form needs an extra that is not installed.
    """
    if form == "parquet":
        _write_parquet(path, lines)
    else:
        _write_jsonl(path, lines, form)


def _write_jsonl(path: Path, lines: Iterable[bytes], form: Format) -> None:
    with path.open("wb") as raw:
        if form == "jsonl":
            raw.writelines(lines)
        elif form == "jsonl.gz":
            level = COMPRESSION_LEVELS[form]
            # No file name and no time: equal rows, equal bytes.
            with gzip.GzipFile("", "wb", level, raw, mtime=0) as packed:
                packed.writelines(lines)
        else:
            zstandard = extra("zstandard", "writing .zst")
            compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVELS[form])
            with compressor.stream_writer(raw, closefd=False) as packed:
                for line in lines:
                    packed.write(line)


def _write_parquet(path: Path, lines: Iterable[bytes]) -> None:
    pyarrow = extra("pyarrow", "writing Parquet")
    from pyarrow import parquet

    schema = _schema(pyarrow)
    batch: list[dict[str, Any]] = []
    held = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            if batch:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
                batch.clear()

        for line in lines:
            fields = json.loads(line)
            for name in ("metadata", "rewriting"):
                fields[name] = json.dumps(fields[name], ensure_ascii=False)
            batch.append(fields)
            held += len(line)
            if held > PARQUET_BATCH_BYTES:
                flush()
                held = 0
        flush()


def _schema(pyarrow: Any) -> Any:
    """Columns of a row; its user's columns and its rewriting are JSON text."""
    kinds: dict[str, Any] = {name: pyarrow.string() for name in TextRow.__dataclass_fields__}
    for name in ("pylint_score", "comment_share", "lint_score", "llm_score"):
        kinds[name] = pyarrow.float64()
    kinds["longest_repeat"] = pyarrow.int64()
    kinds["compiles"] = pyarrow.bool_()
    return pyarrow.schema(list(kinds.items()))
