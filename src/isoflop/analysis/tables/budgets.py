"""What one cell's name may hide: a run of twice the tokens, or of another study, is no seed of the cell.

Shapes in this file:
    lines   lines of the table, in the order of the file
"""

from isoflop.analysis.tables.run_table import RunTable, group_lines
from isoflop.design.plan import format_count

EQUAL_TOKENS = 0.01
"""Relative difference of training tokens within one budget: seeds that end on another batch."""


def cells_by_budget(table: RunTable) -> tuple[str, ...]:
    """The cell of each line; with its run's training tokens where the cell's runs end at several, and with
    its study where several have a cell of this name."""
    tokens, ends = table.number("tokens"), dict[str, float]()
    for run, places in group_lines(table.run_keys).items():
        ends[run] = float(tokens[places].max())
    runs: dict[str, set[str]] = {}
    for run, cell in zip(table.run_keys, cells_by_experiment(table), strict=True):
        runs.setdefault(cell, set()).add(run)
    names: dict[str, str] = {}
    for cell, own in runs.items():
        budgets = _budgets([ends[run] for run in own])
        for run in own:
            budget = max(start for start in budgets if start <= ends[run])
            names[run] = cell if len(budgets) == 1 else f"{cell}, {_label(budget, budgets)} tokens"
    return tuple(names[run] for run in table.run_keys)


def cells_by_experiment(table: RunTable) -> tuple[str, ...]:
    """The cell of each line, with its study where several have a cell of this name."""
    studies: dict[str, set[str | None]] = {}
    lines = list(zip(table.cells, table.text("experiment"), strict=True))
    for cell, experiment in lines:
        studies.setdefault(cell, set()).add(experiment)
    return tuple(
        cell if len(studies[cell]) == 1 else f"{experiment or 'no experiment'}: {cell}"
        for cell, experiment in lines
    )


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
