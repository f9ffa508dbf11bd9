"""What a stage of a corpus leaves: kept and rejected rows in shards, written so that a kill costs nothing.

    corpus.json              what was asked: stage, config, digest of the input, form of the output
    kept-00000.jsonl.gz      kept rows of the first `rows_per_shard` inputs, in their order
    rejected-00000.jsonl.gz  rejected rows of the same inputs
    counts-00000.json        what both hold; written last, so that a shard is whole where it is
    journal-00001.jsonl      all rows of the shard in work, one after the other
    summary.json             written last of all: the sums of the counts

A shard is made of inputs by their number, so its bytes do not depend on kills or workers. While it is
in work every row, kept or rejected, is appended to one journal. Run again, the stage reads how
many whole rows the journal has, cuts a torn last one, and goes on with the next input: none is lost,
none comes twice.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from isoflop.config import UserError, from_dict, to_dict, to_text
from isoflop.corpus.formats import BadRecordError, decoded, read_records
from isoflop.corpus.row_files import Format, naming, write_lines, write_whole
from isoflop.corpus.rows import TextRow, row_from_fields, row_to_json
from isoflop.folders import locked
from isoflop.records import atomic_file, read_json, write_text

MANIFEST, SUMMARY = "corpus.json", "summary.json"

RUN_CONFIG, RUN_DONE = "config.json", "DONE"
"""Of a run folder (isoflop.folders) that holds kept-*.jsonl and rejected-*.jsonl of rows, such as a
rewriting's: it is read like a stage's folder."""

ROWS_PER_SHARD = 10_000
"""Inputs of a shard. Chosen: some 30 MB of code."""


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The form of a stage's files."""

    format: Format = "jsonl.gz"
    rows_per_shard: int = ROWS_PER_SHARD

    def __post_init__(self) -> None:
        if self.rows_per_shard < 1:
            raise UserError(f"rows_per_shard={self.rows_per_shard} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What one shard, or a whole stage, holds."""

    num_read: int = 0
    num_kept: int = 0
    num_rejected: int = 0
    read_characters: int = 0
    kept_characters: int = 0
    kept_bytes: int = 0
    """UTF-8."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Rejected rows by "stage: reason", in alphabetical order."""

    def __post_init__(self) -> None:
        assert self.num_kept + self.num_rejected == self.num_read
        assert sum(self.reasons.values()) == self.num_rejected

    def __add__(self, other: "Counts") -> "Counts":
        mine, theirs = vars(self), vars(other)
        sums = {name: mine[name] + theirs[name] for name in mine if name != "reasons"}
        reasons = Counter(self.reasons) + Counter(other.reasons)
        return Counts(**sums, reasons=dict(sorted(reasons.items())))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What decides the bytes of a stage's folder."""

    name: str
    """E.g. "filter"."""
    config: Any
    """A frozen config."""
    input_digest: str
    output: OutputConfig = field(default_factory=OutputConfig)
    tools: dict[str, str] = field(default_factory=dict)
    """Versions that change the result, e.g. Python's and pylint's."""

    def manifest(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "stage": self.name,
            "config": to_dict(self.config),
            "input": self.input_digest,
            "output": to_dict(self.output),
            "tools": self.tools,
        }


def write_stage(
    folder: Path,
    stage: Stage,
    rows_from: Callable[[int], Iterable[TextRow]],
    tell: Callable[[int], None] = lambda done: None,
) -> Counts:
    """Write the rows of a stage, or go on where a killed run stopped; returns what they sum to.

    Args:
        rows_from: all rows from the given number of inputs on, in the order of the inputs; one row an
            input, kept or rejected.
        tell: hears how many inputs are done, after each.

    Raises:
        UserError: another process works in the folder, or it holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _claim(folder, stage)
        if not (folder / SUMMARY).exists():
            _write_shards(folder, stage.output, rows_from, tell)
        return read_summary(folder)


def read_summary(folder: Path) -> Counts:
    """What a finished stage holds.

    Raises:
        UserError: no stage there, or an unfinished one.
    """
    if _is_run_folder(folder):
        if not (folder / RUN_DONE).exists():
            raise UserError(f"{folder}: the stage has not finished: run it again")
        files = sorted((*folder.glob("kept-*.jsonl"), *folder.glob("rejected-*.jsonl")))
        return sum(map(_count, files), Counts())
    path = folder / SUMMARY
    data = read_json(
        path, missing="the stage has not finished: run it again", remedy="run it again"
    )
    return from_dict(Counts, data, str(path))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What was asked of a stage.

    Raises:
        UserError: no stage there.
    """
    missing = "this is not the folder of a corpus stage"
    if _is_run_folder(folder):
        config = read_json(folder / RUN_CONFIG, missing=missing, remedy="run it again elsewhere")
        return {"stage": "rewrite", "config": config, "output": {"format": "jsonl"}, "tools": {}}
    data = read_json(folder / MANIFEST, missing=missing, remedy="run the stage again elsewhere")
    if not isinstance(data, dict):
        raise UserError(f"{folder / MANIFEST}: expected a JSON object")
    return data


def is_stage_folder(folder: Path) -> bool:
    """Whether a stage of a corpus was written, or begun, here."""
    return (folder / MANIFEST).is_file() or _is_run_folder(folder)


def _is_run_folder(folder: Path) -> bool:
    """Whether a run folder holds rows of a corpus."""
    needed = (RUN_CONFIG, "kept-00000.jsonl")
    return not (folder / MANIFEST).exists() and all((folder / name).is_file() for name in needed)


def stage_digest(folder: Path) -> str:
    """Digest of a finished stage: of what was asked and of what came out.

    Raises:
        UserError: it has not finished.
    """
    read_summary(folder)
    total = hashlib.sha256()
    for name in (RUN_CONFIG, SUMMARY) if _is_run_folder(folder) else (MANIFEST, SUMMARY):
        path = folder / name
        total.update(path.read_bytes() if path.exists() else b"")
    return total.hexdigest()


def kept_rows(folder: Path) -> Iterator[TextRow]:
    """Kept rows of a finished stage, in the order of the inputs."""
    return stage_rows(folder, "kept")


def rejected_rows(folder: Path) -> Iterator[TextRow]:
    """Rejected rows of a finished stage, in the order of the inputs."""
    return stage_rows(folder, "rejected")


def stage_rows(folder: Path, side: Literal["kept", "rejected"]) -> Iterator[TextRow]:
    """One side of a finished stage.

    Raises:
        UserError: the stage has not finished, or a row does not fit; file and line are named.
    """
    read_summary(folder)
    suffix = read_manifest(folder)["output"]["format"]
    for path in sorted(folder.glob(f"{side}-*.{suffix}")):
        for where, fields in read_records(path):
            yield _row(where, fields)


def _row(where: str, fields: Any) -> TextRow:
    try:
        if isinstance(fields, BadRecordError):
            raise fields
        fields = {name: decoded(value, name) for name, value in fields.items()}
        for name in ("metadata", "rewriting"):
            if isinstance(fields.get(name), str):  # Parquet holds them as JSON text.
                fields[name] = json.loads(fields[name])
        return row_from_fields(fields)
    except (BadRecordError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: not a row of a corpus stage: {error}") from None


def _claim(folder: Path, stage: Stage) -> None:
    """Leave what is asked in a new folder; refuse one that holds something else."""
    text = json.dumps(stage.manifest(), indent=2, sort_keys=True, allow_nan=False) + "\n"
    path = folder / MANIFEST
    if not path.exists():
        strange = sorted(
            p.name for p in folder.iterdir() if p.name not in (".lock", MANIFEST + ".part")
        )
        if strange:
            raise UserError(
                f"{folder}: holds {strange[0]!r} and is no folder of a corpus stage; "
                "give an empty or a new folder"
            )
        write_text(path, text)
        return
    found = read_manifest(folder)
    asked = json.loads(text)
    different = [name for name in asked if found.get(name) != asked[name]]
    if different:
        raise UserError(
            f"{folder}: was begun with another {' and '.join(different)} (see {MANIFEST}); "
            "give another folder, or delete this one"
        )


def _write_shards(
    folder: Path,
    output: OutputConfig,
    rows_from: Callable[[int], Iterable[TextRow]],
    tell: Callable[[int], None],
) -> None:
    number = 0
    while (folder / f"counts-{number:05d}.json").exists():
        _journal(folder, number).unlink(missing_ok=True)
        number += 1
    in_shard = _repair(_journal(folder, number))
    done = number * output.rows_per_shard + in_shard
    opened = _open_journal(folder, number)
    try:
        for row in rows_from(done):
            if in_shard == output.rows_per_shard:
                opened.close()
                _seal(folder, number, output)
                number, in_shard = number + 1, 0
                opened = _open_journal(folder, number)
            with naming(folder):
                write_whole(opened, row_to_json(row).encode("utf-8") + b"\n")
            in_shard, done = in_shard + 1, done + 1
            tell(done)
    finally:
        opened.close()
    if in_shard or not number:
        _seal(folder, number, output)
        number += 1
    else:
        # A run that was killed after its last shard left nothing to do but the sum.
        _journal(folder, number).unlink()
    counts = [_read_counts(folder, shard) for shard in range(number)]
    write_text(folder / SUMMARY, to_text(sum(counts, Counts())))


def _journal(folder: Path, number: int) -> Path:
    return folder / f"journal-{number:05d}.jsonl"


def _open_journal(folder: Path, number: int) -> IO[bytes]:
    """Unbuffered: a row that was told of is with the system, whatever happens to this process."""
    return _journal(folder, number).open("ab", buffering=0)


def _repair(journal: Path) -> int:
    """Cut the journal behind its last whole row; returns how many there are."""
    if not journal.exists():
        return 0
    whole_rows, whole_bytes = 0, 0
    with journal.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n") or not _is_object(line):
                break
            whole_rows, whole_bytes = whole_rows + 1, whole_bytes + len(line)
    os.truncate(journal, whole_bytes)
    return whole_rows


def _is_object(line: bytes) -> bool:
    """After a power cut a line may be anything."""
    try:
        return isinstance(json.loads(line.decode("utf-8")), dict)
    except ValueError:
        return False


def _seal(folder: Path, number: int, output: OutputConfig) -> None:
    """Make the shard's files of its journal, which is then deleted."""
    journal = _journal(folder, number)
    counts = _count(journal)
    for side in ("kept", "rejected"):
        path = folder / f"{side}-{number:05d}.{output.format}"
        lines = _lines(journal, side == "kept")
        with atomic_file(path) as part, naming(folder):
            write_lines(part, lines, output.format)
    write_text(folder / f"counts-{number:05d}.json", to_text(counts))
    journal.unlink()


def _lines(journal: Path, kept: bool) -> Iterator[bytes]:
    with journal.open("rb") as lines:
        for line in lines:
            if (json.loads(line)["rejected_by"] is None) == kept:
                yield line


def _count(journal: Path) -> Counts:
    reasons: Counter[str] = Counter()
    read, kept, read_characters, kept_characters, kept_bytes = 0, 0, 0, 0, 0
    with journal.open("rb") as lines:
        for line in lines:
            fields = json.loads(line)
            read += 1
            read_characters += len(fields["text"])
            if fields["rejected_by"] is None:
                kept += 1
                kept_characters += len(fields["text"])
                kept_bytes += len(fields["text"].encode("utf-8"))
            else:
                reasons[f"{fields['rejected_by']}: {fields['reason']}"] += 1
    return Counts(
        num_read=read,
        num_kept=kept,
        num_rejected=reasons.total(),
        read_characters=read_characters,
        kept_characters=kept_characters,
        kept_bytes=kept_bytes,
        reasons=dict(sorted(reasons.items())),
    )


def _read_counts(folder: Path, number: int) -> Counts:
    path = folder / f"counts-{number:05d}.json"
    data = read_json(path, missing="run the stage again", remedy="delete it and run again")
    return from_dict(Counts, data, str(path))
