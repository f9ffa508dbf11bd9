"""The answer of a study in words, with its uncertainty and with what it does not show."""

from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.analysis.compare import Comparison, TopKComparison, Unit, compare, compare_top_k
from isoflop.analysis.families import TOLERANCE, Cell, count_label
from isoflop.analysis.statistics import MIN_SEEDS, Estimate, Sample, estimate
from isoflop.analysis.study import Study

QUESTION = (
    "At equal active parameters and equal training tokens, how sparse should the "
    "Mixture-of-Experts be, and does the answer differ between memory and reasoning?"
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the report opens with."""

    question: str
    tasks: tuple[str, ...]
    """A sentence for each task's accuracy and task loss; one a source where no task was asked."""
    split: tuple[str, ...]
    """Whether memory and reasoning want different sparsity: by accuracy, by task loss."""
    top_k: tuple[str, ...]
    """What another top_k at equal active and total parameters changes."""
    not_shown: tuple[str, ...]
    """What a reader must not conclude."""
    missing: tuple[str, ...]
    """Runs that failed or are not finished, and cells short of seeds."""
    comparisons: tuple[Comparison, ...]
    """All comparisons, for the table; the sentences use some of the first family's."""


def answer(study: Study, tolerance: float = TOLERANCE) -> Answer:
    """Say what `study` shows; `tolerance` is the relative difference of matched parameters."""
    cells, memory_tasks = study.cells, study.memory_tasks
    comparisons = compare(cells, memory_tasks, tolerance)
    chosen = _headline(comparisons)
    return Answer(
        question=QUESTION,
        tasks=tuple(_task_sentence(item, memory_tasks) for item in chosen) or (_nothing(cells),),
        split=_split_sentences(chosen, memory_tasks),
        top_k=tuple(map(_top_k_sentence, compare_top_k(cells, memory_tasks, tolerance))),
        not_shown=_not_shown(study, chosen),
        missing=_missing(study),
        comparisons=comparisons,
    )


def figure_text(found: Estimate, unit: Unit) -> str:
    """A mean with half of its 95% interval: "83% ± 4", "1.234 ± 0.012 nats".

    A share whose interval leaves 0 to 1 is given with its ends, "50% (0 to 100%)"; one seed has
    no interval, "50.0% (one seed)".
    """
    half = found.half_width
    if unit == "share":
        if half is None:
            return f"{100 * found.mean:.1f}% (one seed)"
        digits = 0 if 100 * half >= 10 else 1
        if found.mean - half < 0 or found.mean + half > 1:
            low, high = max(found.mean - half, 0.0), min(found.mean + half, 1.0)
            span = f"{100 * low:.{digits}f} to {100 * high:.{digits}f}%"
            return f"{100 * found.mean:.{digits}f}% ({span})"
        return f"{100 * found.mean:.{digits}f}% ± {100 * half:.{digits}f}"
    if half is None:
        return f"{found.mean:.3f} {unit} (one seed)"
    return f"{found.mean:.3f} ± {half:.3f} {unit}"


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


def _task_sentence(item: Comparison, memory_tasks: frozenset[str]) -> str:
    what = _what(item, memory_tasks)
    dense, sparse = item.samples[0], item.samples[-1]
    found = item.verdict
    if found.best is None:
        ends = f"{_value(sparse, item)} for {_cell(sparse, item)}"
        if dense is not sparse:
            ends += f" against {_value(dense, item)} for {_cell(dense, item)}"
        return (
            f"{item.subject}: not distinguishable at this scale: {found.reason}. "
            f"{what[:1].upper()}{what[1:]}: {ends}{_seeds(item)}{_ends_text(item)}."
        )
    names = {s.name: s for s in item.samples}
    best = names[found.best]
    words = {
        "sparsest is best": "the sparsest cell",
        "denser is best": "the densest cell",
        "an inner density is best": "a density between the ends",
    }
    others = [s for s in (dense, sparse) if s.name != found.best]
    against = " and ".join(f"{_value(s, item)} for {_cell(s, item)}" for s in others)
    sentence = (
        f"{item.subject}: {words[found.kind]} ({_cell(best, item)}) is best within the range: "
        f"{what} {_value(best, item)} against {against}{_seeds(item)}."
    )
    if found.level_with_best:
        sentence += f" Not told apart from it: {', '.join(found.level_with_best)}."
    return sentence


def _ends_text(item: Comparison) -> str:
    """The difference of the ends with the interval that the verdict used."""
    found = item.verdict.ends
    if found is None:
        return ""
    return (
        f"; the difference is {_signed(found.difference, item.unit)}, corrected interval "
        f"{_signed(found.low, item.unit)} to {_signed(found.high, item.unit)}"
    )


def _what(item: Comparison, memory_tasks: frozenset[str]) -> str:
    """The figure in a reader's words."""
    if item.figure == "validation loss":
        return "validation loss"
    if item.subject in memory_tasks and item.split == "seen":
        return (
            "recall of stated facts" if item.figure == "accuracy" else "task loss on stated facts"
        )
    place = {"seen": "questions seen in training", "held_out": "unseen questions"}
    return f"{item.figure} on {place.get(item.split, item.split)}"


def _cell(found: Sample, item: Comparison) -> str:
    cell = next(cell for cell in item.family.cells if cell.name == found.name)
    return f"{cell.name}, {cell.sparsity_label}"


def _value(found: Sample, item: Comparison) -> str:
    return figure_text(estimate(found.values, found.item_errors), item.unit)


def _seeds(item: Comparison) -> str:
    """How many seeds stand behind the intervals."""
    counts = sorted({len(s.values) for s in item.samples})
    if counts == [1]:
        return ""
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f" ({number} seeds, 95% intervals)"


def _split_sentences(chosen: Sequence[Comparison], memory_tasks: frozenset[str]) -> tuple[str, ...]:
    """One sentence a figure (accuracy, task loss); one in all where they say the same."""
    asked = [item for item in chosen if item.figure != "validation loss"]
    figures = list(dict.fromkeys(item.figure for item in asked)) or [""]
    sentences = (
        _split_sentence([item for item in asked if item.figure == figure], memory_tasks)
        for figure in figures
    )
    return tuple(dict.fromkeys(sentences))


def _split_sentence(asked: Sequence[Comparison], memory_tasks: frozenset[str]) -> str:
    """Whether the slopes of a memory task and another task differ in sign, both surely."""
    memory = [item for item in asked if item.subject in memory_tasks]
    other = [item for item in asked if item.subject not in memory_tasks]
    if not memory or not other:
        return (
            "Whether memory and reasoning want different sparsity cannot be said: "
            "the study does not ask both."
        )
    if not all(item.enough_seeds for item in (*memory, *other)):
        return (
            "No evidence that memory and reasoning split: a claim needs "
            f"{MIN_SEEDS} seeds in every cell."
        )
    slopes = "; ".join(f"{item.subject} {_slope_text(item)}" for item in (*memory, *other))
    pairs = [
        (first.subject, second.subject)
        for first in memory
        for second in other
        if _gain_sign(first) * _gain_sign(second) < 0
    ]
    if pairs:
        named = ", ".join(f"{first} and {second}" for first, second in pairs)
        return (
            f"Memory and reasoning split by {memory[0].figure} ({named}): with each doubling of "
            f"E/k, {slopes}."
        )
    return (
        f"No evidence that memory and reasoning split by {memory[0].figure}: their slopes do not "
        f"surely differ in sign. With each doubling of E/k, {slopes}."
    )


def _gain_sign(item: Comparison) -> int:
    """1 where more experts surely help, -1 where they surely hurt, 0 where neither is sure."""
    if item.slope is None:
        return 0
    return item.slope.sign if item.better == "higher" else -item.slope.sign


def _slope_text(item: Comparison) -> str:
    if item.slope is None:
        return "has no slope"
    return (
        f"{item.figure} changes by {_signed(item.slope.slope, item.unit)} "
        f"(95% interval {_signed(item.slope.low, item.unit)} to "
        f"{_signed(item.slope.high, item.unit)})"
    )


def _signed(value: float, unit: Unit) -> str:
    return f"{100 * value:+.1f} points" if unit == "share" else f"{value:+.3f} {unit}"


def _top_k_sentence(item: TopKComparison) -> str:
    pair = (
        f"{item.subject}: k={item.second.shape.top_k} ({item.second.name}) rather than "
        f"k={item.first.shape.top_k} ({item.first.name}) at equal active and total parameters"
    )
    found = item.difference
    if found is None:
        return f"{pair}: not distinguishable: fewer than {MIN_SEEDS} seeds."
    interval = f"{_signed(found.low, item.unit)} to {_signed(found.high, item.unit)}"
    change = f"{item.figure} {_signed(found.difference, item.unit)} (interval {interval})"
    return f"{pair}: {change}{'' if found.excludes_zero else ': not distinguishable'}."


def _not_shown(study: Study, chosen: Sequence[Comparison]) -> tuple[str, ...]:
    if not chosen:
        return ()
    cells = chosen[0].family.cells
    shapes = [cell.shape for cell in cells]
    low, high = min(s.sparsity for s in shapes), max(s.sparsity for s in shapes)
    notes = [
        f"Anything beyond the range measured: sparsity {low:.3g} to {high:.3g}, "
        f"{count_label(shapes[0].active_params)} active parameters, "
        f"{count_label(shapes[0].tokens)} training tokens. A larger budget may answer otherwise.",
        "What the best hyper-parameters of each cell would give: all cells are trained alike.",
        "When a skill would have come with more tokens. Skills come in sudden steps at times that "
        "depend on the seed; a final score says which side of the step a run ended on.",
        "A joint error rate. Each comparison below may be wrong in 5% of studies of pure noise; "
        "the sentences above use two comparisons a task, accuracy and task loss.",
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


def _missing(study: Study) -> tuple[str, ...]:
    """Runs that are not done, and cells with fewer seeds than the others."""
    lines = [
        f"{state.cell}, seed {state.seed}: {state.state}"
        + (f": {state.reason}" if state.reason else "")
        for state in study.unfinished
    ]
    most = max((len(cell.rows) for cell in study.cells), default=0)
    lines += [
        f"{cell.name}: {len(cell.rows)} of {most} seeds finished"
        for cell in study.cells
        if len(cell.rows) < most
    ]
    return tuple(lines)
