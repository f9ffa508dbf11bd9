"""Blocks of text that stand twice in a row, found in n log n steps.

The published filter is a regular expression with a back reference, whose time grows with the
square of the length (0.76 s for 8,000 characters). Here a block of p characters at place i, repeated
at once, is a stretch of p equal pairs (j, j + p). Such a stretch holds a multiple k p of p, and at
least half of it lies on one side of k p. So for every p and k two hashes are compared; the few
that agree are looked at character by character. Summed over p that is n / p pairs: n log n in all.
After Main and Lorentz 1984, "An O(n log n) algorithm for finding all repetitions in a string".

In most texts few p are possible, which is found out first: of a repeated block all but the last
`floor - 1` places begin `floor` characters that stand again p places on.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from isoflop.corpus.filters.config import REPEAT_FLOOR_CHARACTERS

_PRIME = (1 << 31) - 1
_BASE = 1_000_003 % _PRIME
"""Of the polynomial hash. A collision costs time, never a wrong answer: every match is verified."""

PAIRS_AT_ONCE = 1 << 18
"""Pairs compared in one go, so that memory stays flat: a few MB. Chosen."""

MOST_REPEATS = 64
"""Where some `floor` characters stand more often than this, every p is tried. Chosen."""

Array = npt.NDArray[np.int64]


def longest_repeat(text: str, floor: int = REPEAT_FLOOR_CHARACTERS) -> int:
    """Characters of the longest block of at least `floor` that is followed at once by itself; else 0.

    >>> longest_repeat("x = 1; " + "print(hello, world)\\n" * 6)
    60
    """
    n = len(text)
    if n < 2 * floor:
        return 0
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    hashes, powers = _prefix_hashes(codes)
    longest = 0
    for periods, anchors in _pairs(n, _possible_periods(hashes, powers, floor)):
        half = (periods + 1) // 2
        found = _equal(hashes, powers, anchors, anchors + periods, half)
        found |= _equal(hashes, powers, anchors - half, anchors + periods - half, half)
        for place in np.flatnonzero(found).tolist():
            period, anchor = int(periods[place]), int(anchors[place])
            if period > longest and _stretch(codes, anchor, period) >= period:
                longest = period
    return longest


def _possible_periods(hashes: Array, powers: Array, floor: int) -> Array:
    """All p, ascending, for which enough stretches of `floor` characters stand again p places on."""
    n = len(hashes) - 1
    every = np.arange(floor, n // 2 + 1, dtype=np.int64)
    # Each hash times the power that makes it independent of its place.
    stretches = (hashes[floor:] - hashes[:-floor]) % _PRIME * powers[n - floor :: -1] % _PRIME
    order = np.argsort(stretches, kind="stable")
    ordered = stretches[order]
    counts = np.zeros(n, dtype=np.int64)
    for lag in range(1, min(MOST_REPEATS, len(ordered)) + 1):
        same = ordered[lag:] == ordered[:-lag]
        if not same.any():
            return every[counts[every] >= every - floor + 1]
        counts += np.bincount((order[lag:] - order[:-lag])[same], minlength=n)
    return every


def _pairs(n: int, wanted: Array) -> Iterator[tuple[Array, Array]]:
    """All (p, k p) with p wanted and k p + p <= n, in pieces."""
    first = 0
    while first < len(wanted):
        # Every p from here on has at most so many anchors.
        most = n // int(wanted[first])
        periods = wanted[first : first + max(1, PAIRS_AT_ONCE // most)]
        anchors = np.outer(periods, np.arange(most, dtype=np.int64))
        inside = anchors + periods[:, None] <= n
        yield np.broadcast_to(periods[:, None], anchors.shape)[inside], anchors[inside]
        first += len(periods)


def _prefix_hashes(codes: npt.NDArray[np.uint32]) -> tuple[Array, Array]:
    """Hashes of all prefixes, sum of code_i B^i mod P, and the powers of B."""
    n = len(codes)
    powers = np.ones(1, dtype=np.int64)
    step = _BASE
    while len(powers) <= n:
        powers = np.concatenate([powers, powers * step % _PRIME])
        step = step * step % _PRIME
    powers = powers[: n + 1]
    terms = (codes.astype(np.int64) + 1) * powers[:n] % _PRIME
    hashes = np.zeros(n + 1, dtype=np.int64)
    # A sum of 2^31 terms below 2^31 fits into 63 bits.
    np.cumsum(terms, out=hashes[1:])
    return hashes % _PRIME, powers


def _equal(
    hashes: Array, powers: Array, first: Array, second: Array, lengths: Array
) -> npt.NDArray[np.bool_]:
    """Whether the stretches at `first` and `second` have equal hashes; False outside the text."""
    n = len(hashes) - 1
    inside = (first >= 0) & (second + lengths <= n)
    a, b = np.where(inside, first, 0), np.where(inside, second, 0)
    size = np.where(inside, lengths, 0)
    left = (hashes[a + size] - hashes[a]) % _PRIME * powers[b - a] % _PRIME
    result: npt.NDArray[np.bool_] = inside & (left == (hashes[b + size] - hashes[b]) % _PRIME)
    return result


def _stretch(codes: npt.NDArray[np.uint32], anchor: int, period: int) -> int:
    """Length, up to 2 p, of the stretch of pairs (j, j + p) of equal characters around an anchor."""
    low = max(0, anchor - period)
    back = codes[low:anchor] == codes[low + period : anchor + period]
    ahead_end = min(len(codes) - period, anchor + period)
    ahead = codes[anchor:ahead_end] == codes[anchor + period : ahead_end + period]
    return _leading(back[::-1]) + _leading(ahead)


def _leading(equal: npt.NDArray[np.bool_]) -> int:
    """How many True values come first."""
    return len(equal) if equal.all() else int(np.argmin(equal))
