"""The plan of a study whose runs are spread over ranks: memory and traffic of one rank, by cell."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.config import UserError
from isoflop.design.family import Cell
from isoflop.design.layout import Layout
from isoflop.design.plan import format_quantity
from isoflop.design.ranks import (
    RankMemory,
    RankStep,
    RankTraffic,
    estimate_rank_memory,
    estimate_rank_traffic,
)


@dataclass(frozen=True, kw_only=True)
class RankPlanRow:
    """One cell, and what each of its ranks needs and sends."""

    cell: str
    layout: Layout
    micro_batch_sequences: int
    micro_batches: int
    """Of one rank in one optimiser step."""
    memory: RankMemory
    traffic: RankTraffic


def plan_ranks(
    cells: Sequence[Cell],
    layout: Layout,
    *,
    batch_sequences: int,
    micro_batch_sequences: int | None,
    step: RankStep,
) -> list[RankPlanRow]:
    """Memory and traffic of one rank of every cell's run.

    Args:
        step: Everything but the micro-batches, which follow from the batch and the layout.

    Raises:
        UserError: no cells, or a cell or batch that the layout cannot spread.
    """
    if not cells:
        raise UserError("a plan needs at least one cell")
    micro = layout.micro_batch_sequences(batch_sequences, micro_batch_sequences, step.balance_scope)
    micro_batches = batch_sequences // layout.data_parallel // micro
    own = dataclasses.replace(step, micro_batch_sequences=micro, micro_batches=micro_batches)
    rows = []
    for cell in cells:
        layout.check_model(cell.model, cell.name)
        rows.append(
            RankPlanRow(
                cell=cell.name,
                layout=layout,
                micro_batch_sequences=micro,
                micro_batches=micro_batches,
                memory=estimate_rank_memory(cell.model, layout, own),
                traffic=estimate_rank_traffic(cell.model, layout, own),
            )
        )
    return rows


def rank_plan_to_json(rows: Sequence[RankPlanRow]) -> str:
    """The rows as an indented JSON list, with the sums of memory and traffic."""
    values = [
        {
            **dataclasses.asdict(row),
            "memory_bytes": row.memory.total,
            "sent_bytes_per_step": row.traffic.total,
        }
        for row in rows
    ]
    return json.dumps(values, indent=2) + "\n"


def rank_plan_to_table(rows: Sequence[RankPlanRow]) -> str:
    """The rows as a text table: bytes of one rank; sent in one optimiser step."""
    headings = (
        "cell memory states gathered activations all-to-all all-gather reduce-scatter all-reduce"
    )
    lines = [headings.split()]
    for row in rows:
        memory, sent = row.memory, row.traffic
        figures = [memory.total, memory.states, memory.gathered, memory.activations]
        figures += [sent.all_to_all, sent.all_gather, sent.reduce_scatter, sent.all_reduce]
        lines.append([row.cell, *(f"{format_quantity(number)}B" for number in figures)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    text = [
        line[0].ljust(widths[0])
        + "".join(f"  {cell.rjust(w)}" for cell, w in zip(line[1:], widths[1:], strict=True))
        for line in lines
    ]
    first = rows[0]
    summary = (
        f"each of {first.layout.text()}: {first.micro_batches} micro-batches of "
        f"{first.micro_batch_sequences} sequences a step; the last four columns are bytes sent to "
        "other ranks in a step"
    )
    return "\n".join([*text, "", summary]) + "\n"
