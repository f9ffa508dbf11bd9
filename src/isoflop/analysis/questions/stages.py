"""What training after pre-training, and computing more while answering, change.

Columns: `stage` tells measurements after pre-training apart ("grpo"); TASK.pass@N and
TASK.majority@N are accuracies with N samples a question.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from isoflop.analysis.laws.catalogue import law_column
from isoflop.analysis.questions.equal_loss import clustered_slope
from isoflop.analysis.statistics import CONFIDENCE, Estimate, estimate
from isoflop.analysis.tables.budgets import cells_by_budget
from isoflop.analysis.tables.columns import SAMPLED
from isoflop.analysis.tables.run_table import RunTable, group_lines


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a stage changes in one figure, run by run."""

    stage: str
    column: str
    gains: dict[str, Estimate]
    """After less before, by cell, over its seeds."""
    overall: Estimate | None
    """Over the cells' means, one each."""
    per_doubling: float | None
    """Change of the gain with each doubling of E/k: below 0, sparse cells gain less."""
    low: float | None
    high: float | None
    unpaired: tuple[str, ...]
    """Runs with the one measurement and not the other."""
    reason: str | None
    """Why there is no trend."""


def change_by_stage(table: RunTable, column: str, stage: str) -> Change:
    """Compare each run's `column` after `stage` with the same run's final pre-training checkpoint.

    Where the stage was measured at several steps, the last counts.
    """
    before = _by_run(table.final, column)
    later = table.where(table.equal("stage", stage)).one_setting()
    after = _by_run(last_step(later), column)
    paired = sorted(set(before) & set(after))
    name_of = dict(zip(table.run_keys, table.runs, strict=True))
    unpaired = tuple(sorted(name_of[run] for run in set(before) ^ set(after)))
    cells: dict[str, list[float]] = {}
    cell_of = dict(zip(table.run_keys, cells_by_budget(table), strict=True))
    for run in paired:
        cells.setdefault(cell_of[run], []).append(after[run] - before[run])
    gains = {cell: estimate(values) for cell, values in sorted(cells.items())}
    slope, low, high, reason = _trend(table, cells)
    return Change(
        stage=stage,
        column=column,
        gains=gains,
        overall=estimate([found.mean for found in gains.values()]) if gains else None,
        per_doubling=slope,
        low=low,
        high=high,
        unpaired=unpaired,
        reason=reason,
    )


def _by_run(table: RunTable, column: str) -> dict[str, float]:
    if column not in table.numbers:
        return {}
    values = table.number(column)
    return {
        run: float(value)
        for run, value in zip(table.run_keys, values, strict=True)
        if math.isfinite(value)
    }


SETTINGS = ("grpo_corpus", "grpo_learning_rate")
"""Columns that tell several runs of one stage on one checkpoint apart."""


@dataclass(frozen=True, kw_only=True)
class StageSetting:
    """A stage as it was done to every run."""

    stage: str
    label: str
    """What tells it from the stage's other settings, in words; "" where it is the only one."""
    table: RunTable
    """All lines of pre-training, and those after the stage with this setting."""


def stage_settings(table: RunTable) -> tuple[StageSetting, ...]:
    """Every stage after pre-training with each of its settings, in the order of the lines."""
    keys = [_setting_of(table, place) for place in range(len(table))]
    stages = table.text("stage")
    later = dict.fromkeys(
        (str(stage), key)
        for stage, key in zip(stages, keys, strict=True)
        if stage not in (None, "pretrained")
    )
    several = {stage for stage, _ in later if sum(one == stage for one, _ in later) > 1}
    found = []
    for stage, key in later:
        kept = [
            own in (None, "pretrained") or (own, other) == (stage, key)
            for own, other in zip(stages, keys, strict=True)
        ]
        label = _label(key) if stage in several else ""
        found.append(StageSetting(stage=stage, label=label, table=table.where(np.array(kept))))
    return tuple(found)


def _setting_of(table: RunTable, place: int) -> tuple[str | None, float | None]:
    corpus = table.text(SETTINGS[0])[place]
    if SETTINGS[1] not in table.numbers:
        return corpus, None
    rate = float(table.number(SETTINGS[1])[place])
    return corpus, None if math.isnan(rate) else rate


def _label(key: tuple[str | None, float | None]) -> str:
    corpus, rate = key
    parts = [f"on {corpus}"] if corpus is not None else []
    return ", ".join([*parts, f"learning rate {rate:g}"] if rate is not None else parts)


def before_and_after(table: RunTable) -> RunTable:
    """Final lines of pre-training, and each run's last line of every stage and setting."""
    table = table.one_setting()
    keys = [
        f"{run}|{stage}|{_setting_of(table, place)}"
        for place, (run, stage) in enumerate(zip(table.run_keys, table.text("stage"), strict=True))
    ]
    later = ~table.equal("stage", "pretrained")
    keep = (table.number("final") == 1) | later
    if table.has("grpo_step"):
        steps = table.number("grpo_step")
        for places in group_lines(keys).values():
            measured = [place for place in places if later[place] and not math.isnan(steps[place])]
            last = max((steps[place] for place in measured), default=None)
            keep[[place for place in measured if steps[place] != last]] = False
    return table.where(keep)


def last_step(table: RunTable) -> RunTable:
    """Only the last step of each run's stage."""
    if not table.has("grpo_step"):
        return table
    steps = table.number("grpo_step")
    keep = np.zeros(len(table), dtype=bool)
    for places in group_lines(table.run_keys).values():
        keep[max(places, key=lambda place: -1.0 if math.isnan(steps[place]) else steps[place])] = (
            True
        )
    return table.where(keep)


def _trend(
    table: RunTable, cells: dict[str, list[float]]
) -> tuple[float | None, float | None, float | None, str | None]:
    """Slope of the gain over log2(E/k) with its clustered interval."""
    expansion = law_column(table, "expansion")
    if expansion is None:
        return None, None, None, "num_experts and top_k are not given"
    places = dict(zip(cells_by_budget(table), expansion, strict=True))
    x, y, labels = [], [], []
    for number, (cell, gains) in enumerate(cells.items()):
        x += [math.log2(places[cell])] * len(gains)
        y += gains
        labels += [number] * len(gains)
    if len(set(x)) < 3:
        return None, None, None, f"{len(set(x))} values of E/k were measured before and after"
    across = np.array(x)
    design = np.stack([across - across.mean(), np.ones(len(x))], axis=1)
    slope, error, freedom = clustered_slope(design, np.array(y), np.array(labels))
    half = error * float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
    return slope, slope - half, slope + half, None


@dataclass(frozen=True, kw_only=True)
class SampledCurve:
    """Accuracy of one cell against samples a question."""

    cell: str
    task: str
    kind: str
    """"pass" or "majority"."""
    samples: tuple[int, ...]
    accuracies: tuple[Estimate, ...]
    """Over seeds, one for each number of samples."""


def sampled_curves(table: RunTable, stage: str | None = None) -> tuple[SampledCurve, ...]:
    """Every curve of accuracy against samples among final pre-training checkpoints.

    Args:
        stage: among last checkpoints after this stage instead; of one setting, see `stage_settings`.
    """
    columns: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in table.numbers:
        task, _, last = name.rpartition(".")
        match = SAMPLED.fullmatch(last)
        if match and task:
            columns.setdefault((task, match[1]), []).append((int(match[2]), name))
    found = []
    final = table.final_settings
    if stage is not None:
        final = last_step(table.where(table.equal("stage", stage)).sampled)
    final = final.sampled.one_setting()
    for (task, kind), named in sorted(columns.items()):
        for cell, places in group_lines(cells_by_budget(final)).items():
            points = []
            for number, name in sorted(named):
                values = final.number(name)[places]
                known = [float(v) for v in values if math.isfinite(v)]
                points += [(number, estimate(known))] if known else []
            if points:
                found.append(
                    SampledCurve(
                        cell=cell,
                        task=task,
                        kind=kind,
                        samples=tuple(number for number, _ in points),
                        accuracies=tuple(value for _, value in points),
                    )
                )
    return tuple(found)
