"""Models that could be trained: the table's widths with other experts and k, counted.

A width of the table is a base: layers, d_model, width of an expert, and the parameters that all
tokens share, which follow from any of its cells. Then for E experts, k of them a token,

    total  = shared + E (3 d h + d) L          active = shared + k 3 d h L
    FLOPs a token = those of a measured cell + 6 x 3 d h L for each expert more

where h is the width of an expert and L the layers. Widths between those of the table are not
proposed: nothing was measured there. A table without shapes offers its own cells alone.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from isoflop.analysis.tables.derive import FLOPS_PER_PARAM_TOKEN
from isoflop.analysis.tables.run_table import RunTable
from isoflop.model.count import EXPERT_MATRICES

BEYOND = 2
"""How many times the largest number of experts that was run is still proposed. Chosen."""

EQUAL_COUNTS = 0.02
"""Relative difference at which a cell's counts agree with the formula above."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One model, without its tokens."""

    name: str
    """The cell's, or the shape's where several cells (of other tokens) or none have it."""
    cells: tuple[str, ...]
    """Cells of this shape; () where none was run."""
    num_experts: int
    top_k: int
    total_params: int
    active_params: int
    flops_per_token: float
    num_layers: int | None = None
    d_model: int | None = None
    d_expert: int | None = None

    @property
    def measured(self) -> bool:
        """Whether a cell of this shape was run, with other tokens perhaps."""
        return bool(self.cells)

    @property
    def expansion(self) -> float:
        """E / k."""
        return self.num_experts / self.top_k


def candidates(table: RunTable) -> tuple[Candidate, ...]:
    """The cells of the table, and what can be counted beside them."""
    measured = _measured(table)
    shapes = {(c.num_layers or 0, c.d_model or 0, c.d_expert or 0) for c in measured}
    found = list(measured)
    known = {(c.num_layers, c.d_model, c.d_expert, c.num_experts, c.top_k) for c in measured}
    for shape in sorted(shapes):
        cells = [c for c in measured if (c.num_layers, c.d_model, c.d_expert) == shape]
        # A cell without a shape is its own only candidate.
        for one in _beside(cells) if cells else []:
            if (*shape, one.num_experts, one.top_k) not in known:
                found.append(one)
    return tuple(found)


def _measured(table: RunTable) -> tuple[Candidate, ...]:
    """One candidate a shape that was run."""
    final = table.final
    found: dict[Candidate, Candidate] = {}
    for i, cell in enumerate(final.cells):
        one = _candidate(final, i, cell)
        if one is None:
            continue
        shape = replace(one, name="", cells=(), flops_per_token=round(one.flops_per_token, -2))
        before = found.get(shape)
        if before is None:
            found[shape] = one
        elif cell not in before.cells:
            name = f"d{one.d_model}-" if one.d_model is not None else ""
            name += f"E{one.num_experts}-k{one.top_k}"
            if one.d_model is None:
                name = before.name
            found[shape] = replace(before, name=name, cells=(*before.cells, cell))
    return tuple(found.values())


def _candidate(final: RunTable, i: int, cell: str) -> Candidate | None:
    """The model of one line; None where its counts are not given."""
    total, active = _whole(final, "total_params", i), _whole(final, "active_params", i)
    tokens, flops = _whole(final, "tokens", i), float(final.number("train_flops")[i])
    if total is None or active is None or not tokens or not np.isfinite(flops):
        return None
    return Candidate(
        name=cell,
        cells=(cell,),
        num_experts=_whole(final, "num_experts", i) or 1,
        top_k=_whole(final, "top_k", i) or 1,
        total_params=total,
        active_params=active,
        flops_per_token=flops / tokens,
        num_layers=_whole(final, "num_layers", i),
        d_model=_whole(final, "d_model", i),
        d_expert=_whole(final, "d_expert", i),
    )


def _beside(cells: list[Candidate]) -> list[Candidate]:
    """Other E and k for the width of these cells; none where its counts are not the formula's."""
    first = cells[0]
    layers, width, hidden = first.num_layers, first.d_model, first.d_expert
    if layers is None or width is None or hidden is None:
        return []
    expert = EXPERT_MATRICES * width * hidden * layers
    router = width * layers
    shared = first.active_params - first.top_k * expert
    for cell in cells:
        counted = shared + cell.num_experts * (expert + router)
        if abs(counted / cell.total_params - 1) > EQUAL_COUNTS:
            return []
    most = BEYOND * max(cell.num_experts for cell in cells)
    least = min(cell.num_experts for cell in cells)
    found = []
    for power in range(math.ceil(math.log2(least)), math.floor(math.log2(most)) + 1):
        for top_k in sorted({cell.top_k for cell in cells}):
            if top_k > 2**power:
                continue
            experts = 2**power
            more = FLOPS_PER_PARAM_TOKEN * (top_k - first.top_k) * expert
            found.append(
                Candidate(
                    name=f"d{width}-E{experts}-k{top_k}",
                    cells=(),
                    num_experts=experts,
                    top_k=top_k,
                    total_params=shared + experts * (expert + router),
                    active_params=shared + top_k * expert,
                    flops_per_token=first.flops_per_token + more,
                    num_layers=layers,
                    d_model=width,
                    d_expert=hidden,
                )
            )
    return found


def _whole(table: RunTable, name: str, i: int) -> int | None:
    if name not in table.numbers:
        return None
    value = table.numbers[name][i]
    return None if np.isnan(value) else round(float(value))
