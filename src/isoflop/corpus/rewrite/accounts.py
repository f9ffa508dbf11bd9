"""What a rewriting came to: counts that are the same however it was interrupted, and their sum."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from isoflop.config import UserError
from isoflop.corpus.rows import TextRow

TOKENS_OF_A_PRICE = 1_000_000
"""Prices are for a million tokens, as providers quote them."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What an endpoint costs, in any currency."""

    prompt: float = 0.0
    """Of a million prompt tokens."""
    completion: float = 0.0
    """Of a million completion tokens."""

    def __post_init__(self) -> None:
        if min(self.prompt, self.completion) < 0:
            raise UserError("prices must be 0 or more for a million tokens")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Of so many tokens."""
        asked = prompt_tokens * self.prompt
        return (asked + completion_tokens * self.completion) / TOKENS_OF_A_PRICE


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one row."""

    row: TextRow
    """Kept or rejected."""
    unanswered: bool = False
    """There was no reply; the next run asks again."""


@dataclass(frozen=True, kw_only=True)
class RewriteCounts:
    """Sums over rows; two of them can be added."""

    read: int = 0
    kept: int = 0
    rejected: int = 0
    unanswered: int = 0
    """Of the rejected: those that the next run asks again."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Of the rejected, as "stage: reason"."""
    notes: dict[str, int] = field(default_factory=dict)
    """Of the kept."""
    removed_lines: dict[str, int] = field(default_factory=dict)
    compiled: int = 0
    """New texts that compile; with `not_compiled` all those that were tried, rejected ones too."""
    not_compiled: int = 0
    characters_before: int = 0
    """Of the parents of the kept."""
    characters_after: int = 0
    """Of the kept."""

    def __post_init__(self) -> None:
        assert self.kept + self.rejected == self.read, "a row was lost"

    def __add__(self, other: "RewriteCounts") -> "RewriteCounts":
        """The counts of both."""
        total: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                total[name] = dict(sorted((Counter(mine) + Counter(theirs)).items()))
            else:
                total[name] = mine + theirs
        return RewriteCounts(**total)


def count_results(results: Iterable[Result]) -> RewriteCounts:
    """The counts of some rows."""
    total = RewriteCounts()
    for result in results:
        total += _count(result)
    return total


def _count(result: Result) -> RewriteCounts:
    row = result.row
    kept = row.rejected_by is None
    made = row.rewriting if kept else None
    before = None if made is None else made.parent_characters
    return RewriteCounts(
        read=1,
        kept=int(kept),
        rejected=int(not kept),
        unanswered=int(result.unanswered),
        reasons={} if kept else {f"{row.rejected_by}: {row.reason}": 1},
        notes={} if made is None else dict(Counter(made.notes)),
        removed_lines={} if made is None else dict(made.removed_lines),
        compiled=int(row.compiles is True),
        not_compiled=int(row.compiles is False),
        characters_before=before or 0,
        characters_after=len(row.text) if kept else 0,
    )
