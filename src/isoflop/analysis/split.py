"""Which trends of a study are sure, and whether memory and reasoning want different sparsity.

One set of tests serves the sentences on tasks and on the split, so that they agree: the trends of
all tasks and figures of the first family, together wrong in at most 5% of studies of no trend.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isoflop.analysis.compare import Comparison
from isoflop.analysis.statistics import CONFIDENCE, MIN_SEEDS, Trend, holm
from isoflop.analysis.task_kinds import Kind
from isoflop.analysis.verdict import DIRECTION
from isoflop.analysis.wording import change_text, interval_text


@dataclass(frozen=True, kw_only=True)
class SharedTrend:
    """A comparison with its trend, tested together with all others of the page."""

    item: Comparison
    trend: Trend | None
    level: float
    """Confidence of the interval after Holm's correction."""
    sign: int
    """1 where the figure surely rises with E/k, -1 where it surely falls, 0 where neither."""

    @property
    def gain(self) -> int:
        """1 where sparsity surely helps, -1 where it surely hurts, 0 where neither is sure."""
        return self.sign if self.item.better == "higher" else -self.sign

    @property
    def text(self) -> str:
        """The change for each doubling of E/k with its corrected interval."""
        if self.trend is None:
            return "has no trend that can be tested"
        unit = self.item.unit
        words = (
            f"{change_text(self.trend.slope, unit)} (corrected interval "
            f"{interval_text(*self.trend.interval(self.level), unit)})"
        )
        if self.trend.carried_by is not None:
            words += f", not sure without {self.trend.carried_by}"
        return words


def tested_trends(items: Sequence[Comparison]) -> tuple[SharedTrend, ...]:
    """The trends of `items`, in order, with Holm's correction over all that can be tested.

    A trend is sure where Holm rejects a slope of 0 and no single cell carries it.
    """
    known = [item.trend for item in items if item.trend is not None]
    rejected, shares = holm([trend.p_value for trend in known], 1 - CONFIDENCE)
    results = iter(zip(rejected, shares, strict=True))
    found = []
    for item in items:
        holds, share = next(results) if item.trend is not None else (False, 1 - CONFIDENCE)
        sure = item.trend is not None and holds and item.trend.carried_by is None
        rising = item.trend is not None and item.trend.slope > 0
        sign = (1 if rising else -1) if sure else 0
        found.append(SharedTrend(item=item, trend=item.trend, level=1 - share, sign=sign))
    return tuple(found)


def split_sentences(
    tested: Sequence[SharedTrend], kind_of: Callable[[str], Kind | None]
) -> tuple[str, ...]:
    """One sentence a figure (accuracy, task loss); one in all where they say the same.

    Args:
        kind_of: The kind of a task by its name.
    """
    asked = [one for one in tested if one.item.figure != "validation loss"]
    figures = list(dict.fromkeys(one.item.figure for one in asked)) or [""]
    sentences = (
        _sentence([one for one in asked if one.item.figure == figure], kind_of)
        for figure in figures
    )
    return tuple(dict.fromkeys(sentences))


def _sentence(asked: Sequence[SharedTrend], kind_of: Callable[[str], Kind | None]) -> str:
    """Whether the trends of a memory task and a reasoning task differ in sign, both surely."""
    kinds = {one.item.subject: kind_of(one.item.subject) for one in asked}
    memory = [one for one in asked if kinds[one.item.subject] == "memory"]
    other = [one for one in asked if kinds[one.item.subject] == "reasoning"]
    if not memory or not other:
        unknown = ", ".join(name for name, kind in kinds.items() if kind is None)
        return (
            "Whether memory and reasoning want different sparsity cannot be said: "
            "the study does not ask both" + (f" ({unknown}: of no known kind)." if unknown else ".")
        )
    if not all(one.item.enough_seeds for one in (*memory, *other)):
        return (
            "No evidence that memory and reasoning split: a claim needs "
            f"{MIN_SEEDS} seeds in every cell."
        )
    figure = memory[0].item.figure
    trends = "; ".join(f"{one.item.subject} {one.text}" for one in (*memory, *other))
    trends = f"With each doubling of E/k, {figure} changes: {trends}."
    pairs = [(first, second) for first in memory for second in other]
    split = [pair for pair in pairs if pair[0].gain * pair[1].gain < 0]
    if split:
        return f"Memory and reasoning split by {figure} ({_names(split)}). {trends}"
    apart = [pair for pair in pairs if _direction(pair[0]) * _direction(pair[1]) < 0]
    if apart:
        return (
            f"Whether memory and reasoning split by {figure} is not settled: the ends of "
            f"{_names(apart)} surely differ in opposite directions, but not both trends over all "
            f"cells are sure. {trends}"
        )
    return (
        f"No evidence that memory and reasoning split by {figure}: their trends do not surely "
        f"differ in sign. {trends}"
    )


def _direction(one: SharedTrend) -> int:
    """What the task's sentence says of sparsity: by the verdict, else by a sure trend."""
    return DIRECTION.get(one.item.verdict.kind, one.gain)


def _names(pairs: Sequence[tuple[SharedTrend, SharedTrend]]) -> str:
    return ", ".join(f"{first.item.subject} and {second.item.subject}" for first, second in pairs)
