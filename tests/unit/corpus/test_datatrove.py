"""datatrove's executors run the stages to the same rows, and are built as asked for a cluster."""

from dataclasses import replace

import pytest

from fakes_corpus import GOOD_CODE, write_jsonl
from isoflop.corpus.filters.config import FilterConfig, LintConfig
from isoflop.corpus.filters.run import filter_corpus
from isoflop.corpus.intake import CorpusInput
from isoflop.corpus.rows import Rewriting
from isoflop.corpus.shards import OutputConfig, kept_rows, rejected_rows

datatrove_steps = pytest.importorskip("isoflop.corpus.datatrove_steps")

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


def test_a_row_survives_as_a_document(tmp_path):
    source = CorpusInput(path=str(write_jsonl(tmp_path / "a.jsonl", ["x"], path="a.py")))
    from isoflop.corpus.intake import open_input

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
