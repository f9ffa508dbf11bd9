"""All laws by name, and the reading of a law's inputs from a table."""

import numpy as np

from isoflop.analysis.laws.abnar import ABNAR
from isoflop.analysis.laws.chinchilla import CHINCHILLA
from isoflop.analysis.laws.clark import CLARK
from isoflop.analysis.laws.joint import JOINT
from isoflop.analysis.laws.kaplan import KAPLAN
from isoflop.analysis.laws.krajewski import KRAJEWSKI
from isoflop.analysis.laws.law import Inputs, Law
from isoflop.analysis.laws.ling import LING
from isoflop.analysis.tables.run_table import Numbers, RunTable
from isoflop.config import UserError

LAWS: dict[str, Law] = {
    law.name: law for law in (KAPLAN, CHINCHILLA, CLARK, KRAJEWSKI, JOINT, ABNAR, LING)
}


def find_law(name: str) -> Law:
    """The law of this name.

    Raises:
        UserError: no such law.
    """
    if name not in LAWS:
        raise UserError(f"law {name!r} must be one of {', '.join(LAWS)}")
    return LAWS[name]


def law_column(table: RunTable, column: str) -> Numbers | None:
    """A column that a law reads; "expansion" is num_experts / top_k. None where it is missing."""
    if column == "expansion":
        if not table.has("num_experts", "top_k"):
            return None
        found: Numbers = table.number("num_experts") / table.number("top_k")
        return found
    return table.number(column) if table.has(column) else None


def law_inputs(law: Law, table: RunTable) -> Inputs:
    """The law's variables at every line of the table; NaN where not known.

    Raises:
        UserError: a column that the law needs is missing.
    """
    found: dict[str, np.ndarray] = {}
    missing = []
    for given in law.inputs:
        values = law_column(table, given.column)
        if values is None:
            needs = "num_experts and top_k" if given.column == "expansion" else given.column
            missing.append(f"{needs} ({given.name}, {given.meaning})")
        else:
            found[given.name] = values
    if missing:
        raise UserError(f"{table.name}: the law {law.name} needs {'; '.join(missing)}")
    return found
