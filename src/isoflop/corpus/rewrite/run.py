"""One rewriting of one input into one folder, which a kill at any moment cannot spoil.

    OUT/config.json, env.json     what was asked, with what
    OUT/replies.sqlite            replies of the model, see store.py
    OUT/kept-00000.jsonl          TextRow: new texts, in the order of the input
    OUT/rejected-00000.jsonl      TextRow: what was left out, with its reason
    OUT/counts-00000.json         written last: the shard is complete
    OUT/summary.json              the sum; the same bytes however the run was interrupted
    OUT/requests.json             what came of every request ever sent: differs from run to run
    OUT/DONE

A shard that is complete is never made again. Rows without a reply leave their shard incomplete: the
next run asks for them again.
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from isoflop.config import UserError, digest, from_dict, to_text
from isoflop.corpus.rewrite.accounts import Prices, Result, RewriteCounts, count_results
from isoflop.corpus.rewrite.code_rules import CodeRules
from isoflop.corpus.rewrite.math_rules import MathRules
from isoflop.corpus.rewrite.model import ModelConfig
from isoflop.corpus.rewrite.store import Paid, ReplyStore
from isoflop.corpus.rows import TextRow
from isoflop.folders import StageFolder, working_in
from isoflop.records import read_json, write_rows, write_text


@dataclass(frozen=True, kw_only=True)
class RewriteConfig:
    """What is rewritten how: all that the output depends on."""

    how: ModelConfig | CodeRules | MathRules
    input_digest: str
    """Of the input's bytes."""
    limit: int | None = None
    """Only the first so many rows."""
    rows_per_shard: int = 1000
    """Input rows of one output file; so many are made again at most after a kill."""
    lint: dict[str, str] | None = None
    """Versions of what measures new texts as the filters do (lint score); None: it is not done."""

    def __post_init__(self) -> None:
        if self.rows_per_shard < 1 or (self.limit is not None and self.limit < 1):
            raise UserError("rows_per_shard and limit must be at least 1")


@dataclass(frozen=True, kw_only=True)
class RewriteSummary:
    """What a rewriting came to."""

    counts: RewriteCounts
    replies: int
    """Stored replies: each was asked for, and paid for, once."""
    repairs: int
    prompt_tokens: int
    completion_tokens: int
    replies_without_usage: int
    cost: float | None
    """By the prices given; None: none were given."""


@runtime_checkable
class Rewriter(Protocol):
    """Anything that turns rows into results, one each, in order."""

    def results(self, rows: Iterator[TextRow]) -> AsyncIterator[Result]:
        """One result a row, in order."""


MakeRewriter = Callable[[ReplyStore], Rewriter]
Progress = Callable[[RewriteCounts], None]
"""Called after each shard with the counts so far."""


async def rewrite(
    rows: Iterable[TextRow],
    out: Path,
    config: RewriteConfig,
    make_rewriter: MakeRewriter,
    *,
    prices: Prices | None = None,
    progress: Progress = lambda counts: None,
) -> RewriteSummary:
    """Rewrite every row into `out`, or go on where an earlier run was interrupted.

    The folder is finished unless rows are unanswered (`summary.counts.unanswered`).

    Raises:
        UserError: the folder belongs to another rewriting or to a running one; the endpoint is down.
    """
    folder = StageFolder(out, config, digest(config))
    _check_folder(folder)
    with working_in(folder):
        store = ReplyStore(out / "replies.sqlite")
        try:
            counts = RewriteCounts()
            if folder.done:
                for path in sorted(out.glob("counts-*.json")):
                    counts += _read_counts(path)
            else:
                shards = _Shards(out, config.rows_per_shard)
                limited = islice(rows, config.limit)
                results = make_rewriter(store).results(shards.missing(limited))
                async with aclosing(results) as stream:  # type: ignore[type-var]
                    async for result in stream:
                        shards.add(result, progress)
                counts = shards.finish(progress)
            summary = _summary(counts, store.paid(), prices)
            write_text(out / "summary.json", _json(asdict(summary)))
            write_text(out / "requests.json", _json(store.counts()))
            if not counts.unanswered:
                folder.finish()
        finally:
            store.close()
    return summary


class _Shards:
    """Groups results into files by the position of their row in the input."""

    def __init__(self, out: Path, rows_per_shard: int) -> None:
        self._out, self._size = out, rows_per_shard
        self._positions: deque[int] = deque()
        """Of the rows that were handed out and have no result yet, in order."""
        self._results: list[Result] = []
        self._read = 0
        self._total = RewriteCounts()
        self._complete: dict[int, RewriteCounts] = {}

    def missing(self, rows: Iterable[TextRow]) -> Iterator[TextRow]:
        """The rows of shards that are not complete."""
        for row in rows:
            position = self._read
            self._read += 1
            if not self._is_complete(position // self._size):
                self._positions.append(position)
                yield row

    def add(self, result: Result, progress: Progress) -> None:
        """Take the next result; a full shard is written."""
        position = self._positions.popleft()
        self._results.append(result)
        if (position + 1) % self._size == 0:
            self._write(position // self._size, progress)

    def finish(self, progress: Progress) -> RewriteCounts:
        """Write the last shard; the sum of all."""
        assert not self._positions, "rows without a result"
        if self._results:
            self._write((self._read - 1) // self._size, progress)
        return self._total

    def _write(self, shard: int, progress: Progress) -> None:
        results, self._results = self._results, []
        counts = count_results(results)
        kept = [r.row for r in results if r.row.rejected_by is None]
        dropped = [r.row for r in results if r.row.rejected_by is not None]
        write_rows(self._path("kept", shard, "jsonl"), kept)
        write_rows(self._path("rejected", shard, "jsonl"), dropped)
        if not counts.unanswered:
            write_text(self._path("counts", shard, "json"), _json(asdict(counts)))
        self._total += counts
        progress(self._total)

    def _is_complete(self, shard: int) -> bool:
        if shard not in self._complete:
            path = self._path("counts", shard, "json")
            if not path.exists():
                return False
            self._complete[shard] = _read_counts(path)
            self._total += self._complete[shard]
        return True

    def _path(self, name: str, shard: int, suffix: str) -> Path:
        return self._out / f"{name}-{shard:05d}.{suffix}"


def _check_folder(folder: StageFolder) -> None:
    """Refuse a folder that was begun with another config."""
    path = folder.path / "config.json"
    if not path.exists():
        return
    there, wanted = path.read_text(encoding="utf-8"), to_text(folder.config)
    if there != wanted:
        pairs = zip(there.splitlines(), wanted.splitlines(), strict=False)
        first = next((f"{a.strip()} there, {b.strip()} now" for a, b in pairs if a != b), "more")
        raise UserError(
            f"{folder.path}: begun with another input or config ({first}); use another folder"
        )


def _read_counts(path: Path) -> RewriteCounts:
    data = read_json(path, missing="run again", remedy="delete it and run again")
    return from_dict(RewriteCounts, data, str(path))


def _summary(counts: RewriteCounts, paid: Paid, prices: Prices | None) -> RewriteSummary:
    cost = None if prices is None else prices.cost(paid.prompt_tokens, paid.completion_tokens)
    return RewriteSummary(counts=counts, cost=cost, **paid._asdict())


def _json(data: object) -> str:
    return json.dumps(data, indent=2, sort_keys=True) + "\n"
