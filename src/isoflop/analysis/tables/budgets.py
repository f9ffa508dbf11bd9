"""Token budgets under one cell: a run of twice the tokens is no seed of the shorter one.

Shapes in this file:
    lines   lines of the table, in the order of the file
"""

from isoflop.analysis.tables.run_table import RunTable, group_lines
from isoflop.design.plan import format_count

EQUAL_TOKENS = 0.01
"""Relative difference of training tokens within one budget: seeds that end on another batch."""


def cells_by_budget(table: RunTable) -> tuple[str, ...]:
    """The cell of each line; with its run's training tokens where the cell's runs end at several."""
    tokens, ends = table.number("tokens"), dict[str, float]()
    for run, places in group_lines(table.run_keys).items():
        ends[run] = float(tokens[places].max())
    runs: dict[str, set[str]] = {}
    for run, cell in zip(table.run_keys, table.cells, strict=True):
        runs.setdefault(cell, set()).add(run)
    names: dict[str, str] = {}
    for cell, own in runs.items():
        budgets = _budgets([ends[run] for run in own])
        for run in own:
            budget = max(start for start in budgets if start <= ends[run])
            names[run] = cell if len(budgets) == 1 else f"{cell}, {_label(budget, budgets)} tokens"
    return tuple(names[run] for run in table.run_keys)


def _budgets(ends: list[float]) -> list[float]:
    """The least tokens of each budget."""
    found: list[float] = []
    for end in sorted(ends):
        if not found or end > found[-1] * (1 + EQUAL_TOKENS):
            found.append(end)
    return found


def _label(budget: float, budgets: list[float]) -> str:
    short = [format_count(round(one)) for one in budgets]
    return format_count(round(budget)) if len(set(short)) == len(short) else f"{budget:.0f}"
