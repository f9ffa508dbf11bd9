"""One flat table of all checkpoints: table.csv and table.json, one line a checkpoint.

What GRPO made of a run's last checkpoint stands in lines below all of pre-training's: the facts of the
run are those of its pre-training, its losses are not measured again, and it is not final.

Columns, left to right:
    what it is     experiment, cell, seed, run, step, tokens, final
    its shape      num_layers ... active_tpp, as in records.CheckpointRow
    training       train_loss, balance_loss, max_expert_load
    work           train_flops_with_router: train_flops and the router's on top
    losses         SOURCE.SPLIT.loss, .standard_error, .num_tokens, as in records.LossRow;
                   SPLIT is "train" or "validation"
    after          stage ("pretrained" or "grpo"), grpo_step, grpo_learning_rate, grpo_corpus; only
                   where a line is after GRPO
    scores         TASK.SPLIT.FIELD, fields as in records.ScoreRow; SPLIT is "seen" or "held_out"
    samples        TASK.SPLIT.pass@N, TASK.SPLIT.majority@N of last checkpoints; only where drawn
    times          tokens_per_second, seconds

Times come last: all columns before them are the same bytes, whether a study was interrupted or
not. A figure that was not measured is an empty field in CSV and null in JSON. Numbers are written
so that reading gives them back exactly.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isoflop.analysis.families import train_flops_with_router
from isoflop.records import CheckpointRow, LossRow, ScoreRow, write_text
from isoflop.stage_records import SampledRow, StageRow

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

SAMPLED = {"pass": "coverage", "majority": "majority"}
"""Kinds of columns of samples, and the fields of SampledRow that they hold."""

PRETRAINED = "pretrained"
"""The stage of a line that is of pre-training alone."""

AFTER = ("stage", "grpo_step", "grpo_learning_rate", "grpo_corpus")
"""Fields of StageRow that become columns."""

TIMES = ("tokens_per_second", "seconds")
"""The last columns: they differ from run to run."""


def write_table(
    rows: Sequence[CheckpointRow], folder: Path, stages: Sequence[StageRow] = ()
) -> None:
    """Write table.csv and table.json into `folder`."""
    names, lines = table(rows, stages)
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


def table(
    rows: Sequence[CheckpointRow], stages: Sequence[StageRow] = ()
) -> tuple[tuple[str, ...], list[tuple[Value, ...]]]:
    """Names of the columns, and the lines by total parameters, cell, seed and step; GRPO's last.

    Args:
        stages: those of runs without a final row in `rows` are left out.
    """
    measured = [_Measured(row, None) for row in sort_rows(rows)]
    measured = _with_stages(measured, stages)
    after = any(one.after is not None and one.after.stage != PRETRAINED for one in measured)
    losses = sorted({(loss.source, loss.split) for row in rows for loss in row.losses})
    scores = sorted({(score.task, score.split) for one in measured for score in one.scores})
    samples = sorted(
        {(row.task, row.split, row.num_samples) for one in measured for row in one.sampled}
    )
    names = (
        *FACTS,
        "train_flops_with_router",
        *(AFTER if after else ()),
        *(f"{source}.{split}.{field}" for source, split in losses for field in LOSS_FIELDS),
        *(f"{task}.{split}.{field}" for task, split in scores for field in SCORE_FIELDS),
        *(f"{task}.{split}.{kind}@{n}" for task, split, n in samples for kind in SAMPLED),
        *TIMES,
    )
    return names, [_line(one, after, losses, scores, samples) for one in measured]


@dataclass(frozen=True)
class _Measured:
    """One line: a checkpoint's row, and which of its stages was measured, if any is told apart."""

    row: CheckpointRow
    after: StageRow | None

    @property
    def scores(self) -> tuple[ScoreRow, ...]:
        return self.row.scores

    @property
    def sampled(self) -> tuple[SampledRow, ...]:
        return () if self.after is None else self.after.sampled


def _with_stages(measured: Sequence[_Measured], stages: Sequence[StageRow]) -> list[_Measured]:
    """The lines of pre-training with their samples, then those after GRPO in the same order."""
    plain = {(one.cell, one.seed): one for one in stages if one.stage == PRETRAINED}
    later = [one for one in stages if one.stage != PRETRAINED]
    found = [
        _Measured(one.row, plain.get((one.row.cell, one.row.seed)) if one.row.final else None)
        for one in measured
    ]
    for row in (one.row for one in measured if one.row.final):
        own = [one for one in later if (one.cell, one.seed) == (row.cell, row.seed)]
        found += [_Measured(_after(row, one), one) for one in sorted(own, key=_place)]
    return found


def _place(stage: StageRow) -> tuple[str, float, int]:
    return stage.grpo_corpus or "", stage.grpo_learning_rate or 0.0, stage.grpo_step or 0


def _after(row: CheckpointRow, stage: StageRow) -> CheckpointRow:
    """The run's facts with what was measured after the stage."""
    return replace(
        row,
        final=False,
        train_loss=None,
        balance_loss=None,
        max_expert_load=None,
        tokens_per_second=None,
        seconds=None,
        losses=(),
        scores=stage.scores,
    )


def sort_rows(rows: Sequence[CheckpointRow]) -> list[CheckpointRow]:
    """Rows by total parameters, cell, seed and step, whatever order they finished in."""
    return sorted(rows, key=lambda row: (row.total_params, row.cell, row.seed, row.step))


def _line(
    one: _Measured,
    after: bool,
    losses: Sequence[tuple[str, str]],
    scores: Sequence[tuple[str, str]],
    samples: Sequence[tuple[str, str, int]],
) -> tuple[Value, ...]:
    row = one.row
    loss_rows = {(loss.source, loss.split): loss for loss in row.losses}
    score_rows = {(score.task, score.split): score for score in row.scores}
    drawn = {(found.task, found.split, found.num_samples): found for found in one.sampled}
    return (
        *(getattr(row, name) for name in FACTS),
        train_flops_with_router(row),
        *(_settings(one.after) if after else ()),
        *_fields(loss_rows, losses, LOSS_FIELDS),
        *_fields(score_rows, scores, SCORE_FIELDS),
        *(
            getattr(drawn[key], field) if key in drawn else None
            for key in samples
            for field in SAMPLED.values()
        ),
        *(getattr(row, name) for name in TIMES),
    )


def _settings(stage: StageRow | None) -> tuple[Value, ...]:
    if stage is None:
        return (PRETRAINED, *(None,) * (len(AFTER) - 1))
    return tuple(getattr(stage, name) for name in AFTER)


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
