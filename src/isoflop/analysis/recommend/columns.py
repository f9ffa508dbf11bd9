"""From a task's name to the column that speaks for it."""

from isoflop.analysis.tables.run_table import RunTable, score_column
from isoflop.config import UserError

FIELDS = ("bits_per_byte", "accuracy")
"""Task loss first: it moves before accuracy does, and without steps."""

SPLITS = ("held_out", None, "seen")
"""Unseen questions first, then the split without a name."""

RECALL = "memory"
"""The probe whose questions are about stated facts: nothing of it can be held out (`Study`)."""


def task_column(table: RunTable, name: str) -> str:
    """The column that `name` means: a column itself, or a task's loss, else its accuracy.

    Raises:
        UserError: neither a column nor a task; names the tasks there are.
    """
    if name in table.numbers:
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
