"""A chart of means over seeds: one line a family, single seeds faint, intervals as bars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from isoflop.analysis.charts.chart import (
    COLOURS,
    MARKERS,
    Axis,
    Chart,
    Form,
    Mark,
    Marker,
    Ring,
    Series,
)
from isoflop.analysis.families import BETTER, Cell, Metric
from isoflop.analysis.statistics import Better, Sample, estimate

Sampler = Callable[[Cell], Sample | None]
NamedCells = tuple[str, tuple[Cell, ...]]


MANY_RINGS = 4


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a cell: what its axis says."""

    label: str
    form: Form = "number"
    better: Better | None = None
    """Which way is good; None: neither, no best is marked."""
    include: tuple[float, ...] = ()


METRIC_FIGURE: dict[Metric, Figure] = {
    "accuracy": Figure(label="accuracy", form="share", better=BETTER["accuracy"]),
    "bits_per_byte": Figure(label="task loss (bits per byte)", better=BETTER["bits_per_byte"]),
}
LOSS_FIGURE = Figure(label="nats", better="lower")


class Look(NamedTuple):
    """Colour and mark of one family."""

    colour: str
    marker: Marker


def family_look(index: int) -> Look:
    """Colour and mark of the family of this number: 36 before one comes again."""
    colours, marks = len(COLOURS), len(MARKERS)
    return Look(COLOURS[index % colours], MARKERS[(index + index // colours) % marks])


def means_chart(
    name: str,
    title: str,
    figure: Figure,
    x_kind: str,
    series: Sequence[NamedCells],
    sampler: Sampler,
) -> Chart | None:
    """One chart of means over seeds; None where nothing was measured."""
    drawn: list[tuple[str, list[tuple[Cell, Sample]]]] = []
    for label, cells in series:
        pairs = [(cell, sampler(cell)) for cell in cells]
        measured = [(cell, found) for cell, found in pairs if found is not None]
        drawn += [(label, measured)] if measured else []
    if not drawn:
        return None
    marks, rings = [], []
    for index, (label, places) in enumerate(drawn):
        look = family_look(index)
        marks += _cell_series(label, places, x_kind, look)
        if x_kind == "density" and figure.better is not None and len(places) > 1:
            # Words on many rings would lie on each other; the caption says what they are.
            word = "best mean" if len(drawn) < MANY_RINGS else ""
            rings.append(_best(places, x_kind, figure.better, word))
    words = " ".join(
        f"{label}: {', '.join(f'{s.mean:.3g}' for _, s in places)}." for label, places in drawn
    )
    x_axis = _x_axis(x_kind, [cell for _, places in drawn for cell, _ in places])
    return Chart(
        name=name,
        title=title,
        description=f"{title} against {x_axis.label}. {words}",
        x=x_axis,
        y=figure_axis(figure),
        series=tuple(marks),
        rings=tuple(rings),
    )


def _cell_series(
    label: str, places: Sequence[tuple[Cell, Sample]], x_kind: str, look: Look
) -> list[Series]:
    """Single seeds, faint, under the means with their intervals."""
    seeds, means = [], []
    for cell, found in places:
        x = cell_place(cell, x_kind)
        known = estimate(found.values, found.item_errors)
        seeds += [Mark(x=x, y=value, cell=cell.name) for value in found.values]
        means.append(
            Mark(
                x=x,
                y=known.mean,
                low=known.low,
                high=known.high,
                cell=cell.name,
                text=_mean_text(cell, found, known.low, known.high),
            )
        )
    one_seed = all(len(found.values) == 1 for _, found in places)
    top = Series(
        label=label, marks=tuple(means), joined=True, colour=look.colour, marker=look.marker
    )
    if one_seed:
        return [top]
    return [
        Series(label=None, marks=tuple(seeds), faint=True, colour=look.colour, marker=look.marker),
        top,
    ]


def _mean_text(cell: Cell, found: Sample, low: float | None, high: float | None) -> str:
    span = "" if low is None or high is None else f"95% interval {low:.4g} to {high:.4g}\n"
    number = len(found.values)
    shape = cell.shape
    return (
        f"mean of {number} seed{'s' if number > 1 else ''}\n{span}"
        f"E={shape.num_experts}, k={shape.top_k}, {cell.sparsity_label}"
    )


def _best(places: Sequence[tuple[Cell, Sample]], x_kind: str, better: Better, word: str) -> Ring:
    choose = min if better == "lower" else max
    cell, found = choose(places, key=lambda pair: pair[1].mean)
    return Ring(x=cell_place(cell, x_kind), y=found.mean, text=word)


def figure_axis(figure: Figure) -> Axis:
    """The y axis of a figure."""
    within = (-0.04, 1.06) if figure.label == "accuracy" else None
    return Axis(label=figure.label, form=figure.form, include=figure.include, within=within)


def _x_axis(kind: str, cells: Sequence[Cell]) -> Axis:
    if kind == "density":
        at = tuple(sorted({cell.shape.density for cell in cells}))
        return Axis(label="density k/E", scale="log", form="fraction", descending=True, at=at)
    label = {"size": "total parameters", "tpp": "tokens / total parameters"}[kind]
    return Axis(label=label, scale="log", form="count")


def cell_place(cell: Cell, kind: str) -> float:
    """Where a cell lies on an x axis: "size", "density" or "tpp"."""
    shape = cell.shape
    return {"size": float(shape.total_params), "density": shape.density, "tpp": shape.tpp}[kind]
