"""The plan of a study: what every cell costs, before anything is built.

`plan` counts, `plan_to_table` is for reading, `plan_to_json` for programs.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.config import UserError
from isoflop.design.estimate import (
    ONE_CPU_CORE,
    ComputePrecision,
    Machine,
    Ops,
    Recompute,
    estimate_memory,
    estimate_seconds,
)
from isoflop.design.family import (
    Cell,
    check_distinct_names,
    tokens_per_active_parameter,
    tokens_per_parameter,
)
from isoflop.model.count import (
    active_params,
    active_params_without_embeddings,
    total_params,
    train_flops_per_token_6n,
    train_flops_per_token_megatron,
)


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One cell of a study and what it costs. Figures are of one run, so of one seed."""

    cell: str
    seeds: tuple[int, ...]
    """The cell is trained once for each."""
    num_layers: int
    d_model: int
    d_expert: int
    num_experts: int
    top_k: int
    total_params: int
    active_params: int
    """Parameters that touch one token, embeddings included, router left out."""
    active_params_without_embeddings: int
    sparsity: float
    """1 - k/E."""
    density: float
    """k/E."""
    train_flops_per_token_megatron: int
    train_flops_per_token_6n: int
    train_tokens: int
    """Whole batches only."""
    train_flops: int
    """Forward and backward of the whole run, by Megatron-LM's count."""
    tpp: float
    """train_tokens / total_params."""
    active_tpp: float
    """train_tokens / active_params."""
    memory_bytes: int
    """Estimated peak of training."""
    estimated_seconds: float | None
    """Training time; None where the machine's speed is not known."""


def plan(
    cells: Sequence[Cell],
    *,
    train_tokens: int,
    batch_tokens: int,
    sequence_length: int,
    seeds: tuple[int, ...] = (0,),
    micro_batch_tokens: int | None = None,
    precision: ComputePrecision = "float32",
    ops: Ops = "native",
    recompute: Recompute = "none",
    fused_experts: bool = False,
    machine: Machine | None = ONE_CPU_CORE,
) -> list[PlanRow]:
    """Count every cell, in the order given.

    Args:
        train_tokens: Asked training tokens of one run; rounded down to whole batches.
        batch_tokens: Tokens of one optimiser step.
        micro_batch_tokens: Tokens of one forward pass, for the memory. None: the whole batch.
        precision, ops, recompute, fused_experts: For the memory, as in `estimate_memory`.
        machine: Speeds for the time. None: not known, and neither is the time.

    Raises:
        UserError: no cells, two cells of one name, less than one batch, a micro-batch that
            is no part of the batch, or a sequence longer than a cell's model reads.
    """
    _check(cells, train_tokens, batch_tokens, sequence_length, seeds)
    whole_tokens = train_tokens // batch_tokens * batch_tokens
    micro_tokens = batch_tokens if micro_batch_tokens is None else micro_batch_tokens
    if micro_tokens < 1 or batch_tokens % micro_tokens:
        raise UserError(
            f"micro_batch_tokens={micro_tokens} must divide batch_tokens={batch_tokens}"
        )
    rows = []
    for cell in cells:
        memory = estimate_memory(
            cell.model,
            micro_batch_tokens=micro_tokens,
            precision=precision,
            ops=ops,
            recompute=recompute,
            fused_experts=fused_experts,
        ).total
        seconds = None
        if machine is not None:
            seconds = estimate_seconds(
                cell.model,
                train_tokens=whole_tokens,
                batch_tokens=batch_tokens,
                sequence_length=sequence_length,
                machine=machine,
            )
        rows.append(_row(cell, seeds, whole_tokens, sequence_length, memory, seconds))
    return rows


def total_seconds(rows: Sequence[PlanRow]) -> float | None:
    """Training time of all cells and seeds, one after the other; None if any is not known."""
    times = [(row.estimated_seconds, len(row.seeds)) for row in rows]
    known = [seconds * runs for seconds, runs in times if seconds is not None]
    return sum(known) if len(known) == len(times) else None


def plan_to_json(rows: Sequence[PlanRow]) -> str:
    """The rows as an indented JSON list, one object a cell, exact numbers, null for not known."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2, allow_nan=False) + "\n"


def plan_to_table(rows: Sequence[PlanRow]) -> str:
    """The rows as a text table, as wide as it needs to be, and a line of sums below it."""
    # Here, not at the top: programs that only count need no terminal library.
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("cell", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.cell, *_figures(row))
    console = Console(width=_NO_WRAP_WIDTH, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([*lines, "", _summary(rows)]) + "\n"


def format_count(number: int) -> str:
    """Parameters or tokens to three significant digits: K thousand, M, B billion, T.

    >>> [format_count(n) for n in (12, 48_700, 320_160_256, 1_729_905_152)]
    ['12', '48.7K', '320M', '1.73B']
    """
    return _scaled(number, ("", "K", "M", "B", "T"))


def format_quantity(number: int) -> str:
    """FLOPs or bytes to three significant digits with powers of 1000: k, M, G, T, P, E.

    >>> [format_quantity(n) for n in (1_111_228_416, 999_900, 138_906_710_235_615_854_592)]
    ['1.11G', '1M', '139E']
    """
    return _scaled(number, ("", "k", "M", "G", "T", "P", "E"))


def format_seconds(seconds: float | None) -> str:
    """A length of time in the largest unit that leaves at least one; "-" if not known.

    >>> [format_seconds(s) for s in (12.4, 90.0, 5400.0, 2e5, None)]
    ['12 s', '1.5 min', '1.5 h', '2.3 d', '-']
    """
    if seconds is None:
        return "-"
    for unit, letters in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= unit:
            return f"{seconds / unit:,.1f} {letters}"
    return f"{seconds:.0f} s"


_MINUTE, _HOUR, _DAY = 60, 3600, 86_400

_NO_WRAP_WIDTH = 1000
"""Columns offered to the table: more than it can need, so that no figure is cut."""

_HEADINGS = (
    "seeds",
    "total",
    "active",
    "sparsity",
    "FLOP/token",
    "6N/token",
    "tokens",
    "FLOP",
    "TPP",
    "active TPP",
    "memory",
    "time",
)


def _figures(row: PlanRow) -> list[str]:
    """The row's figures in the order of `_HEADINGS`."""
    return [
        str(len(row.seeds)),
        format_count(row.total_params),
        format_count(row.active_params),
        f"{row.sparsity:.3f}",
        format_quantity(row.train_flops_per_token_megatron),
        format_quantity(row.train_flops_per_token_6n),
        format_count(row.train_tokens),
        f"{row.train_flops:.3e}",
        f"{row.tpp:.3g}",
        f"{row.active_tpp:.3g}",
        f"{format_quantity(row.memory_bytes)}B",
        format_seconds(row.estimated_seconds),
    ]


def _scaled(number: int, letters: tuple[str, ...]) -> str:
    for power, letter in enumerate(letters):
        unit = 1000**power
        # 999.5 of a unit would be rounded to 1e+03 of it: take the next unit.
        if number < 999.5 * unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def _summary(rows: Sequence[PlanRow]) -> str:
    runs = sum(len(row.seeds) for row in rows)
    flops = sum(row.train_flops * len(row.seeds) for row in rows)
    time = total_seconds(rows)
    text = f"{len(rows)} cells, {runs} runs, {flops:.3g} FLOP by Megatron-LM's count"
    return text if time is None else f"{text}, about {format_seconds(time)} one after the other"


def _row(
    cell: Cell,
    seeds: tuple[int, ...],
    train_tokens: int,
    sequence_length: int,
    memory: int,
    seconds: float | None,
) -> PlanRow:
    model = cell.model
    per_token = train_flops_per_token_megatron(model, sequence_length)
    return PlanRow(
        cell=cell.name,
        seeds=seeds,
        num_layers=model.num_layers,
        d_model=model.d_model,
        d_expert=model.d_expert,
        num_experts=model.num_experts,
        top_k=model.top_k,
        total_params=total_params(model),
        active_params=active_params(model),
        active_params_without_embeddings=active_params_without_embeddings(model),
        sparsity=model.sparsity,
        density=model.density,
        train_flops_per_token_megatron=per_token,
        train_flops_per_token_6n=train_flops_per_token_6n(model),
        train_tokens=train_tokens,
        train_flops=train_tokens * per_token,
        tpp=tokens_per_parameter(model, train_tokens),
        active_tpp=tokens_per_active_parameter(model, train_tokens),
        memory_bytes=memory,
        estimated_seconds=seconds,
    )


def _check(
    cells: Sequence[Cell],
    train_tokens: int,
    batch_tokens: int,
    sequence_length: int,
    seeds: tuple[int, ...],
) -> None:
    if not cells:
        raise UserError("a plan needs at least one cell")
    check_distinct_names(cells)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={seeds} must be one or more different numbers")
    if batch_tokens < 1 or train_tokens < batch_tokens:
        raise UserError(
            f"train_tokens={train_tokens} must be at least one batch of {batch_tokens} tokens"
        )
    for cell in cells:
        if not 1 <= sequence_length <= cell.model.sequence_length:
            raise UserError(
                f"{cell.name}: sequence_length={sequence_length} must be 1 to the model's "
                f"sequence_length={cell.model.sequence_length}"
            )
