"""Every question of the paper asked of one study: optimal density, U-shapes, TPP, equal loss, chains.

A finding is an answer in words with its interval, what it rests on, and what is missing where there
is none. They describe one comparison each, uncorrected for their number; the claims at the top of
the report are corrected (`answer`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from isoflop.analysis.charts.ticks import tick_text
from isoflop.analysis.families import (
    BETTER,
    METRIC_LABEL,
    Cell,
    Family,
    Metric,
    answer_split,
    families,
    sample,
    tasks,
)
from isoflop.analysis.questions.equal_loss import FACTORS, EqualLossEffect, equal_loss_effect
from isoflop.analysis.questions.optimum import Optimum, optimum
from isoflop.analysis.questions.stages import (
    SampledCurve,
    change_by_stage,
    sampled_curves,
    stage_settings,
)
from isoflop.analysis.questions.u_shape import UShape, u_shape
from isoflop.analysis.statistics import Sample
from isoflop.analysis.study import Study
from isoflop.analysis.tables.run_table import RunTable, score_column

AT_END = 0.5
"""Share of draws at an end of the range from which on the optimum is said to lie there."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One answer."""

    question: str
    subject: str
    """Task and figure."""
    where: str
    """Family, or "all cells"."""
    answer: str
    rests_on: str
    """Cells and seeds, or checkpoints."""


def all_findings(study: Study, table: RunTable, tolerance: float) -> tuple[Finding, ...]:
    """Every question that the study's families and columns allow."""
    found: list[Finding] = []
    rows = study.rows
    for family in families(study.cells, tolerance):
        for task in tasks(rows):
            split = answer_split(rows, task, study.memory_tasks) or ""
            for metric in METRIC_LABEL:
                found += family_findings(family, task, split, metric)
    for task, named in table.tasks:
        if named is not None and named != answer_split(rows, task, study.memory_tasks):
            continue
        for metric in METRIC_LABEL:
            column = score_column(task, named, metric)
            if table.has(column):
                found += equal_loss_findings(table, column, f"{task}, {METRIC_LABEL[metric]}")
                found += stage_findings(table, column, f"{task}, {METRIC_LABEL[metric]}")
    return (*found, *sampled_findings(table))


def family_findings(family: Family, task: str, split: str, metric: Metric) -> list[Finding]:
    """Optimal density, optimal TPP and the U-shape of one figure over one family."""
    measured: list[tuple[Cell, Sample]] = []
    for cell in family.cells:
        values = sample(cell, task, split, metric)
        if values is not None:
            measured.append((cell, values))
    if not measured:
        return []
    samples = [values for _, values in measured]
    better = BETTER[metric]
    subject, where = f"{task}, {METRIC_LABEL[metric]}", family.label
    expansion = [1 / cell.shape.density for cell, _ in measured]
    density = optimum(samples, expansion, better=better)
    tpp = optimum(samples, [cell.shape.tpp for cell, _ in measured], better=better)
    shape = u_shape(samples, expansion, better=better)
    rests_on = f"{density.num_cells} cells, {density.num_seeds} seeds"

    def finding(question: str, answer: str) -> Finding:
        return Finding(
            question=question, subject=subject, where=where, answer=answer, rests_on=rests_on
        )

    return [
        finding("optimal density k/E", density_text(density)),
        finding("optimal tokens per parameter", tpp_text(tpp)),
        finding("better, then worse with sparsity?", u_shape_text(shape, metric)),
    ]


def equal_loss_findings(table: RunTable, column: str, subject: str) -> list[Finding]:
    """What each factor changes at equal training loss."""
    found = []
    for factor, words in FACTORS.items():
        effect = equal_loss_effect(table, column, factor)
        if effect.reason is not None and effect.reason.endswith("has one value"):
            continue
        if effect.reason is not None and "lacks" in effect.reason:
            continue
        found.append(
            Finding(
                question=f"at equal training loss, does doubling {words} matter?",
                subject=subject,
                where="all cells",
                answer=effect_text(effect),
                rests_on=f"{effect.num_points} checkpoints, {effect.num_cells} cells",
            )
        )
    return found


def stage_findings(table: RunTable, column: str, subject: str) -> list[Finding]:
    """What each stage after pre-training changes in one figure, and whether sparse cells gain less."""
    found = []
    for setting in stage_settings(table):
        change = change_by_stage(setting.table, column, setting.stage)
        if change.overall is None:
            continue
        scale, unit = _scale(column)
        low, high = change.overall.low, change.overall.high
        span = (
            "one cell"
            if low is None or high is None
            else f"{scale * low:+.3g} to {scale * high:+.3g}"
        )
        answer = f"{scale * change.overall.mean:+.3g} {unit} ({span})"
        if change.per_doubling is None or change.low is None or change.high is None:
            answer += f"; whether it depends on E/k is not tested: {change.reason}"
        else:
            ends = f"{scale * change.low:+.3g} to {scale * change.high:+.3g}"
            sure = "" if change.low > 0 or change.high < 0 else ", not distinguishable"
            answer += f"; {scale * change.per_doubling:+.3g} more with each doubling of E/k ({ends}{sure})"
        runs = sum(gain.num_seeds for gain in change.gains.values())
        missing = f", {len(change.unpaired)} runs without their pair" if change.unpaired else ""
        found.append(
            Finding(
                question=f"what does {setting.stage} change?",
                subject=subject,
                where=setting.label or "all cells",
                answer=answer,
                rests_on=f"{runs} runs, {len(change.gains)} cells{missing}",
            )
        )
    return found


def sampled_findings(table: RunTable) -> list[Finding]:
    """What more samples a question give, cell by cell, before and after each stage."""
    found = _sampled_findings(sampled_curves(table), "")
    for setting in stage_settings(table):
        after = " ".join(part for part in ("after", setting.stage, setting.label) if part)
        curves = sampled_curves(setting.table, setting.stage)
        found += _sampled_findings(curves, f", {after}")
    return found


def _sampled_findings(curves: tuple[SampledCurve, ...], after: str) -> list[Finding]:
    found = []
    for curve in curves:
        if len(curve.samples) < 2:
            continue
        first, last = curve.accuracies[0], curve.accuracies[-1]
        seeds = "one seed" if last.num_seeds == 1 else f"{last.num_seeds} seeds"
        found.append(
            Finding(
                question=f"what do more samples give ({curve.kind}@N)?",
                subject=curve.task,
                where=f"{curve.cell}{after}",
                answer=(
                    f"{100 * first.mean:.1f}% at {curve.samples[0]}, {100 * last.mean:.1f}% at "
                    f"{curve.samples[-1]} samples"
                ),
                rests_on=seeds,
            )
        )
    return found


def density_text(found: Optimum) -> str:
    """The optimal density; places are E/k."""
    return _optimum_text(
        found, lambda place: tick_text(1 / place, "fraction"), "densest or sparsest"
    )


def tpp_text(found: Optimum) -> str:
    """The optimal tokens per parameter."""
    return _optimum_text(found, lambda place: f"{place:.3g}", "fewest or most")


def _optimum_text(found: Optimum, write: Callable[[float], str], ends: str) -> str:
    if found.place is None or found.low is None or found.high is None:
        return f"best mean {found.best_cell}; no interval: {found.reason}"
    share = found.share_at_ends or 0.0
    ends_text = sorted((write(found.low), write(found.high)), key=_size)
    text = f"{write(found.place)} (95% interval {' to '.join(ends_text)})"
    if share > AT_END:
        text = f"at an end of the range ({ends}): best lies there or beyond in {100 * share:.0f}%"
    names = ", ".join(found.could_be_best)
    many = "" if len(found.could_be_best) == 1 else "; could be best: " + names
    return f"{text}; best mean {found.best_cell}{many}"


def _size(text: str) -> float:
    """The number that a fraction or a number is written as; dense is 1."""
    if text == "dense":
        return 1.0
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def _scale(column: str) -> tuple[float, str]:
    """Factor and unit in which a change of this column is told."""
    return (100.0, "points") if column.endswith("accuracy") else (1.0, "bits per byte")


def u_shape_text(found: UShape, metric: Metric) -> str:
    """Whether the figure turns, with what could have been seen."""
    if found.p_value is None:
        return f"not tested: {found.reason}"
    unit = "points" if metric == "accuracy" else "bits per byte"
    scale = 100 if metric == "accuracy" else 1
    can = (
        "not even a fall of ten standard deviations would show"
        if found.detectable_fall is None
        else f"a fall of {scale * found.detectable_fall:.3g} {unit} would show in 80% of studies"
    )
    seeds = ""
    if found.seeds_inside is not None:
        seeds = f"; {found.seeds_inside} of {found.num_common_seeds} seeds peak inside"
    if found.is_real and found.fall is not None:
        return (
            f"yes: best near {found.turning_cell}, then {scale * abs(found.fall):.3g} {unit} worse "
            f"(p = {found.p_value:.2g}){seeds}"
        )
    return f"not shown (p = {found.p_value:.2g}); {can}{seeds}"


def effect_text(found: EqualLossEffect) -> str:
    """The effect of doubling a factor."""
    if found.effect is None or found.low is None or found.high is None:
        return f"not tested: {found.reason}"
    scale, unit = _scale(found.column)
    span = f"{scale * found.low:+.3g} to {scale * found.high:+.3g}"
    text = f"{scale * found.effect:+.3g} {unit} ({span})"
    return text if found.low > 0 or found.high < 0 else f"{text}: not distinguishable"
