"""One spelling for characters that pages write in several ways, with the places they come from.

What HTML names is what it stands for ("&nbsp;"), full-width and composed letters are plain ones
(NFKC), and characters of format without a shape of their own (soft hyphens, spaces of no width:
Unicode's class Cf) are left out.
"""

import functools
import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_UNUSUAL = re.compile(
    r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});|[\x00-\x7f]?[^\x00-\x7f]+"
)
"""What may be spelled in another way. A mark may belong to the letter before it."""


@dataclass(frozen=True)
class Respelled:
    """A text in one spelling, and where each of its characters begins and ends in the original."""

    text: str
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def respelled(text: str) -> Respelled | None:
    """The text in one spelling; None: it is spelled so already.

    >>> respelled("a&nbsp;b\\u00ad\\uff43").text.split()
    ['a', 'bc']
    >>> respelled("a && b") is None
    True
    """
    changes = [(a, b, new) for a, b, new in _replacements(text) if new != text[a:b]]
    if not changes:
        return None
    pieces, done = list[str](), 0
    for start, stop, new in changes:
        pieces += text[done:start], new
        done = stop
    begins = np.array([start for start, _, _ in changes], dtype=np.int64)
    stops = np.array([stop for _, stop, _ in changes], dtype=np.int64)
    lengths = np.array([len(new) for _, _, new in changes], dtype=np.int64)
    # A letter that stays is moved by what all changes before it made longer.
    moved = np.concatenate([[0], np.cumsum(lengths - (stops - begins))])
    steps = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(steps, begins, 1)
    np.add.at(steps, stops, -1)
    kept = np.flatnonzero(np.cumsum(steps[:-1]) == 0)
    starts = np.empty(len(text) + moved[-1], dtype=np.int64)
    ends = np.empty_like(starts)
    is_new = np.ones(len(starts), dtype=np.bool_)
    places = kept + moved[np.searchsorted(begins, kept, side="right")]
    is_new[places] = False
    starts[places], ends[places] = kept, kept + 1
    starts[is_new], ends[is_new] = np.repeat(begins, lengths), np.repeat(stops, lengths)
    return Respelled(text="".join([*pieces, text[done:]]), starts=starts, ends=ends)


def _replacements(text: str) -> Iterator[tuple[int, int, str]]:
    """Stretches that may be spelled in another way: begin, end, and how they are spelled here."""
    for found in _UNUSUAL.finditer(text):
        start, stop = found.span()
        if found[0].startswith("&") and found[0].endswith(";"):
            yield start, stop, _plain_letter(html.unescape(found[0]))
        elif _plain(found[0]) != found[0]:
            for piece_start, piece_stop in _letters(text, start, stop):
                yield piece_start, piece_stop, _plain_letter(text[piece_start:piece_stop])


def _letters(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Each letter with its marks and with the parts of its syllable (Hangul)."""
    for place in range(start + 1, stop):
        if not (unicodedata.combining(text[place]) or "\u1160" <= text[place] <= "\u11ff"):
            yield start, place
            start = place
    yield start, stop


@functools.lru_cache(maxsize=1 << 12)
def _plain_letter(letter: str) -> str:
    """As `_plain`: a text uses few letters often."""
    return _plain(letter)


def _plain(text: str) -> str:
    kept = (letter for letter in text if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFKC", "".join(kept))
