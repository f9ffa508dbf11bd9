"""What a reader must know of a checked table: lines that enter no comparison, and why."""

import numpy as np

from isoflop.analysis.tables.budgets import cells_by_budget, cells_by_experiment
from isoflop.analysis.tables.columns import ANSWER_SETTINGS
from isoflop.analysis.tables.run_table import RunTable

COMPARED = ("total_params", "active_params", "num_experts", "top_k")
"""Columns without which a line enters no comparison at equal active parameters."""


def marks(table: RunTable) -> tuple[str, ...]:
    """Notes on lines left out of comparisons and on cells told apart by their tokens."""
    return (*_blanks(table), *_tokenizer(table), *_settings(table), *_budgets(table))


def _blanks(table: RunTable) -> list[str]:
    """Columns that some lines have and others lack."""
    found = []
    for name in COMPARED:
        if not table.has(name):
            continue
        blank = np.flatnonzero(np.isnan(table.number(name)))
        if blank.size:
            found.append(
                f"{name} is empty at {_places(table, blank)}: not in comparisons at equal active "
                "parameters, nor in laws of that column"
            )
    return found


def _tokenizer(table: RunTable) -> list[str]:
    named = {name for name in table.text("tokenizer") if name is not None}
    blank = np.flatnonzero([name is None for name in table.text("tokenizer")])
    if len(named) != 1 or not blank.size:
        return []
    return [f"tokenizer is empty at {_places(table, blank)}: taken as {named.pop()}"]


def _settings(table: RunTable) -> list[str]:
    """Measurements of one checkpoint under several settings, and runs that differ in theirs."""
    every = table.where(table.equal("stage", "pretrained"))
    kept = table.pretrained
    names = [name for name in ANSWER_SETTINGS if table.has(name)]
    found = []
    if len(kept) < len(every):
        found.append(
            f"{len(every) - len(kept)} lines measure a checkpoint again under another "
            f"{' or '.join(names)}: comparisons and laws take the line that leaves it empty, else "
            "that of the least, one a checkpoint"
        )
    for name in names:
        values = sorted(set(np.nan_to_num(kept.number(name), nan=-1.0).tolist()))
        if len(values) > 1:
            shown = ", ".join("empty" if value == -1 else f"{value:g}" for value in values)
            found.append(f"runs are compared across several values of {name}: {shown}")
    return found


def _budgets(table: RunTable) -> list[str]:
    by_study = cells_by_experiment(table)
    found = []
    for plain, apart, what in (
        (table.cells, by_study, "stand in several experiments"),
        (by_study, cells_by_budget(table), "end at several numbers of tokens"),
    ):
        cells = sorted({cell for cell, name in zip(plain, apart, strict=True) if cell != name})
        more = f" and {len(cells) - 1} cells more" if len(cells) > 1 else ""
        if cells:
            found.append(
                f"runs of cell {cells[0]}{more} {what}: each is compared as a cell of its own"
            )
    return found


def _places(table: RunTable, lines: np.ndarray) -> str:
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    return f"{table.places[int(lines[0])]}{more}"
