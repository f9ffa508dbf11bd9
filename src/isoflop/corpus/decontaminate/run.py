"""`isoflop corpus decontaminate` as one call: texts that hold benchmark items are rejected and shown."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from isoflop.config import UserError
from isoflop.corpus.decontaminate.benchmarks import BenchmarkItem, items_digest, read_benchmarks
from isoflop.corpus.decontaminate.config import DecontaminateConfig
from isoflop.corpus.decontaminate.index import BenchmarkIndex
from isoflop.corpus.decontaminate.match import KINDS, Hit, find_items
from isoflop.corpus.decontaminate.recount import Recount, recount
from isoflop.corpus.filters.run import usable_cores
from isoflop.corpus.formats import BadRecordError, read_records
from isoflop.corpus.intake import CorpusInput, input_digest, open_input
from isoflop.corpus.pool import Changes, Pool
from isoflop.corpus.rows import TextRow
from isoflop.corpus.shards import Counts, OutputConfig, Stage, rejected_rows, write_stage
from isoflop.folders import locked
from isoflop.records import read_rows, write_rows

STAGE = "decontaminate"
HITS = "hits.jsonl"


@dataclass(frozen=True, kw_only=True)
class SearchAsked:
    """What decides the folder's bytes, the input apart."""

    config: DecontaminateConfig
    items: str
    """Digest of the benchmark items."""


@dataclass(frozen=True, kw_only=True)
class SearchJob:
    """What the workers of the pool do: look for every item in a row."""

    items: tuple[BenchmarkItem, ...]
    config: DecontaminateConfig

    def prepare(self) -> "Search":
        """Index the items once; workers share the index."""
        return Search(BenchmarkIndex(self.items, self.config))


class Search:
    """Hits of one row after the other."""

    def __init__(self, index: BenchmarkIndex):
        self._index = index

    def __call__(self, row: TextRow, begin: Callable[[str], bool]) -> Changes:
        """The row's hits."""
        return {"hits": find_items(row.text, row.id, row.where, self._index, begin)}

    def close(self) -> None:
        """Nothing to leave."""


def decontaminate_corpus(
    source: CorpusInput,
    folder: Path,
    benchmarks: list[str],
    config: DecontaminateConfig | None = None,
    *,
    output: OutputConfig | None = None,
    num_workers: int | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Counts:
    """Reject texts that hold a benchmark item; hits.jsonl shows each with both texts.

    Args:
        benchmarks: files of benchmarks, PATH or NAME=PATH.
        num_workers: processes that search; None: one a usable core.
        tell: hears how many texts are done, after each.

    Raises:
        UserError: the input, a benchmark or the folder is not there or not usable.
    """
    config = config or DecontaminateConfig()
    items = read_benchmarks(benchmarks)
    stage = Stage(
        name=STAGE,
        config=SearchAsked(config=config, items=items_digest(items)),
        input_digest=input_digest(source),
        output=output or OutputConfig(),
    )
    job = SearchJob(items=tuple(items), config=config)

    def rows_from(done: int) -> Iterator[TextRow]:
        rows = islice(open_input(source), done, None)
        with Pool(job, num_workers or usable_cores(), config.limits) as pool:
            for row, changes in pool.run(rows):
                yield judged(row, changes.get("hits", []))

    counts = write_stage(folder, stage, rows_from, tell)
    write_hits(folder, items, config)
    return counts


def write_hits(folder: Path, items: Sequence[BenchmarkItem], config: DecontaminateConfig) -> None:
    """Leave the hits of a finished stage in its folder, unless they are there."""
    with locked(folder):
        if not (folder / HITS).exists():
            write_rows(folder / HITS, _all_hits(folder, BenchmarkIndex(items, config)))


def items_too_short(benchmarks: list[str], config: DecontaminateConfig) -> dict[str, int]:
    """Items of each benchmark that are too short to be looked for."""
    counts: dict[str, int] = {}
    for item in BenchmarkIndex(read_benchmarks(benchmarks), config).too_short:
        counts[item.benchmark] = counts.get(item.benchmark, 0) + 1
    return counts


def read_hits(folder: Path) -> list[Hit]:
    """The hits of a finished run.

    Raises:
        UserError: there is none.
    """
    return list(read_rows(folder / HITS, Hit))


def recount_scores(
    scores: Path, hits: list[Hit], benchmark: str, id_field: str, correct_field: str
) -> Recount:
    """Scores of a file of graded items, with and without those that were found.

    Raises:
        UserError: a row without the fields, or ids that do not fit the benchmark's.
    """
    correct: dict[str, bool] = {}
    for where, record in read_records(scores):
        if isinstance(record, BadRecordError) or not isinstance(record, dict):
            raise UserError(f"{where}: not a graded item: {record}")
        if id_field not in record or correct_field not in record:
            raise UserError(
                f"{where}: needs {id_field!r} and {correct_field!r}; it has {', '.join(record)}"
            )
        # Not gradable counts as not right, as everywhere.
        correct[str(record[id_field])] = record[correct_field] is True
    return recount(correct, {hit.item for hit in hits if hit.benchmark == benchmark})


def judged(row: TextRow, hits: list[Hit]) -> TextRow:
    """The row, rejected where it holds an item; the surest hit is its reason."""
    if row.rejected_by is not None or not hits:
        return row
    surest = min(hits, key=lambda hit: (KINDS.index(hit.found_as), -hit.overlap))
    more = f", and {len(hits) - 1} more" if len(hits) > 1 else ""
    return replace(
        row,
        rejected_by=STAGE,
        reason=f"{surest.benchmark}, {surest.found_as}",
        detail=f"{surest.part} of item {surest.item}, overlap {surest.overlap:.2f}{more}",
    )


def _all_hits(folder: Path, index: BenchmarkIndex) -> Iterator[Hit]:
    """The hits of all rejected texts, found again: they are few."""
    for row in rejected_rows(folder):
        if row.rejected_by == STAGE:
            yield from find_items(row.text, row.id, row.where, index, lambda step: True)
