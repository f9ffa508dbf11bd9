"""Which points of a table a law is fitted to, and which of them share their luck.

Shapes in this file:
    points   runs that enter the fit
    designs  different settings: points of one design differ in their seed alone

Only final checkpoints enter unless all are asked for: under a learning rate that falls to the end
of its run, an earlier checkpoint is not what a shorter run would give.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from isoflop.analysis.laws.catalogue import law_inputs
from isoflop.analysis.laws.law import Inputs, Law
from isoflop.analysis.tables.budgets import cells_by_budget
from isoflop.analysis.tables.run_table import RunTable
from isoflop.config import UserError

Checkpoints = Literal["final", "all"]

SPARE_DESIGNS = 2
"""Designs that a fit needs beyond its coefficients: fewer leave nothing to judge it by."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """What a law is fitted to."""

    law: Law
    column: str
    """The table's column of the response."""
    inputs: Inputs
    response: Float[np.ndarray, " points"]
    cluster: Int[np.ndarray, " points"]
    """Points whose errors are not independent of each other: those of one cell."""
    design: Int[np.ndarray, " points"]
    flops: Float[np.ndarray, " points"]
    names: tuple[str, ...]
    """Cell and seed of each, for people."""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.response)

    @property
    def num_clusters(self) -> int:
        """Groups of points with errors of their own."""
        return len(np.unique(self.cluster))

    @property
    def num_designs(self) -> int:
        """Different settings."""
        return len(np.unique(self.design))

    def where(self, mask: np.ndarray) -> "Points":
        """The points where `mask` holds."""
        chosen = np.flatnonzero(mask)
        return Points(
            law=self.law,
            column=self.column,
            inputs={name: values[mask] for name, values in self.inputs.items()},
            response=self.response[mask],
            cluster=_numbered(self.cluster[mask]),
            design=_numbered(self.design[mask]),
            flops=self.flops[mask],
            names=tuple(self.names[int(i)] for i in chosen),
            notes=self.notes,
        )


def points_of(
    table: RunTable, law: Law, column: str | None = None, checkpoints: Checkpoints = "final"
) -> Points:
    """The points of `table` that `law` can be fitted to.

    Raises:
        UserError: as `known_points`, or too few of them; says how many are needed.
    """
    found = known_points(table, law, column, checkpoints)
    require_enough(found, table.name)
    return found


def known_points(
    table: RunTable, law: Law, column: str | None = None, checkpoints: Checkpoints = "final"
) -> Points:
    """The points of `table` at which `law` can be evaluated, however few.

    Args:
        column: Response; default: the table's validation loss, else its training loss.

    Raises:
        UserError: no such column, a column of the law missing, or no line that has them all.
    """
    chosen = table.final if checkpoints == "final" else table.pretrained
    name = column or default_response(table, law)
    response = chosen.number(name)
    inputs = law_inputs(law, chosen)
    usable = np.isfinite(response) & (response > 0)
    for values in inputs.values():
        usable &= np.isfinite(values)
    notes = list(table.notes)
    left = int((~usable).sum())
    if left:
        notes.append(
            f"{left} of {len(chosen)} lines lack {name} or a variable of the law: left out"
        )
    kept = chosen.where(usable)
    inputs = {key: values[usable] for key, values in inputs.items()}
    designs = np.stack([inputs[given.name] for given in law.inputs], axis=1)
    if not usable.any():
        raise UserError(f"{table.name}: no line has {name} and all variables of the law {law.name}")
    return Points(
        law=law,
        column=name,
        inputs=inputs,
        response=response[usable],
        cluster=_numbered(np.array(kept.cells)),
        design=_numbered(designs),
        flops=kept.number("train_flops"),
        names=kept.runs,
        notes=(*notes, *_one_value_notes(law, inputs), *_seed_notes(kept)),
    )


def default_response(table: RunTable, law: Law) -> str:
    """The column that a law is about where none is named.

    Raises:
        UserError: several fit, or none.
    """
    if law.response == "efficiency_leverage":
        return "efficiency_leverage"
    for name in ("validation_loss", *(n for n in table.losses if n.endswith(".validation.loss"))):
        same = [n for n in table.losses if n.endswith(".validation.loss")]
        if table.has(name) and (name == "validation_loss" or len(same) == 1):
            return name
    if table.has("train_loss"):
        return "train_loss"
    why = next((f" ({note})" for note in table.notes if "tokenizers (" in note), "")
    raise UserError(
        f"{table.name}: name the column to fit with --column; "
        f"losses there: {', '.join(table.losses) or 'none'}{why}"
    )


def require_enough(points: Points, table: str) -> None:
    """Refuse a fit with fewer designs than coefficients and two to spare."""
    needed = len(points.law.coefficient_names) + SPARE_DESIGNS
    if points.num_designs < needed:
        raise UserError(
            f"{table}: {points.law.name} has {len(points.law.coefficient_names)} coefficients and "
            f"needs at least {needed} different settings with {points.column}; "
            f"the table has {points.num_designs}. Add cells, or fit a law with fewer coefficients"
        )


def _numbered(values: np.ndarray) -> Int[np.ndarray, " points"]:
    """Equal values (or rows) as equal numbers from 0 on."""
    found: Int[np.ndarray, " points"] = np.unique(values, axis=0, return_inverse=True)[1]
    return found.reshape(-1)


def _one_value_notes(law: Law, inputs: Inputs) -> list[str]:
    return [
        f"{given.column} has one value in all runs: what it changes cannot be told from these points"
        for given in law.inputs
        if np.ptp(inputs[given.name]) <= 1e-9 * abs(inputs[given.name]).max(initial=0.0)
    ]


def _seed_notes(table: RunTable) -> list[str]:
    seeds: dict[str, set[str]] = {}
    for cell, run in zip(cells_by_budget(table), table.run_keys, strict=True):
        seeds.setdefault(cell, set()).add(run)
    most = max((len(runs) for runs in seeds.values()), default=0)
    if most == 1:
        return [
            "one seed a cell: the spread of seeds is read from the scatter about the law, which "
            "holds the law's own misfit too"
        ]
    return []
