"""From lines as read to a typed table: refuse what cannot mean anything, mark what must be known.

Refused, with file, line and remedy: missing columns, text where a number belongs, zero or negative
losses, shares outside 0 to 1, two different lines of one run and step, two architectures under one
name, k above E. Marked in the table's notes: NaN (read as not measured), equal lines given twice,
several tokenizers (losses in nats are left out), a missing seed, every derived column.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from isoflop.analysis.tables.columns import (
    ALIASES,
    COLUMNS,
    SETTINGS,
    Column,
    column_of,
    in_other_letters,
    is_outcome,
)
from isoflop.analysis.tables.derive import derive
from isoflop.analysis.tables.files import RawTable
from isoflop.analysis.tables.marks import marks
from isoflop.analysis.tables.run_table import RunTable
from isoflop.config import UserError

EMPTY = (None, "", "null", "None", "NA", "N/A", "-")
"""How files write that something was not measured."""

NOT_A_NUMBER = ("nan", "inf", "+inf", "-inf", "infinity", "-infinity")

SHAPE = (
    *("num_layers", "d_model", "d_expert", "num_experts", "top_k"),
    *("total_params", "active_params"),
)
"""Columns that make an architecture."""

FLAGS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


def check_table(raw: RawTable) -> RunTable:
    """The typed table of these lines.

    Raises:
        UserError: the first thing that cannot be read, with its place and a remedy.
    """
    if not raw.lines:
        raise UserError(f"{raw.name}: the table has no lines; it needs at least one run")
    notes = list(raw.notes)
    lines = _rename(raw, notes)
    names = list(dict.fromkeys(name for line in lines for name in line))
    _require_columns(raw.name, names)
    notes += [
        f"column {old} is not read: write {new}" for old, new in in_other_letters(names).items()
    ]
    numbers: dict[str, np.ndarray] = {}
    texts: dict[str, tuple[str | None, ...]] = {}
    for name in names:
        column = column_of(name)
        if column is None:
            continue
        values = [line.get(name) for line in lines]
        if column.kind == "text":
            texts[name] = tuple(None if value in EMPTY else str(value) for value in values)
        else:
            numbers[name] = _numbers(name, column, values, raw.places, notes)
    table = RunTable(
        name=_name(raw.name, texts.get("experiment", ())),
        numbers=numbers,
        texts=texts,
        places=raw.places,
        notes=tuple(notes),
        unknown=tuple(name for name in names if column_of(name) is None),
    )
    _check_filled(table)
    table = derive(_one_tokenizer(table))
    _check_sense(table)
    _check_cells(table)
    table = _without_duplicates(table)
    return replace(table, notes=(*table.notes, *marks(table)))


def _name(file: str, experiments: tuple[str | None, ...]) -> str:
    """The experiment's name where all lines are of one, else the file's."""
    found = set(experiments)
    only = next(iter(found)) if len(found) == 1 else None
    return only or file


def _rename(raw: RawTable, notes: list[str]) -> list[dict[str, Any]]:
    """Lines with known other names of columns replaced by ours."""
    present = {name for line in raw.lines for name in line}
    renamed = {
        old: new for old in present if (new := ALIASES.get(old.lower())) and new not in present
    }
    twice = sorted(new for new in set(renamed.values()) if list(renamed.values()).count(new) > 1)
    if twice:
        olds = sorted(old for old, new in renamed.items() if new == twice[0])
        raise UserError(
            f"{raw.name}: the columns {', '.join(olds)} all mean {twice[0]}; name one {twice[0]}"
        )
    notes += [f"column {old} was read as {new}" for old, new in sorted(renamed.items())]
    return [{renamed.get(name, name): v for name, v in line.items()} for line in raw.lines]


def _require_columns(table: str, names: list[str]) -> None:
    known = set(names)
    missing = [n for n, c in COLUMNS.items() if c.need == "required" and n not in known]
    # A dense table has one count of parameters, and a cell can be named by its shape.
    if "total_params" in known and "num_experts" not in known and "active_params" in missing:
        missing.remove("active_params")
    if "cell" in missing and ("d_model" in known or "total_params" in known or "run" in known):
        missing.remove("cell")
    if missing:
        almost = ", ".join(f"{new} for {old}" for old, new in in_other_letters(names).items())
        raise UserError(
            f"{table}: the table lacks the column{'s' if len(missing) > 1 else ''} "
            f"{', '.join(missing)}; it has {', '.join(names) or 'none'}. "
            + (f"Write {almost}. " if almost else "")
            + "docs/reference.md lists all columns with their units"
        )
    if not any(is_outcome(name) for name in names):
        raise UserError(
            f"{table}: no column holds a loss or a score; it needs train_loss, validation_loss, "
            "SOURCE.validation.loss, TASK.bits_per_byte or TASK.accuracy"
        )


def _numbers(
    name: str, column: Column, values: list[Any], places: tuple[str, ...], notes: list[str]
) -> np.ndarray:
    """One column of numbers; NaN and infinite values are noted and read as not measured."""
    found = np.full(len(values), math.nan)
    broken = []
    for place, value in enumerate(values):
        if value in EMPTY:
            continue
        number = _number(name, column, value, places[place])
        if math.isfinite(number):
            found[place] = number
            _check_range(name, column, number, places[place])
        else:
            broken.append(places[place])
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        notes.append(f"{name} is NaN or infinite at {broken[0]}{more}: read as not measured")
    return found


def _number(name: str, column: Column, value: Any, place: str) -> float:
    if column.kind == "flag":
        flag = FLAGS.get(str(value).strip().lower())
        if flag is None:
            raise UserError(f"{place}: {name} is {value!r}; it must be true or false")
        return flag
    text = str(value).strip()
    if text.lower() in NOT_A_NUMBER:
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise UserError(
            f"{place}: {name} is {value!r}; it must be a number, or empty where not measured"
        ) from None


def _check_range(name: str, column: Column, number: float, place: str) -> None:
    unit = f" {column.unit}" if column.unit else ""
    if column.kind == "share" and not 0 <= number <= 1:
        hint = "; divide percentages by 100" if 1 < number <= 100 else ""
        raise UserError(f"{place}: {name} is {number:g}; it must be a share, 0 to 1{hint}")
    if column.kind == "count" and (number != round(number) or number < (0 if column.zero else 1)):
        least = 0 if column.zero else 1
        raise UserError(f"{place}: {name} is {number:g}; it must be a whole number from {least} on")
    if column.positive and number <= 0:
        raise UserError(
            f"{place}: {name} is {number:g}; it must be above 0{unit and ',' + unit}. "
            "Leave it empty where it was not measured"
        )
    if name.endswith("standard_error") and number < 0:
        raise UserError(f"{place}: {name} is {number:g}; it must be 0 or above")


def _one_tokenizer(table: RunTable) -> RunTable:
    """With several tokenizers, losses by token are left out: their tokens are not the same."""
    found = sorted({name for name in table.text("tokenizer") if name is not None})
    if len(found) < 2:
        return table
    by_token = [
        name
        for name in table.numbers
        if name in ("train_loss", "validation_loss") or name.endswith((".loss", ".bits_per_token"))
    ]
    left = [name for name in table.numbers if is_outcome(name) and name not in by_token]
    if not left:
        raise UserError(
            f"{table.name}: runs of {len(found)} tokenizers ({', '.join(found)}) cannot be compared "
            "by losses a token; add validation_bits_per_byte, or TASK.bits_per_byte, or give one "
            "tokenizer's runs"
        )
    note = (
        f"{len(found)} tokenizers ({', '.join(found)}): "
        f"{', '.join(by_token) or 'no column'} left out, as their tokens are not the same; "
        "bits per byte and shares remain"
    )
    numbers = {name: values for name, values in table.numbers.items() if name not in by_token}
    return RunTable(
        name=table.name,
        numbers=numbers,
        texts=table.texts,
        places=table.places,
        notes=(*table.notes, note),
        unknown=table.unknown,
    )


def _check_filled(table: RunTable) -> None:
    """Every line needs its tokens, and its cell where lines are named by it."""
    empty = {"tokens": np.isnan(table.number("tokens"))}
    if table.has("cell"):
        empty["cell"] = np.array([cell is None for cell in table.text("cell")])
    for name, places in empty.items():
        if places.any():
            raise UserError(
                f"{table.places[int(np.flatnonzero(places)[0])]}: {name} is empty; every line needs "
                "it: fill it in, or leave the line out"
            )


def _check_sense(table: RunTable) -> None:
    """What no run can be: more experts a token than there are, more active parameters than all."""
    pairs = (
        ("top_k", "num_experts", "k is the number of experts that see one token"),
        ("active_params", "total_params", "active are those that one token touches"),
    )
    for small, large, why in pairs:
        if not table.has(small, large):
            continue
        bad = np.flatnonzero(table.number(small) > table.number(large))
        if bad.size:
            place = int(bad[0])
            raise UserError(
                f"{table.places[place]}: {small} is {table.number(small)[place]:g}, above "
                f"{large} {table.number(large)[place]:g}; {why}"
            )


def _check_cells(table: RunTable) -> None:
    """A cell is one architecture: its seeds and checkpoints are averaged, so they must be alike."""
    for name in SHAPE:
        if name not in table.numbers:
            continue
        values, first = table.numbers[name], dict[str, int]()
        for place, cell in enumerate(table.cells):
            if math.isnan(values[place]):
                continue
            before = first.setdefault(cell, place)
            if values[place] != values[before]:
                raise UserError(
                    f"{table.places[place]}: {name} of cell {cell} is {values[place]:g}, and "
                    f"{values[before]:g} in {table.places[before]}; a cell is one architecture, "
                    "give each its own name in the column cell"
                )


def _without_duplicates(table: RunTable) -> RunTable:
    """Equal lines once; two different lines of one run, step and setting are refused."""
    first: dict[tuple[object, ...], int] = {}
    keep = np.ones(len(table), dtype=bool)
    keys = ("experiment", "cell", "run", "seed", "tokens", "step", *SETTINGS)
    columns = [
        table.texts[name] if name in table.texts else _hashable(table.numbers[name])
        for name in keys
        if name in table.columns
    ]
    for place, key in enumerate(zip(*columns, strict=True)):
        if key not in first:
            first[key] = place
            continue
        before = first[key]
        if table.line(before) != table.line(place):
            raise UserError(
                f"{table.places[place]}: the same cell, seed, tokens and setting as "
                f"{table.places[before]}, with other figures; number the seeds in a column seed, "
                "or the runs in a column run"
            )
        keep[place] = False
    if keep.all():
        return table
    left = table.where(keep)
    note = f"{int((~keep).sum())} lines given twice with equal figures: counted once"
    return RunTable(
        name=left.name,
        numbers=left.numbers,
        texts=left.texts,
        places=left.places,
        notes=(*left.notes, note),
        unknown=left.unknown,
    )


def _hashable(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
