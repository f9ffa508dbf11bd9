"""Open a model for the doctor, and show its rows on a terminal or as JSON."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from isoflop.doctor.hugging_face import open_hugging_face
from isoflop.doctor.hugging_face_files import is_own
from isoflop.doctor.law import LawRow
from isoflop.doctor.laws import LAWS, examine
from isoflop.doctor.own import open_own
from isoflop.doctor.subject import Subject
from isoflop.model.checkpoint import check_device

STYLES = {"pass": "green", "fail": "red", "error": "red", "not applicable": "dim"}


def open_subject(folder: Path, device: str) -> Subject:
    """A checkpoint of ours or a local Hugging Face directory.

    Raises:
        UserError: neither, not a Mixture of Experts, an unsupported variant, or broken files.
    """
    check_device(device)
    return open_own(folder, device) if is_own(folder) else open_hugging_face(folder, device)


def diagnose(folder: Path, *, device: str, seed: int, console: Console) -> list[LawRow]:
    """A row for every law; `console` shows the law being measured."""
    subject = open_subject(folder, device)
    with console.status(f"examining {subject.name}") as status:
        return examine(subject, seed, lambda law: status.update(f"{subject.name}: {law.name}"))


def is_healthy(rows: list[LawRow]) -> bool:
    """Whether no law fails and none could not be measured for an error."""
    return not any(row.verdict in ("fail", "error") for row in rows)


def rows_to_json(rows: list[LawRow]) -> str:
    """One object a law."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2, allow_nan=False)


def show(rows: list[LawRow], console: Console) -> None:
    """A table of all laws, then what each failing law means and which bug it knows."""
    table = Table(title=rows[0].model, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    cells = [(row.law, row.verdict, number(row.value), expected_text(row)) for row in rows]
    for place, name in enumerate(("law", "verdict", "measured", "must be")):
        width = max(len(name), *(len(line[place]) for line in cells))
        justify: Literal["left", "right"] = "right" if place > 1 else "left"
        table.add_column(name, justify=justify, no_wrap=True, min_width=width)
    # Only the unit may be cut where the terminal is narrow.
    table.add_column("unit", no_wrap=True)
    for row, (law, verdict, measured, expected) in zip(rows, cells, strict=True):
        shown = f"[{STYLES[row.verdict]}]{verdict}[/]"
        table.add_row(law, shown, measured, expected, row.unit if measured else "")
    console.print(table)
    for row in rows:
        if row.verdict != "pass":
            _show_row(row, console)
    counts = Counter[str](row.verdict for row in rows)
    console.print(
        ", ".join(f"{counts[verdict]} {verdict}" for verdict in STYLES if counts[verdict])
    )


def laws_to_table() -> str:
    """Every law as the reference page lists it, in Markdown."""
    lines = ["| law | what it says | measured | knows the bug of |", "| --- | --- | --- | --- |"]
    for law in LAWS:
        tolerance = f", ± {law.tolerance:.2g}" if law.tolerance else ""
        lines.append(f"| `{law.name}` | {law.meaning} | {law.unit}{tolerance} | {law.catches} |")
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    """Four digits; nothing where nothing was measured.

    >>> number(1.99999), number(2e-9), number(None)
    ('2', '2e-09', '')
    """
    return "" if value is None else f"{value:.4g}"


def expected_text(row: LawRow) -> str:
    """What the value must be, with its tolerance."""
    if row.expected is None:
        return ""
    tolerance = f" ± {row.tolerance:.2g}" if row.tolerance else ""
    return number(row.expected) + tolerance


def _show_row(row: LawRow, console: Console) -> None:
    reason = f" ({row.reason})" if row.reason else ""
    text = f"{row.law}: {row.verdict}{reason}"
    if row.verdict in ("fail", "error"):
        text += f"\n    {row.meaning}\n    known from {row.catches}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
