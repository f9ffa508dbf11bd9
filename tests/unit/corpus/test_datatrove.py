"""datatrove's executors run the stages to the same rows, and are built as asked for a cluster."""

import asyncio
from dataclasses import replace

import pytest

from fakes_corpus import GOOD_CODE, write_jsonl
from isoflop.corpus.decontaminate.run import decontaminate_corpus, read_hits
from isoflop.corpus.filters.config import FilterConfig, LintConfig
from isoflop.corpus.filters.run import filter_corpus
from isoflop.corpus.intake import CorpusInput, input_digest, open_input
from isoflop.corpus.rewrite.code_rules import CodeRules
from isoflop.corpus.rewrite.commands import Engine, rewrite_with
from isoflop.corpus.rewrite.retry import Patience
from isoflop.corpus.rewrite.run import RewriteConfig
from isoflop.corpus.rows import Rewriting
from isoflop.corpus.shards import OutputConfig, kept_rows, rejected_rows

datatrove_steps = pytest.importorskip("isoflop.corpus.datatrove_steps")

QUESTION = (
    "Ann has three boxes with four red balls each and gives five of the balls to her brother, who "
    "already had twice as many as she gives him now. How many balls does Ann have left?"
)
CHEAP = FilterConfig(lint=LintConfig(measure="none", threshold=None))


def place(row):
    return int(row.where.rpartition(":")[2])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tasks", [1, 3])
def test_the_local_executor_gives_the_default_runners_rows(tmp_path, tasks):
    texts = [GOOD_CODE.replace("double", f"double{n}") if n % 3 else "print 1" for n in range(20)]
    source = CorpusInput(path=str(write_jsonl(tmp_path / "a.jsonl", [*texts, ""], path="a.py")))
    output = OutputConfig(format="jsonl", rows_per_shard=4)
    filter_corpus(source, tmp_path / "default", CHEAP, output=output, num_workers=1)
    pipeline = datatrove_steps.filter_pipeline(source, tmp_path / "ranks", CHEAP, output)
    executor = datatrove_steps.local_executor(
        pipeline, tasks=tasks, logging=tmp_path / "log", workers=1
    )
    executor.run()
    ranks = sorted((tmp_path / "ranks").iterdir())
    assert [rank.name for rank in ranks] == [f"rank-{n:05d}" for n in range(tasks)]
    for side in (kept_rows, rejected_rows):
        found = sorted((row for rank in ranks for row in side(rank)), key=place)
        assert found == list(side(tmp_path / "default"))
    # A finished rank is not run again.
    before = {path: path.stat().st_mtime_ns for rank in ranks for path in rank.iterdir()}
    datatrove_steps.local_executor(pipeline, tasks=tasks, logging=tmp_path / "log", workers=1).run()
    assert before == {path: path.stat().st_mtime_ns for rank in ranks for path in rank.iterdir()}


def ranks_rows(folder, side):
    return sorted((row for rank in sorted(folder.iterdir()) for row in side(rank)), key=place)


@pytest.mark.filterwarnings("ignore")
def test_the_local_executor_decontaminates_alike_and_shows_the_hits(tmp_path):
    benchmark = write_jsonl(tmp_path / "b.jsonl", ["x"], question=QUESTION, answer="#### 7")
    texts = [QUESTION if n % 4 == 1 else f"A page about the number {n}." for n in range(10)]
    source = CorpusInput(path=str(write_jsonl(tmp_path / "a.jsonl", texts)))
    decontaminate_corpus(source, tmp_path / "default", [str(benchmark)], num_workers=1)
    pipeline = datatrove_steps.decontaminate_pipeline(source, tmp_path / "ranks", [str(benchmark)])
    datatrove_steps.local_executor(pipeline, tasks=2, logging=tmp_path / "log", workers=1).run()
    for side in (kept_rows, rejected_rows):
        assert ranks_rows(tmp_path / "ranks", side) == list(side(tmp_path / "default"))
    hits = [hit for rank in (tmp_path / "ranks").iterdir() for hit in read_hits(rank)]
    assert sorted(hits, key=place) == read_hits(tmp_path / "default")
    assert len(hits) == 3


@pytest.mark.filterwarnings("ignore")
def test_the_local_executor_rewrites_alike(tmp_path):
    texts = [f"import os\nx = {{'a': {n}}}\n" if n % 3 else "print 1" for n in range(8)]
    source = CorpusInput(path=str(write_jsonl(tmp_path / "a.jsonl", texts, path="a.py")))
    engine = Engine(
        urls=(),
        in_process=False,
        rules=True,
        key_variable="",
        concurrency=1,
        tokenizer=None,
        patience=Patience(),
    )
    config = RewriteConfig(how=CodeRules.installed(), input_digest=input_digest(source))
    default = tmp_path / "default"
    asyncio.run(rewrite_with(open_input(source), default, config, engine, None))
    pipeline = datatrove_steps.rewrite_pipeline(source, tmp_path / "ranks", config, engine)
    datatrove_steps.local_executor(pipeline, tasks=3, logging=tmp_path / "log", workers=1).run()
    for side in (kept_rows, rejected_rows):
        assert ranks_rows(tmp_path / "ranks", side) == list(side(default))


def test_a_row_survives_as_a_document(tmp_path):
    source = CorpusInput(path=str(write_jsonl(tmp_path / "a.jsonl", ["x"], path="a.py")))
    (read,) = open_input(source)
    row = replace(read, rewriting=Rewriting(rewriter="rules"), parent_id="0", lint_score=1.5)
    assert datatrove_steps.to_row(datatrove_steps.to_document(row)) == row


def test_cluster_executors_are_built_as_asked(tmp_path):
    source = CorpusInput(path=str(write_jsonl(tmp_path / "a.jsonl", ["x"], path="a.py")))
    pipeline = datatrove_steps.filter_pipeline(source, tmp_path / "out", CHEAP)
    slurm = datatrove_steps.slurm_executor(
        pipeline,
        tasks=500,
        logging=tmp_path / "log",
        time="04:00:00",
        partition="cpu",
        sbatch_args={"account": "lab"},
    )
    script = slurm.get_launch_file_contents(slurm.get_sbatch_args(499), "launch")
    for line in ("--partition=cpu", "--time=04:00:00", "--mem-per-cpu=6G", "--account=lab"):
        assert f"#SBATCH {line}" in script
    assert slurm.world_size == 500
    ray = datatrove_steps.ray_executor(pipeline, tasks=7, logging=tmp_path / "log", workers=3)
    assert (ray.world_size, ray.workers, ray.mem_per_cpu_gb) == (7, 3, 6)


@pytest.mark.filterwarnings("ignore")
def test_the_ray_executor_gives_the_default_runners_rows(tmp_path):
    ray = pytest.importorskip("ray", reason="needs Ray: pip install ray")
    texts = [GOOD_CODE.replace("double", f"double{n}") if n % 3 else "print 1" for n in range(20)]
    source = CorpusInput(path=str(write_jsonl(tmp_path / "a.jsonl", [*texts, ""], path="a.py")))
    filter_corpus(source, tmp_path / "default", CHEAP, num_workers=1)
    pipeline = datatrove_steps.filter_pipeline(source, tmp_path / "ranks", CHEAP)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        datatrove_steps.ray_executor(
            pipeline, tasks=3, logging=tmp_path / "log", mem_per_cpu_gb=0.5
        ).run()
    finally:
        ray.shutdown()
    for side in (kept_rows, rejected_rows):
        assert ranks_rows(tmp_path / "ranks", side) == list(side(tmp_path / "default"))
    done = sorted(path.name for path in (tmp_path / "log" / "completions").iterdir())
    assert done == ["00000", "00001", "00002"]
