"""Where an axis has ticks, and how numbers on it are written."""

import math

from isoflop.analysis.charts.chart import Axis, Form
from isoflop.design.plan import format_count

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
WANTED = 6
"""Ticks on an axis, about."""


def span(axis: Axis, values: list[float]) -> tuple[float, float]:
    """Ends of the axis: all values with a margin, within what the axis allows."""
    shown = [*values, *axis.include]
    low, high = min(shown), max(shown)
    if axis.scale == "log":
        wide = max((high / low) ** 0.05, 1.12)
        return low / wide, high * wide
    size = max(abs(low), abs(high))
    margin = max(0.06 * (high - low), 0.002 * size) or 0.1
    low, high = low - margin, high + margin
    if axis.within is not None:
        low, high = max(low, axis.within[0]), min(high, axis.within[1])
    return low, high


def ticks(axis: Axis, low: float, high: float) -> list[float]:
    """Places of the ticks between the ends."""
    if axis.at:
        return [tick for tick in axis.at if low <= tick <= high]
    return _log_ticks(low, high) if axis.scale == "log" else _even_ticks(low, high)


def _even_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / WANTED
    power = 10 ** math.floor(math.log10(rough))
    step = next(s * power for s in STEPS if s * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = math.log10(high / low)
    if decades < 0.5:
        return [tick for tick in _even_ticks(low, high) if tick > 0]
    # Few decades need more labels than the powers of ten.
    inner = (1, 2, 5) if decades < 2.3 else (1,)
    every = max(1, math.ceil(decades / 8))
    found = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        if power % every == 0:
            found += [step * 10.0**power for step in inner]
    return [tick for tick in found if low <= tick <= high]


def tick_text(value: float, form: Form) -> str:
    """A tick as a reader sees it.

    >>> [tick_text(0.25, form) for form in ("number", "share", "fraction")]
    ['0.25', '25%', '1/4']
    >>> tick_text(1_200_000.0, "count")
    '1.2M'
    """
    if form == "share":
        return f"{100 * value:.4g}%"
    if form == "count":
        return format_count(round(value)) if 1000 <= value < 1e15 else f"{value:.3g}"
    if form == "fraction":
        return _fraction(value)
    rounded = float(f"{value:.10g}")
    return f"{rounded:.4g}"


def _fraction(density: float) -> str:
    """1/32 rather than 0.03125, where it is one."""
    if density >= 1:
        return "dense"
    inverse = 1 / density
    return f"1/{inverse:.0f}" if abs(inverse - round(inverse)) < 1e-9 else f"{density:.3g}"
