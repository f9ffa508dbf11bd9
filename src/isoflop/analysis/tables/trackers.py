"""Runs as trackers keep them: Weights & Biases' offline folders and TensorBoard's event files.

A run's page has figures by step; its shape comes from the run's config (Weights & Biases) or from a
file columns.json, an object of columns of docs/reference.md, in the run's folder. Where neither
gives the tokens at a step, `tokens_per_step` in them does.

Sources: the .wandb file is a LevelDB log, 32 KiB blocks of records with a 7-byte head each (the
log format of LevelDB's documentation), after 7 bytes of its own; the records are the package's
own protocol buffers. Read as written by wandb 0.31; TensorBoard as by tensorboard 2.21.
"""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoflop.analysis.tables.columns import ALIASES, column_of
from isoflop.analysis.tables.columns_file import check_tokens_per_step, read_object
from isoflop.analysis.tables.events import event_rows
from isoflop.analysis.tables.files import RawTable
from isoflop.config import UserError

SOURCE_LOSS = re.compile(r"loss/([^/]+)/(train|validation)")
"""Our mirror's name of a source's loss."""

LOG_BLOCK = 32_768
LOG_HEAD = struct.Struct("<IHB")
"""Checksum, length and kind of one record of a LevelDB log."""
WANDB_START = b":W&B"
WANDB_HEAD_BYTES = 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4

COLUMNS_FILE = "columns.json"


def is_wandb(path: Path) -> bool:
    """A .wandb file, or a folder that has some."""
    return path.suffix == ".wandb" or (path.is_dir() and any(path.rglob("*.wandb")))


def is_tensorboard(path: Path) -> bool:
    """An event file, or a folder that has some."""
    if path.is_dir():
        return any(path.rglob("events.out.tfevents.*"))
    return path.name.startswith("events.out.tfevents.")


def read_wandb(path: Path) -> RawTable:
    """One line for each step of each offline run that a loss or a score was logged at."""
    files = [path] if path.is_file() else sorted(path.rglob("*.wandb"))
    lines: list[dict[str, Any]] = []
    places: list[str] = []
    for file in files:
        name, config, rows = _wandb_run(file)
        _add_run(lines, places, file, {"run": name, **config}, rows)
    return _table(path, lines, places)


def read_tensorboard(path: Path) -> RawTable:
    """One line for each step of each run; a run is a folder with event files."""
    files = [path] if path.is_file() else sorted(path.rglob("events.out.tfevents.*"))
    runs: dict[Path, list[dict[str, Any]]] = {}
    for file in files:
        runs.setdefault(file.parent, []).extend(event_rows(file))
    lines: list[dict[str, Any]] = []
    places: list[str] = []
    for folder, rows in runs.items():
        _add_run(lines, places, folder, {"run": folder.name, **_fixed_columns(folder)}, rows)
    return _table(path, lines, places)


def _fixed_columns(folder: Path) -> dict[str, Any]:
    file = folder / COLUMNS_FILE
    if not file.is_file():
        return {}
    found = read_object(file, "write an object of columns and values")
    check_tokens_per_step(found.get("tokens_per_step"), str(file))
    return found


def _add_run(
    lines: list[dict[str, Any]],
    places: list[str],
    where: Path,
    fixed: dict[str, Any],
    rows: list[dict[str, Any]],
) -> None:
    """Lines of one run: figures of one step joined, its fixed columns on each."""
    by_step: dict[float, dict[str, Any]] = {}
    for row in rows:
        renamed = _renamed(row)
        step = renamed.get("step")
        if step is not None:
            by_step.setdefault(float(step), {}).update(renamed)
    kept = {n: v for n, v in fixed.items() if _is_known(n) or n == "tokens_per_step"}
    per_step = kept.pop("tokens_per_step", None)
    for step, found in sorted(by_step.items()):
        line = {**kept, **found}
        if "tokens" not in line and isinstance(per_step, int | float):
            line["tokens"] = step * per_step
        # A page begins at step 0 with figures of an untrained model, which no law is about.
        if line.get("tokens") == 0:
            continue
        lines.append(line)
        places.append(f"{where}, step {step:g}")


def _is_known(name: str) -> bool:
    return name == "run" or column_of(name) is not None or name.lower() in ALIASES


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """Figures under our names; what has none is left out."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        source = SOURCE_LOSS.fullmatch(name)
        ours = f"{source[1]}.{source[2]}.loss" if source else ALIASES.get(name.lower(), name)
        # A step that the page logs itself counts before the tracker's own.
        if ours and _is_known(ours) and not (name == "_step" and "step" in row):
            found[ours] = value
    return found


def _table(path: Path, lines: list[dict[str, Any]], places: list[str]) -> RawTable:
    if not lines:
        raise UserError(f"{path}: no run there logged a figure that docs/reference.md names")
    if not any("tokens" in line for line in lines):
        raise UserError(
            f"{path}: no run tells its tokens; log `tokens`, or put tokens_per_step into the run's "
            f"config (Weights & Biases) or into {COLUMNS_FILE} in its folder (TensorBoard)"
        )
    # A score may be logged at a step that no tokens were logged at: no law can place it.
    known = ["tokens" in line for line in lines]
    left = len(lines) - sum(known)
    note = f"steps without tokens: {left}, left out" if left else None
    return RawTable(
        name=path.stem,
        lines=tuple(line for line, kept in zip(lines, known, strict=True) if kept),
        places=tuple(place for place, kept in zip(places, known, strict=True) if kept),
        notes=(note,) if note else (),
    )


def _wandb_run(file: Path) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Name, config and logged rows of one offline run."""
    try:
        from google.protobuf.message import DecodeError
        from wandb.proto import wandb_internal_pb2
    except ModuleNotFoundError:
        raise UserError(
            f"{file}: reading offline runs needs wandb: pip install 'isoflop[wandb]'"
        ) from None
    name, config, rows = file.stem, {}, []
    # The generated module builds its classes while it is imported, out of a type checker's sight.
    new_record: Any = vars(wandb_internal_pb2)["Record"]
    for number, data in enumerate(_log_records(file), start=1):
        record = new_record()
        try:
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name = record.run.display_name or record.run.run_id or name
                config.update(_items(record.run.config.update))
            elif kind == "config":
                config.update(_items(record.config.update))
            elif kind == "history":
                rows.append(_items(record.history.item))
        except (DecodeError, ValueError):
            raise UserError(
                f"{file}: record {number} is damaged; copy the run's file again, or leave it out"
            ) from None
    check_tokens_per_step(config.get("tokens_per_step"), f"{file}: the run's config")
    return name, config, rows


def _items(items: Any) -> dict[str, Any]:
    """Names and values of a protocol buffer's items; nested names with a slash."""
    return {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for item in items
        if item.value_json
    }


def _log_records(file: Path) -> Iterator[bytes]:
    """The records of a LevelDB log; a run that was cut off ends with its last whole record."""
    data = file.read_bytes()
    if not data.startswith(WANDB_START):
        raise UserError(f"{file}: not an offline run of Weights & Biases")
    place, parts = WANDB_HEAD_BYTES, b""
    while place + LOG_HEAD.size <= len(data):
        left = LOG_BLOCK - place % LOG_BLOCK
        if left < LOG_HEAD.size:
            place += left
            continue
        _, length, kind = LOG_HEAD.unpack_from(data, place)
        place += LOG_HEAD.size
        part = data[place : place + length]
        if len(part) < length or kind not in (WHOLE, FIRST, MIDDLE, LAST):
            return
        place += length
        parts = part if kind in (WHOLE, FIRST) else parts + part
        if kind in (WHOLE, LAST):
            yield parts
