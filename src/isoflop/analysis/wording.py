"""Figures of a comparison in a reader's words."""

from isoflop.analysis.compare import Comparison, Unit
from isoflop.analysis.statistics import Estimate, Sample, estimate


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


def change_text(value: float, unit: Unit) -> str:
    """A difference with its sign: "+3.1 points", "-0.012 nats"."""
    return f"{100 * value:+.1f} points" if unit == "share" else f"{value:+.3f} {unit}"


def interval_text(low: float, high: float, unit: Unit) -> str:
    """The ends of an interval of differences."""
    return f"{change_text(low, unit)} to {change_text(high, unit)}"


def cell_text(found: Sample, item: Comparison) -> str:
    """A cell with its sparsity: "E64-k2, 96.9% sparse"."""
    cell = next(cell for cell in item.family.cells if cell.name == found.name)
    return f"{cell.name}, {cell.sparsity_label}"


def value_text(found: Sample, item: Comparison) -> str:
    """The mean of a cell with its interval."""
    return figure_text(estimate(found.values, found.item_errors), item.unit)


def what_text(item: Comparison, memory_tasks: frozenset[str]) -> str:
    """What was measured."""
    if item.figure == "validation loss":
        return "validation loss"
    if item.subject in memory_tasks and item.split == "seen":
        return (
            "recall of stated facts" if item.figure == "accuracy" else "task loss on stated facts"
        )
    place = {"seen": "questions seen in training", "held_out": "unseen questions"}
    return f"{item.figure} on {place.get(item.split, item.split)}"


def seeds_text(item: Comparison) -> str:
    """How many seeds stand behind the intervals; "" for one, which has none."""
    counts = sorted({len(s.values) for s in item.samples})
    if counts == [1]:
        return ""
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f" ({number} seeds, 95% intervals)"
