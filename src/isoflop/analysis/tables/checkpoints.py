"""A table's lines as CheckpointRow, for the comparisons that a study's own report makes.

The inverse of `isoflop.analysis.table.table`: the lines of a study's table.csv come back as the
rows they were written from.
"""

import math
from dataclasses import replace

from isoflop.analysis.study import Study
from isoflop.analysis.tables.budgets import cells_by_budget
from isoflop.analysis.tables.columns import LOSS_FIELDS, SCORE_FIELDS
from isoflop.analysis.tables.run_table import RunTable, score_column
from isoflop.config import UserError
from isoflop.records import CellState, CheckpointRow, LossRow, ScoreRow

NEEDED = ("total_params", "active_params", "num_experts", "top_k")
"""Columns without which no comparison at equal active parameters can be made."""

DEFAULT_SPLIT = "held_out"
"""Of a score whose column names none: benchmarks ask what was not trained on."""

ALL_TEXT = "all text"
"""Source of a validation loss whose column names none."""


def study_of(table: RunTable) -> Study:
    """The table as a study: its final checkpoints' runs all done.

    Raises:
        UserError: a column that comparisons need is missing.
    """
    rows = checkpoint_rows(table)
    runs = {(row.cell, row.seed): row.run for row in rows if row.final}
    states = tuple(
        CellState(cell=cell, seed=seed, run=run, state="done", reason=None)
        for (cell, seed), run in runs.items()
    )
    return Study(name=table.name, rows=rows, states=states)


def checkpoint_rows(table: RunTable) -> tuple[CheckpointRow, ...]:
    """The pre-training lines as rows.

    Raises:
        UserError: a column that comparisons need is missing.
    """
    missing = table.missing(*NEEDED)
    if missing:
        raise UserError(
            f"{table.name}: comparisons at equal active parameters need {', '.join(missing)}; "
            "`isoflop fit` works without"
        )
    chosen = table.pretrained
    known = [
        all(_number(chosen, name, i) is not None for name in NEEDED) for i in range(len(chosen))
    ]
    names = cells_by_budget(chosen)
    return tuple(replace(_row(chosen, i), cell=names[i]) for i in range(len(chosen)) if known[i])


def _row(table: RunTable, i: int) -> CheckpointRow:
    experts, top_k = _whole(table, "num_experts", i), _whole(table, "top_k", i)
    tokens, total = _whole(table, "tokens", i), _whole(table, "total_params", i)
    active, step = _whole(table, "active_params", i), _count(table, "step", i)
    return CheckpointRow(
        experiment=table.text("experiment")[i] or table.name,
        cell=table.cells[i],
        seed=_count(table, "seed", i) or 0,
        run=table.runs[i],
        step=step if step is not None else tokens,
        tokens=tokens,
        final=_number(table, "final", i) == 1,
        num_layers=_count(table, "num_layers", i),
        d_model=_count(table, "d_model", i),
        d_expert=_count(table, "d_expert", i),
        num_experts=experts,
        top_k=top_k,
        sparsity=_number(table, "sparsity", i) or 1 - top_k / experts,
        density=_number(table, "density", i) or top_k / experts,
        total_params=total,
        active_params=active,
        train_flops=round(_number(table, "train_flops", i) or 6 * active * tokens),
        train_flops_6n=round(_number(table, "train_flops_6n", i) or 6 * active * tokens),
        tpp=_number(table, "tpp", i) or tokens / total,
        active_tpp=_number(table, "active_tpp", i) or tokens / active,
        train_loss=_number(table, "train_loss", i),
        balance_loss=_number(table, "balance_loss", i),
        max_expert_load=_number(table, "max_expert_load", i),
        tokens_per_second=_number(table, "tokens_per_second", i),
        seconds=_number(table, "seconds", i),
        losses=_losses(table, i),
        scores=_scores(table, i),
    )


def _losses(table: RunTable, i: int) -> tuple[LossRow, ...]:
    found = []
    step, tokens = _count(table, "step", i), _whole(table, "tokens", i)
    for name in table.numbers:
        parts = name.split(".")
        loss = _number(table, name, i)
        if len(parts) != 3 or parts[2] != "loss" or parts[2] not in LOSS_FIELDS or loss is None:
            continue
        prefix = f"{parts[0]}.{parts[1]}."
        found.append(
            LossRow(
                step=step if step is not None else tokens,
                tokens=tokens,
                source=parts[0],
                split=parts[1],
                loss=loss,
                standard_error=_number(table, prefix + "standard_error", i),
                num_tokens=_count(table, prefix + "num_tokens", i) or 0,
            )
        )
    if _number(table, "validation_loss", i) is not None:
        found.append(
            LossRow(
                step=step if step is not None else tokens,
                tokens=tokens,
                source=ALL_TEXT,
                split="validation",
                loss=_whole_number(table, "validation_loss", i),
                standard_error=None,
                num_tokens=0,
            )
        )
    return tuple(found)


def _scores(table: RunTable, i: int) -> tuple[ScoreRow, ...]:
    found = []
    step, tokens = _count(table, "step", i), _whole(table, "tokens", i)
    for task, split in table.tasks:
        values = {name: _number(table, score_column(task, split, name), i) for name in SCORE_FIELDS}
        if all(value is None for value in values.values()):
            continue
        counts = ("num_items", "num_scored", "num_ungradable", "num_joined")
        whole = {n: None if (v := values[n]) is None else round(v) for n in counts}
        found.append(
            ScoreRow(
                step=step if step is not None else tokens,
                tokens=tokens,
                task=task,
                split=split or DEFAULT_SPLIT,
                accuracy=values["accuracy"],
                accuracy_standard_error=values["accuracy_standard_error"],
                bits_per_byte=values["bits_per_byte"],
                bits_per_byte_standard_error=values["bits_per_byte_standard_error"],
                bits_per_token=values["bits_per_token"],
                bits_per_token_standard_error=values["bits_per_token_standard_error"],
                answer_bits=values["answer_bits"],
                answer_probability=values["answer_probability"],
                **whole,
            )
        )
    return tuple(found)


def _number(table: RunTable, name: str, i: int) -> float | None:
    if name not in table.numbers:
        return None
    value = float(table.numbers[name][i])
    return None if math.isnan(value) else value


def _count(table: RunTable, name: str, i: int) -> int | None:
    value = _number(table, name, i)
    return None if value is None else round(value)


def _whole(table: RunTable, name: str, i: int) -> int:
    return round(_whole_number(table, name, i))


def _whole_number(table: RunTable, name: str, i: int) -> float:
    value = _number(table, name, i)
    assert value is not None, f"{name} is among the columns that were checked"
    return value
