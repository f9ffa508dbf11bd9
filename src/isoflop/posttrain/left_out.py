"""What of the data is not asked, and why: counted by source and reason, for people."""

from collections import Counter
from collections.abc import Iterable

from isoflop.posttrain.problems import ProblemSet
from isoflop.posttrain.rows import LeftOutRow, Split

LEFT_OUT_FILE = "left_out.jsonl"
"""LeftOutRow, in a run's folder."""

TOO_LONG = "prompt too long"
"""Reason of a problem that can be read but does not fit."""


def rows_set_aside(problems: ProblemSet, split: Split) -> list[LeftOutRow]:
    """Rows of the data that no problem could be made of."""
    return [
        LeftOutRow(
            source=problems.name,
            split=split,
            problem=one.where,
            reason=one.reason,
            detail=one.detail,
            prompt_tokens=None,
            most_tokens=None,
        )
        for one in problems.set_aside
    ]


def left_out_lines(rows: Iterable[LeftOutRow]) -> list[str]:
    """One line for each source and split of which something is left out.

    >>> row = LeftOutRow(source="math500", split="train", problem="7", reason=TOO_LONG, detail="",
    ...     prompt_tokens=600, most_tokens=512)
    >>> left_out_lines([row, row])
    ['left out of math500, train: 2 prompt too long']
    """
    counts: dict[tuple[str, Split], Counter[str]] = {}
    for row in rows:
        counts.setdefault((row.source, row.split), Counter())[row.reason] += 1
    return [
        f"left out of {source}, {split}: "
        + ", ".join(f"{number} {reason}" for reason, number in sorted(found.items()))
        for (source, split), found in counts.items()
    ]
