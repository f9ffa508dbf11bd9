"""The answer of a study in words, with its uncertainty and with what it does not show."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.analysis.compare import Comparison, TopKComparison, compare, compare_top_k
from isoflop.analysis.families import (
    MAX_FLOPS_DIFFERENCE,
    TOLERANCE,
    Cell,
    left_out,
    train_flops_with_router,
)
from isoflop.analysis.split import SharedTrend, split_sentences, tested_trends
from isoflop.analysis.statistics import MIN_SEEDS
from isoflop.analysis.study import Study
from isoflop.analysis.verdict import DIRECTION, VerdictKind
from isoflop.analysis.wording import (
    cell_text,
    change_text,
    interval_text,
    seeds_text,
    value_text,
    what_text,
)
from isoflop.design.plan import format_count, format_quantity

QUESTION = (
    "At equal active parameters and equal training tokens, how sparse should the "
    "Mixture-of-Experts be, and does the answer differ between memory and reasoning?"
)

BEST_WORDS: dict[VerdictKind, str] = {
    "sparsest is best": "the sparsest cell",
    "densest is best": "the densest cell",
    "an inner density is best": "a density between the ends",
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the report opens with."""

    question: str
    tasks: tuple[str, ...]
    """A sentence for each task's accuracy and task loss; one a source where no task was asked."""
    families: tuple[str, ...]
    """Which of several families the sentences are about, and what the others say."""
    split: tuple[str, ...]
    """Whether memory and reasoning want different sparsity: by accuracy, by task loss."""
    top_k: tuple[str, ...]
    """What another top_k at equal active and total parameters changes."""
    not_shown: tuple[str, ...]
    """What a reader must not conclude."""
    missing: tuple[str, ...]
    """Runs that failed or are not finished, cells short of seeds, and cells in no comparison."""
    comparisons: tuple[Comparison, ...]
    """All comparisons, for the table; the sentences use some of the first family's."""


def answer(study: Study, tolerance: float = TOLERANCE) -> Answer:
    """Say what `study` shows; `tolerance` is the relative difference of matched parameters."""
    cells, memory_tasks = study.cells, study.memory_tasks
    comparisons = compare(cells, memory_tasks, tolerance)
    chosen = _headline(comparisons)
    tested = tested_trends(chosen)
    return Answer(
        question=QUESTION,
        tasks=tuple(_task_sentence(one, memory_tasks) for one in tested) or (_nothing(cells),),
        families=_families(comparisons, chosen),
        split=split_sentences(tested, study.task_kind),
        top_k=tuple(map(_top_k_sentence, compare_top_k(cells, memory_tasks, tolerance))),
        not_shown=_not_shown(study, chosen, comparisons),
        missing=_missing(study, tolerance),
        comparisons=comparisons,
    )


def _headline(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Accuracy and task loss of each task in the largest family: the two can disagree, and the
    gap between them is half of the question. Validation losses where no task was asked."""
    first = [item for item in comparisons if item.family == comparisons[0].family]
    return tuple(item for item in first if item.figure != "validation loss") or tuple(first)


def _nothing(cells: Sequence[Cell]) -> str:
    if not cells:
        return "No run has finished yet, so nothing can be said."
    return (
        "No two finished cells have equal active parameters and tokens and another density, "
        "so nothing can be compared."
    )


def _task_sentence(one: SharedTrend, memory_tasks: frozenset[str]) -> str:
    item, found = one.item, one.item.verdict
    what = what_text(item, memory_tasks)
    dense, sparse = item.samples[0], item.samples[-1]
    if found.best is not None:
        best = next(s for s in item.samples if s.name == found.best)
        against = " and ".join(
            f"{value_text(s, item)} for {cell_text(s, item)}" for s in (dense, sparse) if s != best
        )
        return (
            f"{item.subject}: {BEST_WORDS[found.kind]} ({cell_text(best, item)}) is best within "
            f"the range: {what} {value_text(best, item)} against {against}{seeds_text(item)}."
        )
    ends = f"{value_text(sparse, item)} for {cell_text(sparse, item)}"
    if dense is not sparse:
        ends += f" against {value_text(dense, item)} for {cell_text(dense, item)}"
    ends = f"{what[:1].upper()}{what[1:]}: {ends}{seeds_text(item)}{_ends_text(item)}."
    return f"{item.subject}: {_claim(one)}. {ends}"


def _claim(one: SharedTrend) -> str:
    """What is claimed where no cell is best."""
    found = one.item.verdict
    if found.leaders:
        names = ", ".join(found.leaders)
        open_question = (
            f"which of {names} is best is not resolved"
            if len(found.leaders) > 1
            else f"{names} is not surely the best"
        )
        end = {1: "sparser is better than dense", -1: "denser is better than sparse"}
        words = end.get(DIRECTION.get(found.kind, 0), found.kind)
        return f"{words} ({found.reason}); {open_question}"
    if found.kind == "not comparable":
        return f"not comparable: {found.reason}"
    if one.sign:
        way = "rising" if one.sign > 0 else "falling"
        return (
            f"a {way} trend: {one.text} with each doubling of E/k; "
            "the ends alone are not told apart"
        )
    return f"not distinguishable at this scale: {found.reason}"


def _ends_text(item: Comparison) -> str:
    """The difference of the ends with the interval that the verdict used."""
    found = item.verdict.ends
    if found is None:
        return ""
    return (
        f"; the difference is {change_text(found.difference, item.unit)}, corrected interval "
        f"{interval_text(found.low, found.high, item.unit)}"
    )


def _top_k_sentence(item: TopKComparison) -> str:
    pair = (
        f"{item.subject}: k={item.second.shape.top_k} ({item.second.name}) rather than "
        f"k={item.first.shape.top_k} ({item.first.name}) at equal active and total parameters"
    )
    found = item.difference
    if found is None:
        return f"{pair}: {item.reason}."
    interval = interval_text(found.low, found.high, item.unit)
    change = f"{item.figure} {change_text(found.difference, item.unit)} (interval {interval})"
    return f"{pair}: {change}{'' if found.excludes_zero else ': not distinguishable'}."


def _families(comparisons: Sequence[Comparison], chosen: Sequence[Comparison]) -> tuple[str, ...]:
    """Which family is spoken of, and a line on the others; () where there is one."""
    number = len({item.family for item in comparisons})
    if number < 2:
        return ()
    lines = []
    for one in chosen:
        kinds = [
            item.verdict.kind
            for item in comparisons
            if item.family != one.family
            and (item.subject, item.figure) == (one.subject, one.figure)
        ]
        counts = ", ".join(f"{kind} in {count}" for kind, count in Counter(kinds).most_common())
        lines.append(f"{one.subject}, {one.figure}: {counts or 'not measured'}")
    return (
        f"These sentences are about 1 of {number} families: {chosen[0].family.label}.",
        f"The other {number - 1}, each for itself, without a correction for their number: "
        f"{'; '.join(lines)}. Each stands under Every comparison.",
    )


def _range(comparisons: Sequence[Comparison], chosen: Sequence[Comparison]) -> str:
    """Where the answer holds, and how far the table's other families reach."""
    shapes = [cell.shape for cell in chosen[0].family.cells]
    low, high = min(s.sparsity for s in shapes), max(s.sparsity for s in shapes)
    others = {item.family for item in comparisons} - {chosen[0].family}
    words = (
        f"Anything beyond the range measured{' in this family' if others else ''}: sparsity "
        f"{low:.3g} to {high:.3g}, {format_count(shapes[0].active_params)} active parameters, "
        f"{format_count(shapes[0].tokens)} training tokens. A larger budget may answer otherwise."
    )
    if not others:
        return words
    shapes = [family.cells[0].shape for family in others]
    active, tokens = (
        _span([shape.active_params for shape in shapes]),
        _span([shape.tokens for shape in shapes]),
    )
    return f"{words} The other families have {active} active parameters and {tokens} tokens."


def _span(counts: Sequence[int]) -> str:
    ends = dict.fromkeys((format_count(min(counts)), format_count(max(counts))))
    return " to ".join(ends)


def _not_shown(
    study: Study, chosen: Sequence[Comparison], comparisons: Sequence[Comparison]
) -> tuple[str, ...]:
    if not chosen:
        return ()
    cells = chosen[0].family.cells
    notes = [
        _range(comparisons, chosen),
        f"Other facts, problems or questions: the answer is for {_draw(study)}. Intervals of single "
        "cells hold the scatter of the items asked; differences between cells, which share the items, "
        "hold the seeds' spread.",
        _work_note(cells),
        "What the best hyper-parameters of each cell would give: all cells are trained alike.",
        "When a skill would have come with more tokens. Skills come in sudden steps at times that "
        "depend on the seed; a final score says which side of the step a run ended on.",
        "A joint error rate. Each verdict may be wrong in 5% of studies of pure noise, all trends "
        "together in 5%; the sentences above use two verdicts a task, accuracy and task loss. "
        "Seeds of one cell that by chance all fall on one side of a step look surer than they are.",
    ]
    if max(len(cell.rows) for cell in cells) < MIN_SEEDS:
        notes.insert(
            0,
            f"Any difference between cells: fewer than {MIN_SEEDS} seeds a cell were run. The "
            "standard error over items, in the table, is the smaller part of the uncertainty.",
        )
    if any(item.subject in study.memory_tasks for item in chosen):
        notes.append(
            "Behaviour on natural questions: the tasks are generated, and stand for recall and "
            "for reasoning in several steps."
        )
    return tuple(notes)


def _draw(study: Study) -> str:
    """Which questions the answer is for; of a table that is not ours, only that they are these."""
    if study.config is None:
        return "the questions that were asked"
    return "this one draw of facts and problems, as corpus.seed is the same in all runs"


def _work_note(cells: Sequence[Cell]) -> str:
    """How far the training FLOPs of the family differ once the router is counted."""
    by_flops = sorted(cells, key=lambda cell: train_flops_with_router(cell.shape))
    low, high = (train_flops_with_router(cell.shape) for cell in (by_flops[0], by_flops[-1]))
    return (
        "Exactly equal work: the matched counts leave the router out, which grows with E. With it "
        f"a run takes {format_quantity(low)} ({by_flops[0].name}) to {format_quantity(high)} "
        f"({by_flops[-1].name}) training FLOPs, {100 * (high / low - 1):.1f}% more; cells more "
        f"than {100 * MAX_FLOPS_DIFFERENCE:.0f}% apart are not compared."
    )


def _missing(study: Study, tolerance: float) -> tuple[str, ...]:
    """Runs not done, cells with fewer seeds than the others, and cells in no comparison."""
    cells = study.cells
    lines = [
        f"{state.cell}, seed {state.seed}: {state.state}"
        + (f": {state.reason}" if state.reason else "")
        for state in study.unfinished
    ]
    most = max((len(cell.rows) for cell in cells), default=0)
    lines += [
        f"{cell.name}: {len(cell.rows)} of {most} seeds finished"
        for cell in cells
        if len(cell.rows) < most
    ]
    for cell, twins in left_out(cells, tolerance):
        why = (
            f"has the shape and density of {', '.join(twins)}, and neither is chosen"
            if twins
            else "no other cell has its shape, active parameters and tokens and another density"
        )
        lines.append(f"{cell.name}: in no comparison: {why}")
    return tuple(lines)
