"""One way to draw all of the paper's figures: points of a table by a series, against a column.

Shapes in this file:
    lines   lines of the table that have both figures
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from isoflop.analysis.charts.chart import (
    Axis,
    Chart,
    Curve,
    Form,
    Mark,
    Ring,
    Series,
)
from isoflop.analysis.charts.colours import sparsity_colours
from isoflop.analysis.means import family_look
from isoflop.analysis.statistics import estimate
from isoflop.analysis.tables.run_table import RunTable, group_lines
from isoflop.design.plan import format_count

LABELS: dict[str, tuple[str, Form, bool]] = {
    "total_params": ("total parameters", "count", True),
    "active_params": ("active parameters", "count", True),
    "tokens": ("training tokens", "count", True),
    "train_loss": ("training loss (nats)", "number", False),
    "validation_loss": ("validation loss (nats)", "number", False),
    "density": ("density k/E", "fraction", True),
    "tpp": ("tokens / total parameters", "count", True),
    "num_experts": ("experts", "count", True),
    "grpo_step": ("GRPO steps", "count", False),
    "grpo_learning_rate": ("GRPO learning rate", "number", True),
    "samples": ("samples a question", "count", True),
}
"""Axis label, form of its ticks, and whether it is logarithmic."""

DESCENDING = ("train_loss", "validation_loss", "density")
"""Axes whose values fall to the right: a run goes, and sparsity grows, from left to right."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a chart names and orders its series."""

    by: tuple[str, ...]
    """Columns that tell series apart; marks of one series are joined along x."""
    colour: str | None = None
    """A column whose order gives the colours (dark to light) instead of one a series."""
    joined: bool = True
    turn: bool = False
    """Ring each series' best mean, and dash the line where the figure gets worse with sparsity beyond it: the
    means alone; whether a turn is real is `questions.u_shape`'s to say."""


def chart_of(
    table: RunTable, name: str, title: str, x: str, y: str, look: Look, *, error: bool = False
) -> Chart | None:
    """Column `y` against `x`; None where no line has both.

    Args:
        error: Draw 1 - y: an accuracy's error rate.
    """
    if x not in table.numbers or y not in table.numbers:
        return None
    xs, ys = table.number(x), table.number(y)
    known = np.isfinite(xs) & np.isfinite(ys)
    chosen = table.where(known)
    if not len(chosen):
        return None
    series = _series(chosen, xs[known], 1 - ys[known] if error else ys[known], look)
    curves: tuple[Curve, ...] = ()
    rings: tuple[Ring, ...] = ()
    if look.turn:
        series, curves, rings = _turned(series, up=_is_share(y) and not error)
    label = _y_label(y, error)
    words = ", ".join(sorted({one.label for one in series if one.label is not None}))
    return Chart(
        name=name,
        title=title,
        description=f"{title}: {label} against {x_axis(x, xs[known]).label}. Series: {words}.",
        x=x_axis(x, xs[known]),
        y=Axis(label=label, form="share" if _is_share(y) else "number"),
        series=series,
        curves=curves,
        rings=rings,
    )


def _turned(
    series: tuple[Series, ...], *, up: bool
) -> tuple[tuple[Series, ...], tuple[Curve, ...], tuple[Ring, ...]]:
    """Series along density cut at their best mean, the dashed rest, and rings."""
    found: list[Series] = []
    curves, rings = [], []
    for one in series:
        marks = sorted(one.marks, key=lambda mark: -mark.x)
        best = marks.index((max if up else min)(marks, key=lambda mark: mark.y))
        if one.faint or not one.joined or best == len(marks) - 1:
            found.append(one)
            continue
        head, tail = marks[: best + 1], marks[best + 1 :]
        found.append(replace(one, marks=tuple(sorted(head, key=lambda mark: mark.x))))
        found.append(replace(one, label=None, marks=tuple(tail), joined=False))
        points = tuple((mark.x, mark.y) for mark in marks[best:])
        curves.append(Curve(label=None, colour=one.colour, points=points, dashed=True))
        rings.append(Ring(x=marks[best].x, y=marks[best].y, text=""))
    return tuple(found), tuple(curves), tuple(rings)


def _series(table: RunTable, xs: np.ndarray, ys: np.ndarray, look: Look) -> tuple[Series, ...]:
    """Means over seeds at each x of each series, joined along x, single seeds faint."""
    groups = group_lines([_name(table, look.by, i) for i in range(len(table))])
    levels: dict[float, str] = {}
    if look.colour is not None and look.colour in table.numbers:
        levels = sparsity_colours({v for v in table.number(look.colour).tolist() if v == v})
    found: list[Series] = []
    for index, (label, places) in enumerate(sorted(groups.items(), key=_numbers_in)):
        look_of = family_look(index)
        colour, marker = look_of.colour, look_of.marker
        if look.colour is not None and levels:
            colour = levels.get(float(table.number(look.colour)[places[0]]), colour)
        marks = _marks(table, xs, ys, places)
        top = Series(label=label, colour=colour, marker=marker, marks=marks, joined=look.joined)
        seeds = tuple(Mark(x=float(xs[i]), y=float(ys[i]), cell=table.cells[i]) for i in places)
        if len(seeds) > len(marks):
            found.append(Series(label=None, colour=colour, marker=marker, marks=seeds, faint=True))
        found.append(top)
    return tuple(found)


def _marks(
    table: RunTable, xs: np.ndarray, ys: np.ndarray, places: Sequence[int]
) -> tuple[Mark, ...]:
    """One mark a cell and setting: the mean over its seeds."""
    keys = [f"{table.cells[i]}|{_setting(table, i)}" for i in places]
    found = []
    for members in group_lines(keys).values():
        lines = [places[m] for m in members]
        known = estimate([float(ys[i]) for i in lines])
        number = f"mean of {len(lines)} runs" if len(lines) > 1 else ""
        found.append(
            Mark(
                x=float(np.mean(xs[lines])),
                y=known.mean,
                low=known.low,
                high=known.high,
                cell=table.cells[lines[0]],
                text=number,
            )
        )
    return tuple(sorted(found, key=lambda mark: mark.x))


def _setting(table: RunTable, i: int) -> str:
    """What tells two measurements of one cell apart, the seed left out."""
    names = (
        "stage",
        "tokens",
        "grpo_step",
        "grpo_learning_rate",
        "grpo_corpus",
        "num_shots",
        "temperature",
        "inference_top_k",
        "samples",
    )
    parts = []
    for name in names:
        if name in table.texts:
            parts.append(str(table.texts[name][i]))
        elif name in table.numbers:
            parts.append(f"{table.numbers[name][i]:g}")
    return "|".join(parts)


def _name(table: RunTable, columns: Sequence[str], i: int) -> str:
    """A series by its columns: "d=512, k=2"."""
    short = {
        "d_model": "d",
        "top_k": "k",
        "num_experts": "E",
        "active_params": "active",
        "learning_rate": "learning rate",
        "grpo_learning_rate": "learning rate",
        "inference_top_k": "k at inference",
        "num_shots": "shots",
        "grpo_corpus": "GRPO on",
    }
    parts = []
    for column in columns:
        if column in table.texts:
            if table.texts[column][i] is not None:
                parts.append(f"{short.get(column, column)} {table.texts[column][i]}")
        elif column in table.numbers and not math.isnan(table.numbers[column][i]):
            value = table.numbers[column][i]
            shown = f"{value:.3g}" if column != "active_params" else _count(value)
            parts.append(f"{short.get(column, column)}={shown}")
    return ", ".join(parts) or "all runs"


def _count(value: float) -> str:
    return format_count(round(value))


def _numbers_in(item: tuple[str, list[int]]) -> tuple[list[float], str]:
    """Series in the order of the numbers in their names."""
    words = item[0].replace(",", " ").replace("=", " ").split()
    numbers = []
    for word in words:
        unit = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(word[-1:], 1.0)
        text = word[:-1] if unit != 1.0 else word
        if text.replace(".", "", 1).replace("e-", "", 1).isdigit():
            numbers.append(float(text) * unit)
    return numbers, item[0]


def x_axis(column: str, values: np.ndarray) -> Axis:
    """The axis of a column."""
    label, form, is_log = LABELS.get(column, (column.replace("_", " "), "number", False))
    positive = bool((values > 0).all())
    at = tuple(sorted(set(values.tolist()))) if column == "density" else ()
    return Axis(
        label=label,
        form=form,
        scale="log" if is_log and positive else "linear",
        descending=column in DESCENDING,
        at=at,
    )


def _is_share(column: str) -> bool:
    return column.endswith("accuracy") or "@" in column


def _y_label(column: str, error: bool) -> str:
    if column.endswith("bits_per_byte"):
        return "task loss (bits per byte)"
    if _is_share(column):
        return "error rate" if error else "accuracy"
    return LABELS.get(column, (column.replace(".", ", ").replace("_", " "), "number", False))[0]
