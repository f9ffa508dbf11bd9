"""The stages as steps of datatrove, which runs them on one machine, under Slurm or under Ray.

    pipeline = filter_pipeline(source, folder, config)  # or decontaminate_pipeline, rewrite_pipeline
    local_executor(pipeline, tasks=8, logging=...).run()

A task takes every `world_size`-th text, beginning with its rank, and writes a folder of its own,
rank-00000 and so on: together they hold the rows that the default runner writes. A finished task is
not run again (datatrove's markers). An interrupted one goes on in its folder: the texts before are
measured once more and written once, and a model's stored replies are not asked for again.
Near-duplicates are between all texts, so `deduplicate` is no step: it reads the folders of all ranks.

datatrove's tasks start processes that import the calling script: keep the call under
`if __name__ == "__main__":`.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from isoflop.config import UserError
from isoflop.corpus.decontaminate.benchmarks import BenchmarkItem, items_digest, read_benchmarks
from isoflop.corpus.decontaminate.config import DecontaminateConfig
from isoflop.corpus.decontaminate.run import STAGE as DECONTAMINATE
from isoflop.corpus.decontaminate.run import SearchAsked, SearchJob, judged, write_hits
from isoflop.corpus.filters.config import FilterConfig, Limits
from isoflop.corpus.filters.decide import decide
from isoflop.corpus.filters.measure import MeasureJob
from isoflop.corpus.filters.run import STAGE as FILTER
from isoflop.corpus.filters.run import measured, measuring_tools
from isoflop.corpus.intake import CorpusInput, input_digest, open_input
from isoflop.corpus.pool import Job, Pool
from isoflop.corpus.rewrite.commands import Engine, rewrite_with
from isoflop.corpus.rewrite.run import RewriteConfig
from isoflop.corpus.rows import TextRow, row_from_fields
from isoflop.corpus.shards import OutputConfig, Stage, write_stage


def to_document(row: TextRow) -> Document:
    """The row as datatrove's document: everything but text and id is metadata."""
    fields = dict(vars(row))
    if row.rewriting is not None:
        fields["rewriting"] = dict(vars(row.rewriting))
    return Document(text=fields.pop("text"), id=fields.pop("id"), metadata=fields)


def to_row(document: Document) -> TextRow:
    """The row of a document that `to_document` made."""
    return row_from_fields({**document.metadata, "text": document.text, "id": document.id})


class CorpusReader(PipelineStep):  # type: ignore[misc]
    """Texts of a corpus, every `world_size`-th of them."""

    name = "isoflop reader"
    type = "READER"

    def __init__(self, source: CorpusInput):
        super().__init__()
        self._source = source

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The texts of one rank."""
        for row in islice(open_input(self._source), rank, None, world_size):
            self.stat_update("read")
            yield to_document(row)


class PoolStep(PipelineStep):  # type: ignore[misc]
    """A job of the pool and its judgement, over the texts of one rank."""

    type = "FILTER"

    def __init__(self, name: str, job: Job, limits: Limits):
        self.name = f"isoflop {name}"  # Before the statistics, which are named by it.
        super().__init__()
        self._job = job
        self._limits = limits

    def judge(self, row: TextRow, changes: dict[str, Any]) -> TextRow:
        """The row with its verdict."""
        raise NotImplementedError

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Every text with its verdict; rejected ones pass on, to be written."""
        with Pool(self._job, 1, self._limits) as pool:
            for row, changes in pool.run(map(to_row, data)):
                verdict = self.judge(row, changes)
                if verdict.rejected_by is None:
                    self.stat_update("kept")
                else:
                    self.stat_update(f"rejected by {verdict.rejected_by}: {verdict.reason}")
                yield to_document(verdict)


class CodeFilter(PoolStep):
    """The filters for code."""

    def __init__(self, config: FilterConfig):
        super().__init__(FILTER, MeasureJob(config=config), config.limits)
        self._config = config

    def judge(self, row: TextRow, changes: dict[str, Any]) -> TextRow:
        return decide(measured(row, changes), self._config)


class Decontaminator(PoolStep):
    """The search for benchmark items."""

    def __init__(self, items: list[BenchmarkItem], config: DecontaminateConfig):
        job = SearchJob(items=tuple(items), config=config)
        super().__init__(DECONTAMINATE, job, config.limits)

    def judge(self, row: TextRow, changes: dict[str, Any]) -> TextRow:
        return judged(row, changes.get("hits", []))


class StageWriter(PipelineStep):  # type: ignore[misc]
    """Kept and rejected rows in a stage's folder of the rank's own."""

    name = "isoflop writer"
    type = "WRITER"

    def __init__(self, folder: Path, stage: Stage):
        super().__init__()
        self._folder = folder
        self._stage = stage

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write all; nothing is left for a next step."""
        share = f"{self._stage.input_digest} rank {rank} of {world_size}"
        stage = replace(self._stage, input_digest=share)

        def rows_from(done: int) -> Iterator[TextRow]:
            return map(to_row, islice(data, done, None))

        counts = write_stage(rank_folder(self._folder, rank), stage, rows_from)
        self.stat_update("written", value=counts.num_read)
        return iter(())


class HitsWriter(StageWriter):
    """Decontaminated rows, and hits.jsonl beside them."""

    def __init__(
        self, folder: Path, stage: Stage, items: list[BenchmarkItem], config: DecontaminateConfig
    ):
        super().__init__(folder, stage)
        self._items, self._config = items, config

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write all; nothing is left for a next step."""
        left = super().run(data, rank, world_size)
        write_hits(rank_folder(self._folder, rank), self._items, self._config)
        return left


class RewriteStep(PipelineStep):  # type: ignore[misc]
    """A rewriting, by a model or by rules, into a run folder of the rank's own."""

    name = "isoflop rewrite"
    type = "WRITER"

    def __init__(self, folder: Path, config: RewriteConfig, engine: Engine):
        super().__init__()
        self._folder, self._config, self._engine = folder, config, engine

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Rewrite and write all; nothing is left for a next step.

        Raises:
            UserError: rows are without a reply; the task then counts as failed and may run again.
        """
        share = f"{self._config.input_digest} rank {rank} of {world_size}"
        config = replace(self._config, input_digest=share)
        out = rank_folder(self._folder, rank)
        summary = asyncio.run(rewrite_with(map(to_row, data), out, config, self._engine, None))
        counts = summary.counts
        self.stat_update("kept", value=counts.kept)
        self.stat_update("rejected", value=counts.rejected)
        if counts.unanswered:
            raise UserError(f"{out}: {counts.unanswered} texts without a reply: run the task again")
        return iter(())


def rank_folder(folder: Path, rank: int) -> Path:
    """Where a rank writes."""
    return folder / f"rank-{rank:05d}"


def filter_pipeline(
    source: CorpusInput,
    folder: Path,
    config: FilterConfig | None = None,
    output: OutputConfig | None = None,
) -> list[PipelineStep]:
    """`isoflop corpus filter` as steps."""
    config = config or FilterConfig()
    stage = Stage(
        name=FILTER,
        config=config,
        input_digest=input_digest(source),
        output=output or OutputConfig(),
        tools=measuring_tools(config),
    )
    return [CorpusReader(source), CodeFilter(config), StageWriter(folder, stage)]


def decontaminate_pipeline(
    source: CorpusInput,
    folder: Path,
    benchmarks: list[str],
    config: DecontaminateConfig | None = None,
    output: OutputConfig | None = None,
) -> list[PipelineStep]:
    """`isoflop corpus decontaminate` as steps."""
    config = config or DecontaminateConfig()
    items = read_benchmarks(benchmarks)
    asked = SearchAsked(config=config, items=items_digest(items))
    stage = Stage(
        name=DECONTAMINATE,
        config=asked,
        input_digest=input_digest(source),
        output=output or OutputConfig(),
    )
    writer = HitsWriter(folder, stage, items, config)
    return [CorpusReader(source), Decontaminator(items, config), writer]


def rewrite_pipeline(
    source: CorpusInput, folder: Path, config: RewriteConfig, engine: Engine
) -> list[PipelineStep]:
    """`isoflop corpus rewrite` as steps. `config.limit` would be of each rank."""
    return [CorpusReader(source), RewriteStep(folder, config, engine)]


def local_executor(
    pipeline: list[PipelineStep], *, tasks: int, logging: Path, workers: int = -1
) -> LocalPipelineExecutor:
    """Tasks as processes on this machine.

    Args:
        tasks: parts of the corpus.
        logging: folder of datatrove's logs and of its marks of finished tasks.
        workers: tasks at once; -1: all.
    """
    return LocalPipelineExecutor(
        pipeline=pipeline, tasks=tasks, workers=workers, logging_dir=str(logging)
    )


def slurm_executor(
    pipeline: list[PipelineStep],
    *,
    tasks: int,
    logging: Path,
    time: str,
    partition: str,
    name: str = "isoflop-corpus",
    **options: Any,
) -> SlurmPipelineExecutor:
    """Tasks as a Slurm array. Built and checked; not run on a cluster.

    Args:
        time: limit of a task, as Slurm has it, e.g. "04:00:00".
        options: of datatrove's SlurmPipelineExecutor, e.g. mem_per_cpu_gb, venv_path, sbatch_args.
    """
    return SlurmPipelineExecutor(
        pipeline=pipeline,
        tasks=tasks,
        time=time,
        partition=partition,
        job_name=name,
        logging_dir=str(logging),
        **{"mem_per_cpu_gb": 6, **options},
    )


def ray_executor(
    pipeline: list[PipelineStep], *, tasks: int, logging: Path, **options: Any
) -> RayPipelineExecutor:
    """Tasks on a Ray cluster that runs already. Run on one node, see `docs/reference.md`.

    Args:
        options: of datatrove's RayPipelineExecutor, e.g. workers, mem_per_cpu_gb.
    """
    return RayPipelineExecutor(
        pipeline=pipeline, tasks=tasks, logging_dir=str(logging), **{"mem_per_cpu_gb": 6, **options}
    )
