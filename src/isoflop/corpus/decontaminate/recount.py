"""Scores without the items that were found in the corpus."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from isoflop.config import UserError

Z_95 = 1.959963984540054
"""Of a two-sided interval of 95%."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A share of right answers with Wilson's 95% interval (Wilson 1927)."""

    num_items: int
    num_correct: int
    accuracy: float | None
    """None: there is no item."""
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Recount:
    """One benchmark's score with and without flagged items."""

    all_items: Accuracy
    unflagged: Accuracy
    flagged: Accuracy
    unknown_flags: tuple[str, ...]
    """Flagged items that were not scored: ids of another form, if they are many."""


def recount(correct: Mapping[str, bool], flagged: set[str]) -> Recount:
    """Score all items, those without a flag, and those with one.

    Args:
        correct: whether each item, by id, was answered rightly.
        flagged: ids of items that were found in the corpus.

    Raises:
        UserError: items are flagged and none of them was scored: the ids do not fit.
    """
    unknown = tuple(sorted(flagged - correct.keys()))
    if flagged and len(unknown) == len(flagged):
        theirs = next(iter(sorted(correct)), "none")
        raise UserError(
            f"none of the {len(flagged)} flagged items was scored: flagged {unknown[0]!r}, scored "
            f"{theirs!r}; give scores whose ids are the benchmark's"
        )
    return Recount(
        all_items=accuracy(list(correct.values())),
        unflagged=accuracy([right for item, right in correct.items() if item not in flagged]),
        flagged=accuracy([right for item, right in correct.items() if item in flagged]),
        unknown_flags=unknown,
    )


def accuracy(answers: list[bool]) -> Accuracy:
    """The share of right answers, with its interval.

    >>> accuracy([True, True, False, True]).accuracy
    0.75
    """
    n, right = len(answers), sum(answers)
    if n == 0:
        return Accuracy(num_items=0, num_correct=0, accuracy=None, low=None, high=None)
    share = right / n
    centre = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n * n))
    return Accuracy(
        num_items=n,
        num_correct=right,
        accuracy=share,
        low=max(0.0, centre - half),
        high=min(1.0, centre + half),
    )
