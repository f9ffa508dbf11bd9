"""The ledger: every figure ever measured on each checkpoint, joined from the run folders.

    <folder>/experiment.json the experiment's config
    <folder>/ledger.jsonl    CheckpointRow, one a checkpoint of pre-training
    <folder>/stages.jsonl    StageRow: samples of last checkpoints, and all that was measured after GRPO
    <folder>/cells.jsonl     CellState, one a run
    <folder>/corpus.jsonl    SourceRow;  <folder>/mixture.jsonl  MixtureRow
    <folder>/funnel.jsonl    FunnelRow
    <folder>/env.json        environment of the runs, and the command

Written anew from the folders each time, so it cannot disagree with them.
"""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from isoflop.config import UserError, to_text
from isoflop.folders import environment, read_environments
from isoflop.model.count import (
    active_params,
    total_params,
    train_flops_per_token_6n,
    train_flops_per_token_megatron,
)
from isoflop.posttrain.config import GrpoConfig
from isoflop.records import (
    CellState,
    CheckpointRow,
    FunnelRow,
    LossRow,
    MixtureRow,
    ScoreRow,
    SourceRow,
    StepRow,
    TimingRow,
    read_json,
    read_rows,
    write_rows,
    write_text,
)
from isoflop.stage_records import SampledRow, StageRow
from isoflop.sweep.study import PlannedRun, StudyMap

COMMAND_FILE = "command.json"
"""In a study's folder: the last command that ran it, as the user typed it."""

FAILURE_FILE = "FAILED"
"""In a run's training folder: why its last attempt failed."""


def write_ledger(study: StudyMap, root: Path) -> list[CellState]:
    """Join all finished runs and write the ledger's files; returns where each run stands."""
    states = [run_state(study, root, run) for run in study.runs]
    # What was measured of a run whose GRPO failed or waits stands in the ledger all the same.
    done = [run for run in study.runs if study.folder(root, run.evaluate).done]
    write_rows(
        root / "ledger.jsonl", [row for run in done for row in checkpoint_rows(study, root, run)]
    )
    write_rows(root / "stages.jsonl", [row for run in done for row in stage_rows(study, root, run)])
    write_rows(root / "cells.jsonl", states)
    write_text(root / "experiment.json", to_text(study.experiment))
    sources: list[SourceRow] = []
    for stage in study.corpora:
        sources += read_rows(root / stage.path / "source.jsonl", SourceRow)
    write_rows(root / "corpus.jsonl", sources)
    steps: list[FunnelRow] = []
    for stage in study.corpora:
        if (path := root / stage.path / "funnel.jsonl").exists():
            steps += read_rows(path, FunnelRow)
    write_rows(root / "funnel.jsonl", steps)
    mixture = read_rows(root / done[0].train.path / "mixture.jsonl", MixtureRow) if done else []
    write_rows(root / "mixture.jsonl", mixture)
    write_text(root / "env.json", json.dumps(_environment(root, done), indent=2) + "\n")
    return states


def _environment(root: Path, done: list[PlannedRun]) -> dict[str, Any]:
    """The first run's environment, the user's command, and what was not the same in all runs."""
    command = root / COMMAND_FILE
    found: list[dict[str, Any]] = []
    for run in done:
        trained = (run.train, *(one.train for one in run.grpo))
        for path in (root / stage.path / "env.json" for stage in trained):
            found += read_environments(path) if path.exists() else []
    first = found[0] if found else environment()
    differing = {
        name: sorted({json.dumps(one.get(name)) for one in found})
        for name in first
        if any(one.get(name) != first[name] for one in found)
    }
    return {
        **first,
        "command": read_json(command, missing="", remedy="run again") if command.exists() else None,
        "differs_between_runs": differing,
    }


def run_state(study: StudyMap, root: Path, run: PlannedRun) -> CellState:
    """Whether a run is done, failed or waiting."""
    state, reason = "waiting", None
    failure = root / run.train.path / FAILURE_FILE
    stages = (run.evaluate, *(one.evaluate for one in run.grpo))
    if all(study.folder(root, stage).done for stage in stages):
        state = "done"
    elif failure.exists():
        state, reason = "failed", failure.read_text(encoding="utf-8").strip()
    return CellState(cell=run.cell, seed=run.seed, run=run.name, state=state, reason=reason)


def record_failure(root: Path, run: PlannedRun, reason: str) -> None:
    """Leave the reason of a failed run in its folder."""
    write_text(root / run.train.path / FAILURE_FILE, reason + "\n")


def clear_failure(root: Path, run: PlannedRun) -> None:
    """Forget an earlier failure; the run is tried again."""
    (root / run.train.path / FAILURE_FILE).unlink(missing_ok=True)


def checkpoint_rows(study: StudyMap, root: Path, run: PlannedRun) -> list[CheckpointRow]:
    """One row for each checkpoint of a finished run, in the order of steps.

    Raises:
        UserError: a finished run lacks rows; the file is named.
    """
    train = root / run.train.path
    steps = list(read_rows(train / "steps.jsonl", StepRow))
    timings = {row.step: row for row in read_rows(train / "timings.jsonl", TimingRow)}
    losses, scores = defaultdict(list), defaultdict(list)
    for loss in read_rows(train / "losses.jsonl", LossRow):
        losses[loss.step].append(loss)
    for score in read_rows(root / run.evaluate.path / "scores.jsonl", ScoreRow):
        scores[score.step].append(score)
    asked = any((root / stage.path / "items.jsonl").exists() for stage in study.corpora)
    checkpoints = sorted(losses)
    config = study.experiment.train
    complete = len(checkpoints) == config.num_checkpoints and checkpoints[-1] == config.num_steps
    _require(complete, train / "losses.jsonl", config.num_steps, train)
    joined = []
    before = 0
    for step in checkpoints:
        part = [row for row in steps if before < row.step <= step]
        _require(part and part[-1].step == step, train / "steps.jsonl", step, train)
        if asked:
            _require(scores[step], root / run.evaluate.path / "scores.jsonl", step, train)
        found = tuple(losses[step]), tuple(scores[step])
        joined.append(_join(study, run, mean_row(part, before), timings.get(step), *found))
        before = step
    return joined


def stage_rows(study: StudyMap, root: Path, run: PlannedRun) -> list[StageRow]:
    """Samples of the run's last checkpoint, and every checkpoint of its finished runs of GRPO."""
    found = []
    sampled = _sampled(root / run.evaluate.path)
    if sampled:
        found.append(_stage_row(run, "pretrained", None, None, (), sampled))
    for planned in run.grpo:
        if not study.folder(root, planned.evaluate).done:
            continue
        config, folder = study.experiment.grpo[planned.number], root / planned.evaluate.path
        scores = list(read_rows(folder / "scores.jsonl", ScoreRow))
        sampled = _sampled(folder)
        for step in sorted({row.step for row in scores} | {row.step for row in sampled}):
            of_step = tuple(row for row in scores if row.step == step)
            drawn = tuple(row for row in sampled if row.step == step)
            found.append(_stage_row(run, "grpo", step, config, of_step, drawn))
    return found


def _sampled(folder: Path) -> tuple[SampledRow, ...]:
    path = folder / "sampled.jsonl"
    return tuple(read_rows(path, SampledRow)) if path.exists() else ()


def _stage_row(
    run: PlannedRun,
    stage: str,
    step: int | None,
    config: GrpoConfig | None,
    scores: tuple[ScoreRow, ...],
    sampled: tuple[SampledRow, ...],
) -> StageRow:
    return StageRow(
        cell=run.cell,
        seed=run.seed,
        run=run.name,
        stage=stage,
        grpo_step=step,
        grpo_learning_rate=None if config is None else config.learning_rate,
        grpo_corpus=None if config is None else config.train.label,
        scores=scores,
        sampled=sampled,
    )


def mean_row(rows: list[StepRow], before: int) -> StepRow:
    """The last row with the mean train loss of all steps after `before`.

    Training rows cover few and different numbers of steps, so one of them alone
    says more of its batches than of the model.
    """
    starts = [before, *(row.step for row in rows[:-1])]
    weights = [row.step - start for row, start in zip(rows, starts, strict=True)]
    total = sum(row.train_loss * weight for row, weight in zip(rows, weights, strict=True))
    return replace(rows[-1], train_loss=total / sum(weights))


def _require(present: object, path: Path, step: int, train: Path) -> None:
    if not present:
        raise UserError(
            f"{path}: rows up to step {step} are missing in a finished run; delete {train} and run again"
        )


def _join(
    study: StudyMap,
    run: PlannedRun,
    step: StepRow,
    timing: TimingRow | None,
    losses: tuple[LossRow, ...],
    scores: tuple[ScoreRow, ...],
) -> CheckpointRow:
    model = study.cell(run.cell).model
    total, active = total_params(model), active_params(model)
    length = study.experiment.train.sequence_length
    loads = [max(layer) * model.num_experts for layer in step.expert_load]
    return CheckpointRow(
        experiment=study.experiment.name,
        cell=run.cell,
        seed=run.seed,
        run=run.name,
        step=step.step,
        tokens=step.tokens,
        final=step.step == study.experiment.train.num_steps,
        num_layers=model.num_layers,
        d_model=model.d_model,
        d_expert=model.d_expert,
        num_experts=model.num_experts,
        top_k=model.top_k,
        sparsity=model.sparsity,
        density=model.density,
        total_params=total,
        active_params=active,
        train_flops=train_flops_per_token_megatron(model, length) * step.tokens,
        train_flops_6n=train_flops_per_token_6n(model) * step.tokens,
        tpp=step.tokens / total,
        active_tpp=step.tokens / active,
        train_loss=step.train_loss,
        balance_loss=fmean(step.balance_loss),
        max_expert_load=max(loads),
        tokens_per_second=timing.tokens_per_second if timing else None,
        seconds=timing.seconds if timing else None,
        losses=losses,
        scores=scores,
    )
