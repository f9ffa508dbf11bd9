"""One flat table of all checkpoints: table.csv and table.json, one line a checkpoint.

Columns, left to right:
    what it is     experiment, cell, seed, run, step, tokens, final
    its shape      num_layers ... active_tpp, as in records.CheckpointRow
    training       train_loss, balance_loss, max_expert_load
    work           train_flops_with_router: train_flops and the router's on top
    losses         SOURCE.SPLIT.loss, .standard_error, .num_tokens, as in records.LossRow;
                   SPLIT is "train" or "validation"
    scores         TASK.SPLIT.FIELD, fields as in records.ScoreRow; SPLIT is "seen" or "held_out"
    times          tokens_per_second, seconds

Times come last: all columns before them are the same bytes, whether a study was interrupted or
not. A figure that was not measured is an empty field in CSV and null in JSON. Numbers are written
so that reading gives them back exactly.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from isoflop.analysis.families import train_flops_with_router
from isoflop.records import CheckpointRow, LossRow, ScoreRow, write_text

Value = str | int | float | bool | None

FACTS = (
    *("experiment", "cell", "seed", "run", "step", "tokens", "final"),
    *("num_layers", "d_model", "d_expert", "num_experts", "top_k", "sparsity", "density"),
    *("total_params", "active_params", "train_flops", "train_flops_6n", "tpp", "active_tpp"),
    *("train_loss", "balance_loss", "max_expert_load"),
)
"""Fields of CheckpointRow, in the order of the columns."""

LOSS_FIELDS = ("loss", "standard_error", "num_tokens")
"""Fields of LossRow that become columns."""

SCORE_FIELDS = (
    *("accuracy", "accuracy_standard_error", "num_items", "num_scored", "num_ungradable"),
    *("bits_per_byte", "bits_per_byte_standard_error"),
    *("bits_per_token", "bits_per_token_standard_error"),
    *("answer_bits", "answer_probability", "num_joined"),
)
"""Fields of ScoreRow that become columns."""

TIMES = ("tokens_per_second", "seconds")
"""The last columns: they differ from run to run."""


def write_table(rows: Sequence[CheckpointRow], folder: Path) -> None:
    """Write table.csv and table.json into `folder`."""
    names, lines = table(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_csv_field(value) for value in line] for line in lines)
    write_text(folder / "table.csv", text.getvalue())
    objects = [
        json.dumps(dict(zip(names, line, strict=True)), ensure_ascii=False, allow_nan=False)
        for line in lines
    ]
    write_text(folder / "table.json", "[\n" + ",\n".join(objects) + "\n]\n")


def table(rows: Sequence[CheckpointRow]) -> tuple[tuple[str, ...], list[tuple[Value, ...]]]:
    """Names of the columns, and the lines by total parameters, cell, seed and step."""
    ordered = sort_rows(rows)
    losses = sorted({(loss.source, loss.split) for row in rows for loss in row.losses})
    scores = sorted({(score.task, score.split) for row in rows for score in row.scores})
    names = (
        *FACTS,
        "train_flops_with_router",
        *(f"{source}.{split}.{field}" for source, split in losses for field in LOSS_FIELDS),
        *(f"{task}.{split}.{field}" for task, split in scores for field in SCORE_FIELDS),
        *TIMES,
    )
    return names, [_line(row, losses, scores) for row in ordered]


def sort_rows(rows: Sequence[CheckpointRow]) -> list[CheckpointRow]:
    """Rows by total parameters, cell, seed and step, whatever order they finished in."""
    return sorted(rows, key=lambda row: (row.total_params, row.cell, row.seed, row.step))


def _line(
    row: CheckpointRow, losses: Sequence[tuple[str, str]], scores: Sequence[tuple[str, str]]
) -> tuple[Value, ...]:
    loss_rows = {(loss.source, loss.split): loss for loss in row.losses}
    score_rows = {(score.task, score.split): score for score in row.scores}
    return (
        *(getattr(row, name) for name in FACTS),
        train_flops_with_router(row),
        *_fields(loss_rows, losses, LOSS_FIELDS),
        *_fields(score_rows, scores, SCORE_FIELDS),
        *(getattr(row, name) for name in TIMES),
    )


def _fields(
    found: Mapping[tuple[str, str], LossRow | ScoreRow],
    keys: Sequence[tuple[str, str]],
    fields: Sequence[str],
) -> list[Value]:
    """The fields of each wanted row in turn; None for all fields of a row that is missing."""
    return [
        getattr(found[key], field) if key in found else None for key in keys for field in fields
    ]


def _csv_field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)
