"""From a task's name to the column that speaks for it."""

from typing import Literal

from isoflop.analysis.tables.columns import column_of
from isoflop.analysis.tables.run_table import RunTable, score_column
from isoflop.config import UserError

FIELDS = ("bits_per_byte", "accuracy")
"""Task loss first: it moves before accuracy does, and without steps."""

SPLITS = ("held_out", None, "seen")
"""Unseen questions first, then the split without a name."""

RECALL = "memory"
"""The probe whose questions are about stated facts: nothing of it can be held out (`Study`)."""


def direction(column: str) -> Literal["lower", "higher"]:
    """Which way the figure improves.

    Raises:
        UserError: it is no figure of how good a model is.
    """
    known = column_of(column)
    if known is None or known.better is None:
        raise UserError(
            f"{column} is no figure that a better model has lower or higher; name a loss, a task or one of "
            "its scores"
        )
    return known.better


def task_column(table: RunTable, name: str) -> str:
    """The column that `name` means: a column itself, or a task's loss, else its accuracy.

    Raises:
        UserError: neither a column nor a task, and the tasks there are; or a column that says nothing
            of how good a model is.
    """
    if name in table.numbers:
        direction(name)
        return name
    for field in FIELDS:
        for split in reversed(SPLITS) if name == RECALL else SPLITS:
            column = score_column(name, split, field)
            if table.has(column):
                return column
    tasks = sorted({task for task, _ in table.tasks})
    raise UserError(
        f"{table.name}: {name!r} is neither a column nor a task; tasks: {', '.join(tasks) or 'none'}, "
        f"losses: {', '.join(table.losses) or 'none'}"
    )
