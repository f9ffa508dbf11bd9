"""A chart as one <svg> element: readable alone and printed, and live where the page's script runs.

Marks carry what the script needs: the cell and seed for filters, the text that pointing shows, and
for runs with many checkpoints the lines of the page's data instead of a text each. Runs are two
paths, however many points they have, so that thousands of checkpoints stay small.
"""

import math
from collections.abc import Iterable
from xml.sax.saxutils import quoteattr

from isoflop.analysis.charts.chart import INK, Axis, Chart, Curve, Mark, Ring, Series, all_values
from isoflop.analysis.charts.ticks import span, tick_text, ticks

WIDTH = 460.0
PLOT_HEIGHT = 270.0
LEFT, RIGHT, TITLE, BOTTOM = 62.0, 12.0, 26.0, 46.0
"""Margins about the plot, the legend's rows left out."""

LEGEND_ROW = 16.0
LETTER = 7.8
"""Width of a letter, about: of 13.5 pixels, as on a phone (page.css)."""

FAINT = "#d9dee3"
SOFT = "#52606d"
STYLE = (
    "text{font:11.5px 'DejaVu Sans',Verdana,sans-serif;fill:" + INK + "}"
    ".title{font-weight:bold;font-size:12.5px}.tick{fill:" + SOFT + ";font-size:11px}"
)


class Frame:
    """Where values lie on the plot, in pixels."""

    def __init__(self, chart: Chart, top: float):
        xs, ys = all_values(chart)
        self.x_axis, self.y_axis, self.top = chart.x, chart.y, top
        self.x_span, self.y_span = span(chart.x, xs), span(chart.y, ys)

    def x(self, value: float) -> float:
        """Pixels from the left."""
        share = _share(self.x_axis, self.x_span, value)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top; values beyond the ends stay on the edge."""
        share = min(max(_share(self.y_axis, self.y_span, value), 0.0), 1.0)
        return self.top + (1 - share) * PLOT_HEIGHT


def _share(axis: Axis, ends: tuple[float, float], value: float) -> float:
    low, high = ends
    if axis.scale == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    share = (value - low) / (high - low)
    return 1 - share if axis.descending else share


def svg_text(chart: Chart) -> str:
    """The chart as an <svg> element.

    Raises:
        ValueError: nothing to draw.
    """
    if not all_values(chart)[0]:
        raise ValueError(f"{chart.name}: a chart needs at least one point")
    legend = _entries(chart)
    rows = _legend_rows(list(legend))
    top = TITLE + LEGEND_ROW * len(rows)
    height = top + PLOT_HEIGHT + BOTTOM
    frame = Frame(chart, top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH:.0f} {height:.0f}"'
        f' role="img" aria-label={quoteattr(chart.description)} data-x={quoteattr(chart.x.label)}'
        f" data-y={quoteattr(chart.y.label)} data-name={quoteattr(chart.name)}"
        f" data-column={quoteattr(chart.column)}>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="2" y="14">{_escape(chart.title)}</text>',
        *_legend(legend, rows),
        *_grid(frame, chart),
        *(_curve(frame, curve) for curve in chart.curves),
        *(part for series in chart.series for part in _series(frame, series)),
        *(_ring(frame, ring) for ring in chart.rings),
        "</svg>\n",
    ]
    return "".join(parts)


def _entries(chart: Chart) -> dict[str, Series | Curve]:
    """What the legend names; nothing where there is one thing only."""
    found: dict[str, Series | Curve] = {}
    for series in chart.series:
        if series.label is not None:
            found.setdefault(series.label, series)
    for curve in chart.curves:
        if curve.label is not None:
            found.setdefault(curve.label, curve)
    return found if len(found) > 1 else {}


def _legend_rows(labels: list[str]) -> list[list[str]]:
    """Labels by rows that fit the width."""
    rows: list[list[str]] = []
    used = WIDTH
    for label in labels:
        width = 30 + LETTER * len(label)
        if used + width > WIDTH - 4 or not rows:
            rows.append([])
            used = 2.0
        rows[-1].append(label)
        used += width
    return rows


def _legend(entries: dict[str, Series | Curve], rows: list[list[str]]) -> list[str]:
    found = []
    for number, row in enumerate(rows):
        x, y = 2.0, TITLE + LEGEND_ROW * number
        for label in row:
            entry = entries[label]
            line = f'<path d="M{x:.0f} {y:.0f}h18" stroke="{entry.colour}" stroke-width="1.6"'
            dash = ' stroke-dasharray="5 3"' if isinstance(entry, Curve) and entry.dashed else ""
            if isinstance(entry, Curve) or entry.joined:
                found.append(f"{line}{dash}/>")
            if isinstance(entry, Series):
                found.append(_shape(x + 9, y, entry.marker, entry.colour, 3.6, filled=True))
            found.append(f'<text x="{x + 22:.0f}" y="{y + 4:.0f}">{_escape(label)}</text>')
            x += 30 + LETTER * len(label)
    return found


def _grid(frame: Frame, chart: Chart) -> list[str]:
    """Grid, ticks, axes and their labels."""
    bottom = frame.top + PLOT_HEIGHT
    right = WIDTH - RIGHT
    lines, texts = [], []
    last = -math.inf
    for value in sorted(ticks(chart.x, *frame.x_span), key=frame.x):
        x, text = frame.x(value), tick_text(value, chart.x.form)
        lines.append(f"M{x:.1f} {frame.top:.0f}V{bottom:.0f}")
        # A label too near to the one before would lie on it.
        if x - last > LETTER * len(text) + 4:
            texts.append(
                f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{bottom + 14:.0f}">'
                f"{_escape(text)}</text>"
            )
            last = x
    for value in ticks(chart.y, *frame.y_span):
        y = frame.y(value)
        lines.append(f"M{LEFT:.0f} {y:.1f}H{right:.0f}")
        texts.append(
            f'<text class="tick" text-anchor="end" x="{LEFT - 5:.0f}" y="{y + 4:.1f}">'
            f"{_escape(tick_text(value, chart.y.form))}</text>"
        )
    middle_x, middle_y = (LEFT + right) / 2, frame.top + PLOT_HEIGHT / 2
    return [
        f'<path d="{"".join(lines)}" stroke="{FAINT}" stroke-width=".7" fill="none"/>',
        f'<path d="M{LEFT:.0f} {frame.top:.0f}V{bottom:.0f}H{right:.0f}" stroke="#7b8794" fill="none"/>',
        *texts,
        f'<text text-anchor="middle" x="{middle_x:.0f}" y="{bottom + 34:.0f}">'
        f"{_escape(chart.x.label)}</text>",
        f'<text text-anchor="middle" transform="translate(13 {middle_y:.0f}) rotate(-90)">'
        f"{_escape(chart.y.label)}</text>",
    ]


def _curve(frame: Frame, curve: Curve) -> str:
    path = _path((frame.x(x), frame.y(y)) for x, y in curve.points)
    dash = ' stroke-dasharray="5 3"' if curve.dashed else ""
    band = ""
    if curve.band:
        edge = [(frame.x(x), frame.y(low)) for x, low, _ in curve.band]
        edge += [(frame.x(x), frame.y(high)) for x, _, high in reversed(curve.band)]
        band = f'<path d="{_path(edge)}Z" fill="{curve.colour}" opacity=".15"/>'
    return f'{band}<path d="{path}" fill="none" stroke="{curve.colour}" stroke-width="1.5"{dash}/>'


def _series(frame: Frame, series: Series) -> list[str]:
    """Lines first, then marks; marks that are lines of the data go by runs."""
    found = []
    if series.joined and not all(mark.row is not None for mark in series.marks):
        path = _path((frame.x(mark.x), frame.y(mark.y)) for mark in series.marks)
        found.append(
            f'<path class="join" d="{path}" fill="none" stroke="{series.colour}" stroke-width="1.6"/>'
        )
    if series.marks and all(mark.row is not None for mark in series.marks):
        return [*found, _run(frame, series)]
    return found + [_mark(frame, series, mark) for mark in series.marks]


def _run(frame: Frame, series: Series) -> str:
    """Checkpoints of one run: a line, and its points as one path of round dots."""
    places = [(frame.x(mark.x), frame.y(mark.y)) for mark in series.marks]
    names = _names(series.marks[0])
    rows = _ranges([mark.row for mark in series.marks if mark.row is not None])
    line = ""
    if series.joined:
        line = (
            f'<path d="{_path(places)}" fill="none" stroke="{series.colour}" '
            'stroke-width=".8" opacity=".55"/>'
        )
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
    size = "3.2" if series.faint else "6.5"
    return (
        f'<g class="run" data-rows="{rows}"{names}>{line}<path class="dots" d="{dots}" '
        f'stroke="{series.colour}" stroke-width="{size}" stroke-linecap="round"/></g>'
    )


def _mark(frame: Frame, series: Series, mark: Mark) -> str:
    x, y = frame.x(mark.x), frame.y(mark.y)
    bar = ""
    if mark.low is not None and mark.high is not None:
        ends = f"M{x:.1f} {frame.y(mark.low):.1f}V{frame.y(mark.high):.1f}"
        bar = f'<path d="{ends}" stroke="{series.colour}" stroke-width="1.1"/>'
    size = 3.0 if series.faint else 4.2
    shape = _shape(x, y, series.marker, series.colour, size, filled=not series.faint)
    tip = f" data-tip={quoteattr(mark.text)}" if mark.text else ""
    return (
        f'<g class="mark"{_names(mark)}{tip} data-at="{x:.1f} {y:.1f}" '
        f'data-v="{mark.x:.6g} {mark.y:.6g}">{bar}{shape}</g>'
    )


def _names(mark: Mark) -> str:
    seed = "" if mark.seed is None else f' data-seed="{mark.seed}"'
    return f" data-cell={quoteattr(mark.cell)}{seed}" if mark.cell else seed


def _ring(frame: Frame, ring: Ring) -> str:
    x, y = frame.x(ring.x), frame.y(ring.y)
    # On the side where the axis is not.
    right = x < (LEFT + WIDTH) / 2
    anchor, shift = ("start", 9) if right else ("end", -9)
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{INK}"/>'
        f'<text class="tick" text-anchor="{anchor}" x="{x + shift:.1f}" y="{y - 9:.1f}">'
        f"{_escape(ring.text)}</text>"
    )


def _shape(x: float, y: float, marker: str, colour: str, size: float, *, filled: bool) -> str:
    paint = f'fill="{colour}"' if filled else f'fill="#fff" stroke="{colour}" opacity=".6"'
    if marker == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" {paint}/>'
    s = size
    corners = {
        "square": f"m{-s:.1f} {-s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z",
        "triangle": f"m0 {-1.2 * s:.1f}l{1.15 * s:.1f} {2.1 * s:.1f}h{-2.3 * s:.1f}z",
        "down": f"m0 {1.2 * s:.1f}l{1.15 * s:.1f} {-2.1 * s:.1f}h{-2.3 * s:.1f}z",
        "diamond": f"m0 {-1.35 * s:.1f}l{1.35 * s:.1f} {1.35 * s:.1f}l{-1.35 * s:.1f} {1.35 * s:.1f}"
        f"l{-1.35 * s:.1f} {-1.35 * s:.1f}z",
        "cross": f"m{-s:.1f} {-s:.1f}l{2 * s:.1f} {2 * s:.1f}m0 {-2 * s:.1f}l{-2 * s:.1f} {2 * s:.1f}",
    }
    if marker == "cross":
        paint = f'fill="none" stroke="{colour}" stroke-width="{1.8 if filled else 1.1}"'
    return f'<path d="M{x:.1f} {y:.1f}{corners[marker]}" {paint}/>'


def _path(points: Iterable[tuple[float, float]]) -> str:
    text = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f"M{text}" if text else ""


def _ranges(rows: list[int]) -> str:
    """Rows as "3-7,9": runs lie together in the data.

    >>> _ranges([3, 4, 5, 9])
    '3-5,9'
    """
    found: list[list[int]] = []
    for row in rows:
        if found and row == found[-1][1] + 1:
            found[-1][1] = row
        else:
            found.append([row, row])
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in found)


def _escape(text: str) -> str:
    pairs = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"))
    for plain, escaped in pairs:
        text = text.replace(plain, escaped)
    return text
