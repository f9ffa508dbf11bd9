"""Colours of an ordered scale: dark for dense to light for sparse, safe for colour vision."""

from collections.abc import Iterable

VIRIDIS = (
    *("#440154", "#482878", "#3e4a89", "#31688e", "#26828e"),
    *("#1f9e89", "#35b779", "#6dcd59", "#a8db34"),
)
"""Nine colours of viridis from its dark end (van der Walt and Smith 2015; public domain), its
palest tenth left out, as it cannot be read on white."""


def sparsity_colours(levels: Iterable[float]) -> dict[float, str]:
    """A colour for each level, in even steps."""
    ordered = sorted(set(levels))
    steps = max(len(ordered) - 1, 1)
    return {level: _at(place / steps) for place, level in enumerate(ordered)}


def _at(share: float) -> str:
    """The colour at a share of the scale, between its two neighbours."""
    place = share * (len(VIRIDIS) - 1)
    first = min(int(place), len(VIRIDIS) - 2)
    low, high = VIRIDIS[first], VIRIDIS[first + 1]
    pairs = [(int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5)]
    mixed = [round(a + (b - a) * (place - first)) for a, b in pairs]
    return "#" + "".join(f"{part:02x}" for part in mixed)
