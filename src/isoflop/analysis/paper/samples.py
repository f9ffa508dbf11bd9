"""Test-time compute as lines of a table: one for each number of samples of each run.

Shapes in this file:
    lines   lines of the table with a score of several samples
"""

from dataclasses import replace

import numpy as np

from isoflop.analysis.tables.columns import SAMPLED
from isoflop.analysis.tables.run_table import RunTable


def by_samples(table: RunTable, *, each: str | None = None) -> RunTable | None:
    """A line for each number of samples of each run; columns TASK.pass_accuracy and
    TASK.majority_accuracy. None where nothing was sampled.

    Args:
        each: A setting of answering of which every value stays.
    """
    table = table.final_settings.sampled.one_setting(each)
    named: dict[int, dict[str, str]] = {}
    for name in table.numbers:
        task, _, last = name.rpartition(".")
        match = SAMPLED.fullmatch(last)
        if match:
            named.setdefault(int(match[2]), {})[f"{task}.{match[1]}_accuracy"] = name
    if not named or not len(table):
        return None
    columns = sorted({column for found in named.values() for column in found})
    numbers = {name: np.tile(values, len(named)) for name, values in table.numbers.items()}
    numbers["samples"] = np.repeat(np.array(sorted(named), dtype=float), len(table))
    nothing = np.full(len(table), np.nan)
    for column in columns:
        numbers[column] = np.concatenate(
            [
                table.number(found[column]) if column in (found := named[number]) else nothing
                for number in sorted(named)
            ]
        )
    return replace(
        table,
        numbers=numbers,
        texts={name: values * len(named) for name, values in table.texts.items()},
        places=table.places * len(named),
    )
