"""Two texts side by side, with what differs marked. Pure."""

import difflib
from dataclasses import dataclass

SHOWN_LINES = 400
"""Of each text: the time of a comparison grows with the square of the lines. Chosen."""

SHOWN_CHARACTERS = 400
"""Of a line."""

Piece = tuple[bool, str]
"""Whether it differs, and the text."""


@dataclass(frozen=True)
class LinePair:
    """A line before and after; None where there is none."""

    before: tuple[Piece, ...] | None
    after: tuple[Piece, ...] | None


def side_by_side(before: str, after: str) -> list[LinePair]:
    """The lines of both texts, equal ones in one row.

    >>> [pair.after for pair in side_by_side("a = 1\\nb", "a = 2\\nb")]
    [((False, 'a = '), (True, '2')), ((False, 'b'),)]
    """
    old, new = _lines(before), _lines(after)
    pairs: list[LinePair] = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "equal":
            pairs += [LinePair(((False, line),), ((False, line),)) for line in old[i:j]]
            continue
        for step in range(max(j - i, m - k)):
            left = old[i + step] if i + step < j else None
            right = new[k + step] if k + step < m else None
            pairs.append(_changed(left, right))
    return pairs


def _changed(before: str | None, after: str | None) -> LinePair:
    if before is None or after is None:
        left = None if before is None else ((True, before),)
        right = None if after is None else ((True, after),)
        return LinePair(left, right)
    left_pieces: list[Piece] = []
    right_pieces: list[Piece] = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if j > i:
            left_pieces.append((kind != "equal", before[i:j]))
        if m > k:
            right_pieces.append((kind != "equal", after[k:m]))
    return LinePair(tuple(left_pieces), tuple(right_pieces))


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    shown = [line[:SHOWN_CHARACTERS] for line in lines[:SHOWN_LINES]]
    if len(lines) > SHOWN_LINES:
        shown.append(f"... {len(lines) - SHOWN_LINES} more lines")
    return shown
