"""How a figure looks and becomes text: panels of one size, safe colours, the same bytes each time.

Only matplotlib's object interface is used: no window, no global figure, no global style.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from isoflop.analysis.statistics import Estimate
from isoflop.design.plan import format_count

PANEL_INCHES = (5.2, 3.7)
"""Width and height of one panel; two stand side by side on a desk and one on a phone."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's colours, told apart with every common colour vision."""

MARKERS = ("o", "s", "^", "D", "v", "P")
"""Marks go with colours, so that print without colour can be read."""

INK = "#1f2933"
FAINT = "#d9dee3"
"""Text and grid lines."""

FONT = "DejaVu Sans"
"""Comes with matplotlib, so that text has the same width on every machine."""

STYLE: dict[Any, Any] = {
    "font.family": [FONT],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a cell may be named "$E$"
    "axes.edgecolor": "#7b8794",
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    # Fixed margins, so that the axes of panels side by side line up.
    "figure.subplot.left": 0.145,
    "figure.subplot.right": 0.975,
    "figure.subplot.bottom": 0.14,
    "figure.subplot.top": 0.91,
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small plot of a figure."""

    name: str
    """File name without its ending, unique within a report."""
    description: str
    """What the plot shows, in words, for readers who do not see it."""
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class FigureGroup:
    """Panels that answer one question together."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]


def new_panel(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty panel in the common style."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=PANEL_INCHES)
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
    return figure, axes


def log_counts(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis of counts, labelled "200K", "1M"."""
    axes.set_xscale("log")
    low, high = min(values), max(values)
    # Few decades need more labels than the powers of ten.
    steps = (1, 2, 5) if high / low < 200 else (1,)
    axes.set_xlim(low / 1.25, high * 1.25)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def density_axis(axes: Axes, densities: Sequence[float]) -> None:
    """A logarithmic x axis of k/E with one tick a measured density, sparser to the right."""
    axes.set_xscale("log", base=2)
    ticks = sorted(set(densities))
    axes.set_xticks(ticks, [_fraction(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(max(ticks) * 1.4, min(ticks) / 1.4)


def share_axis(axes: Axes) -> None:
    """A y axis of shares, written in percent."""
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))


def draw_points(
    axes: Axes, points: Sequence[tuple[float, float]], colour: str, marker: str
) -> None:
    """One faint mark a seed."""
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        marker,
        color=colour,
        alpha=0.55,
        markersize=4,
        fillstyle="none",
    )


def draw_means(
    axes: Axes,
    points: Sequence[tuple[float, Estimate]],
    colour: str,
    marker: str,
    label: str | None,
) -> None:
    """Means over seeds joined by a line, with the 95% interval where there is one."""
    axes.plot(
        [x for x, _ in points],
        [found.mean for _, found in points],
        marker=marker,
        color=colour,
        label=label,
    )
    for x, found in points:
        if found.low is not None and found.high is not None:
            axes.vlines(x, found.low, found.high, color=colour, linewidth=1.1)


def finish(axes: Axes) -> None:
    """A legend, where several things are drawn."""
    with matplotlib.rc_context(STYLE):
        handles, labels = axes.get_legend_handles_labels()
        if len(labels) > 1:
            axes.legend(handles, labels, ncols=2 if len(labels) > 4 else 1)


def svg_text(panel: Panel) -> str:
    """The panel as one <svg> element: no date, no outside reference, ids of its own."""
    out = io.StringIO()
    settings = {**STYLE, "svg.hashsalt": panel.name}
    with matplotlib.rc_context(settings):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(panel.figure).print_svg(out, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    label = _escape(panel.description)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", panel.name)
    # Several figures share one page, where an id must be unique.
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    # Verdana is as wide, for readers without the first font.
    return text.replace(f"'{FONT}'", f"'{FONT}', Verdana, sans-serif").strip() + "\n"


def png_bytes(panel: Panel, dots_per_inch: float = 150.0) -> bytes:
    """The panel as a picture, for places that show no SVG."""
    out = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "savefig.dpi": dots_per_inch}):
        FigureCanvasAgg(panel.figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


def _escape(text: str) -> str:
    pairs = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"))
    for plain, escaped in pairs:
        text = text.replace(plain, escaped)
    return text


def _tick(value: float) -> str:
    """A count as elsewhere; tokens per parameter may lie below 1."""
    return format_count(round(value)) if value >= 1000 else f"{value:.3g}"


def _fraction(density: float) -> str:
    """1/32 rather than 0.03125, where it is one."""
    if density >= 1:
        return "dense"
    inverse = 1 / density
    return f"1/{inverse:.0f}" if abs(inverse - round(inverse)) < 1e-9 else f"{density:.3g}"
