"""What a figure holds, before it is drawn: axes, marks that know their cell and seed, curves.

A mark keeps the names that a reader sees when pointing at it and by which figures are filtered.
"""

from dataclasses import dataclass
from typing import Literal

Scale = Literal["linear", "log"]
Form = Literal["number", "count", "share", "fraction"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's colours, told apart with every common colour vision."""

Marker = Literal["circle", "square", "triangle", "diamond", "down", "cross"]

MARKERS: tuple[Marker, ...] = ("circle", "square", "triangle", "diamond", "down", "cross")
"""Marks go with colours, so that print without colour can be read."""

INK = "#1f2933"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis."""

    label: str
    scale: Scale = "linear"
    form: Form = "number"
    """How its ticks are written: 0.5, 1.2M, 50%, 1/16."""
    descending: bool = False
    """Values fall to the right (or upwards): losses in training, densities."""
    at: tuple[float, ...] = ()
    """Ticks; (): chosen."""
    include: tuple[float, ...] = ()
    """Values that must be on the axis, e.g. 0."""
    within: tuple[float, float] | None = None
    """Ends that the axis never goes beyond, e.g. 0 and 1 of a share."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One point."""

    x: float
    y: float
    low: float | None = None
    """Of its interval, drawn as a bar."""
    high: float | None = None
    cell: str = ""
    seed: int | None = None
    """None: a mean over seeds."""
    row: int | None = None
    """Line of the page's data, where the mark is one."""
    text: str = ""
    """What a reader sees when pointing at it, beside names and values."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Marks of one look."""

    label: str | None
    """In the legend; None: not there."""
    colour: str
    marker: Marker = "circle"
    marks: tuple[Mark, ...]
    joined: bool = False
    faint: bool = False
    """Single seeds beside their mean, or checkpoints before the last."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line without marks, e.g. a fitted law, with its 95% band where there is one."""

    label: str | None
    colour: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False
    band: tuple[tuple[float, float, float], ...] = ()
    """x, low, high."""


@dataclass(frozen=True, kw_only=True)
class Ring:
    """A ring about one point, with a word."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure."""

    name: str
    """File name without its ending, unique within a report."""
    title: str
    description: str
    """What it shows, in words, for readers who do not see it."""
    x: Axis
    y: Axis
    series: tuple[Series, ...] = ()
    curves: tuple[Curve, ...] = ()
    rings: tuple[Ring, ...] = ()
    column: str = ""
    """Column of the page's data that the marks' height is; "": none, or named by the marks."""


@dataclass(frozen=True, kw_only=True)
class FigureGroup:
    """Charts that answer one question together."""

    name: str
    title: str
    caption: str
    charts: tuple[Chart, ...]
    marks: str = "open marks are single seeds, bars 95% intervals over seeds and items"
    """What the marks are, for the caption."""


def all_values(chart: Chart) -> tuple[list[float], list[float]]:
    """Every x and y that must be seen; ends of wide intervals may leave the panel."""
    marks = [mark for series in chart.series for mark in series.marks]
    xs = [mark.x for mark in marks] + [x for curve in chart.curves for x, _ in curve.points]
    ys = [mark.y for mark in marks] + [y for curve in chart.curves for _, y in curve.points]
    return xs, ys
