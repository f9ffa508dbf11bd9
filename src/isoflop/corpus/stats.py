"""What the stages of a corpus did, read from their folders: the funnel, reasons, scores, lengths.

Folders are given in the order of the stages; nothing is recomputed, every figure is a count of rows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.corpus.filters.decide import FILTERS
from isoflop.corpus.rows import TextRow
from isoflop.corpus.shards import (
    kept_rows,
    read_manifest,
    read_summary,
    rejected_rows,
)

SCORES = ("pylint_score", "lint_score", "llm_score")

SCORE_BINS = tuple(range(11))
"""Edges of a score's histogram; what lies below 0 is a bin of its own."""

LENGTH_BINS = (0, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
"""Edges of the lengths' histogram, in characters; the last bin is open."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts between edges."""

    edges: tuple[float, ...]
    below: int
    """Less than the first edge."""
    counts: tuple[int, ...]
    """From each edge to the next, the last from its edge on."""
    not_measured: int


@dataclass(frozen=True, kw_only=True)
class StageStats:
    """One stage."""

    stage: str
    folder: str
    num_read: int
    num_kept: int
    num_rejected: int
    read_characters: int
    kept_characters: int
    kept_bytes: int
    kept_tokens: int | None
    """By the tokenizer that was given; None: none was."""
    kept_share: float | None
    """num_kept / num_read; None where nothing was read."""
    reasons: dict[str, int]
    """Rejected rows by "stage: reason"."""
    num_compiled: int
    """Kept and rejected rows that were asked whether they compile, and do."""
    num_not_compiled: int
    scores: dict[str, Histogram]
    """Of all rows, kept and rejected."""
    threshold: float | None
    """Of the lint score; None: none."""
    lengths: Histogram
    """Characters of the kept rows."""
    comment_languages: dict[str, int]
    """Of all rows that were asked."""
    prompt_tokens: int | None
    """Spent on rewriting, kept and rejected rows, as the endpoints counted; None: no model."""
    completion_tokens: int | None

    @property
    def syntax_error_share(self) -> float | None:
        """Rows that do not compile, of those that were asked; None: none was."""
        asked = self.num_compiled + self.num_not_compiled
        return self.num_not_compiled / asked if asked else None


@dataclass
class _Count:
    """One pass over the rows of a stage."""

    scores: dict[str, Counter[int]] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)
    compiled: int = 0
    not_compiled: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def add(self, row: TextRow) -> None:
        for name in SCORES:
            value = getattr(row, name)
            place = -2 if value is None else _place(value, SCORE_BINS)
            self.scores.setdefault(name, Counter())[place] += 1
        if row.comment_language is not None:
            self.languages[row.comment_language] += 1
        if row.compiles is not None:
            self.compiled += row.compiles
            self.not_compiled += not row.compiles
        made = row.rewriting
        if made is not None and made.prompt_tokens is not None:
            self.prompt_tokens = (self.prompt_tokens or 0) + made.prompt_tokens
        if made is not None and made.completion_tokens is not None:
            self.completion_tokens = (self.completion_tokens or 0) + made.completion_tokens


def stage_stats(folder: Path, tokenizer: Path | None = None) -> StageStats:
    """Everything about one finished stage, in one pass over its rows.

    Args:
        tokenizer: a tokenizer.json; None: tokens are not counted.

    Raises:
        UserError: no finished stage there, or a tokenizer that cannot be read.
    """
    manifest, summary = read_manifest(folder), read_summary(folder)
    count, lengths, tokens = _Count(), Counter[int](), _TokenCount(tokenizer)
    for row in kept_rows(folder):
        count.add(row)
        lengths[_place(len(row.text), LENGTH_BINS)] += 1
        tokens.add(row.text)
    for row in rejected_rows(folder):
        count.add(row)
    measured = {name: c for name, c in count.scores.items() if set(c) != {-2}}
    return StageStats(
        stage=manifest["stage"],
        folder=str(folder),
        num_read=summary.num_read,
        num_kept=summary.num_kept,
        num_rejected=summary.num_rejected,
        read_characters=summary.read_characters,
        kept_characters=summary.kept_characters,
        kept_bytes=summary.kept_bytes,
        kept_tokens=tokens.total,
        kept_share=summary.num_kept / summary.num_read if summary.num_read else None,
        reasons=summary.reasons,
        num_compiled=count.compiled,
        num_not_compiled=count.not_compiled,
        scores={name: _histogram(c, SCORE_BINS) for name, c in measured.items()},
        threshold=_threshold(manifest),
        lengths=_histogram(lengths, LENGTH_BINS),
        comment_languages=dict(count.languages.most_common()),
        prompt_tokens=count.prompt_tokens,
        completion_tokens=count.completion_tokens,
    )


def funnel(stages: Sequence[StageStats]) -> Iterator[tuple[str, int, int]]:
    """(what, texts, characters) of every step: what was read, then what each filter left.

    A stage's own filters come in the order in which they were asked; of those in the middle the
    characters are not known and are given as -1.
    """
    for stage in stages:
        left = stage.num_read
        yield f"{stage.stage}: read", left, stage.read_characters
        steps = filter_counts(stage.reasons)
        for place, (name, lost) in enumerate(steps):
            left -= lost
            is_last = place == len(steps) - 1
            yield f"{stage.stage}: after {name}", left, stage.kept_characters if is_last else -1


def filter_counts(reasons: dict[str, int]) -> list[tuple[str, int]]:
    """Rejected rows of each filter, in the order of the filters."""
    lost: Counter[str] = Counter()
    for reason, count in reasons.items():
        lost[reason.partition(":")[0]] += count
    order = {name: place for place, name in enumerate(("read", *FILTERS))}
    return sorted(lost.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))


def _threshold(manifest: dict[str, Any]) -> float | None:
    lint = manifest["config"].get("lint") if isinstance(manifest["config"], dict) else None
    return lint.get("threshold") if isinstance(lint, dict) else None


def _place(value: int | float, edges: tuple[int, ...]) -> int:
    """The last edge that the value reaches, by number; -1: none."""
    return sum(value >= edge for edge in edges) - 1


def _histogram(counts: Counter[int], edges: tuple[int, ...]) -> Histogram:
    return Histogram(
        edges=tuple(float(edge) for edge in edges),
        below=counts[-1],
        counts=tuple(counts[place] for place in range(len(edges))),
        not_measured=counts[-2],
    )


class _TokenCount:
    """Tokens of texts by a tokenizer.json."""

    def __init__(self, path: Path | None):
        self.total: int | None = None if path is None else 0
        self._tokenizer: Any = None
        if path is not None:
            self._tokenizer = load_tokenizer(path)

    def add(self, text: str) -> None:
        if self._tokenizer is not None and self.total is not None:
            self.total += len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def load_tokenizer(path: Path) -> Any:
    """A tokenizer of the `tokenizers` library.

    Raises:
        UserError: no such file, or no tokenizer.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise UserError(f"{path}: no such file; give a tokenizer.json")
    try:
        return Tokenizer.from_file(str(path))
    except BaseException as error:
        # The library raises bare Exception and nothing narrower; anything else is not ours.
        if type(error) is not Exception:
            raise
        raise UserError(f"{path}: not a tokenizer.json: {error}") from None


def stats_of(folders: Iterable[Path], tokenizer: Path | None = None) -> list[StageStats]:
    """Every stage, in the order given."""
    return [stage_stats(folder, tokenizer) for folder in folders]
