"""Runs as jobs: submitted once, watched, found again; what a scheduler refuses is told."""

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from isoflop.cli import main
from isoflop.config import UserError
from isoflop.design.layout import Layout
from isoflop.records import write_rows
from isoflop.sweep import slurm
from isoflop.sweep.run import run_study
from isoflop.sweep.slurm import (
    JOBS,
    JobRow,
    Queue,
    RunJob,
    SqueueError,
    job_states,
    num_nodes,
    read_jobs,
    run_jobs,
    submit,
)
from isoflop.sweep.status import status_text, study_status
from isoflop.sweep.study import read_study_map

pytest.importorskip("submitit")


def program(folder: Path, name: str, lines: str) -> None:
    """A program of Slurm's that does what a test needs."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def bin_folder(tmp_path, monkeypatch) -> Path:
    """First on the path; srun makes submitit believe in Slurm."""
    folder = tmp_path / "bin"
    program(folder, "srun", "exit 0")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def unfinished(finished, tmp_path) -> Path:
    """A study of two runs of which none is scored."""
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    shutil.rmtree(root / "evaluate")
    return root


# submitit does not wait for the processes that it starts.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.slow
def test_runs_as_local_jobs_end_as_in_the_pool(finished, tmp_path):
    one = replace(finished.experiment, cells=finished.experiment.cells[:1])
    root = tmp_path / "tiny"
    quiet = Console(quiet=True)
    states = run_study(one, root, console=quiet, launcher="local-jobs")
    assert [state.state for state in states] == ["done"]
    (run,) = read_study_map(root).runs
    theirs = next(r for r in read_study_map(finished.root).runs if r.cell == run.cell)
    for name in ("steps.jsonl", "losses.jsonl"):
        wanted = (finished.root / theirs.train.path / name).read_bytes()
        assert (root / run.train.path / name).read_bytes() == wanted
    (row,) = study_status(root)
    # A job's process ends after its last work, on a loaded machine well after.
    deadline = time.monotonic() + 60
    while row.job_state is not None and time.monotonic() < deadline:
        time.sleep(0.2)
        (row,) = study_status(root)
    assert (row.state, row.step, row.job_state) == ("done", row.num_steps, None)
    assert f"job {row.job} ended" in status_text([row])
    before = (root / JOBS).read_bytes()
    run_study(one, root, console=quiet, launcher="local-jobs")
    assert (root / JOBS).read_bytes() == before


def test_a_job_in_the_queue_is_not_submitted_again(unfinished, bin_folder):
    counter = bin_folder / "count"
    program(
        bin_folder, "sbatch", f"echo x >> {counter}; echo Submitted batch job 7$(wc -l < {counter})"
    )
    program(bin_folder, "squeue", "echo '71|PENDING'; echo '72|COMPLETED'")
    study = read_study_map(unfinished)
    (unfinished / JOBS).parent.mkdir()
    queue = Queue("slurm", unfinished, print)
    options = {"partition": "gpu", "nodes": "2"}
    first = submit(study, unfinished, [0, 1], "slurm", options, Layout(ranks=2), queue)
    assert {number: row.job for number, row in first.items()} == {0: "71", 1: "72"}
    (script, *_) = (unfinished / JOBS.parent).glob("*_submission.sh")
    assert "#SBATCH --partition=gpu" in script.read_text()
    assert "#SBATCH --nodes=2" in script.read_text()
    again = submit(study, unfinished, [0, 1], "slurm", {}, None, queue)
    assert {number: row.job for number, row in again.items()} == {0: "71", 1: "73"}
    assert [row.job for row in read_jobs(unfinished)] == ["71", "73"]


def test_a_job_that_vanished_is_told_with_its_number(unfinished, bin_folder, monkeypatch):
    monkeypatch.setattr(slurm, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.01)
    program(bin_folder, "sbatch", "echo Submitted batch job 71")
    program(bin_folder, "squeue", "echo '72|RUNNING'")
    told = []
    study = read_study_map(unfinished)
    run_jobs(study, unfinished, [0], "slurm", {}, told.append, lambda: None, print)
    assert told[-1].stage == "failed"
    assert told[-1].reason == "job 71 ended without a result (cancelled, or killed)"


@pytest.fixture
def silent(bin_folder):
    """A squeue that fails."""
    program(bin_folder, "squeue", "echo 'slurm_load_jobs error: Socket timed out' >&2; exit 1")


def test_a_scheduler_that_does_not_answer_has_not_lost_the_jobs(silent, tmp_path):
    with pytest.raises(SqueueError, match=r"^squeue: slurm_load_jobs error: Socket timed out$"):
        job_states(["71"], "slurm", tmp_path)
    assert Queue("slurm", tmp_path, print).states(["71"]) == {"71": "UNKNOWN"}


def test_a_squeue_that_hangs_is_a_silent_one(bin_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "SQUEUE_SECONDS", 0.2)
    program(bin_folder, "squeue", "exec sleep 60")
    with pytest.raises(SqueueError, match=r"no answer within 0\.2 s"):
        job_states(["71"], "slurm", tmp_path)


def test_a_silent_scheduler_is_told_once_and_then_at_intervals(silent, tmp_path, monkeypatch):
    said: list[str] = []
    queue = Queue("slurm", tmp_path, said.append)
    for _ in range(3):
        queue.states(["71"])
    (line,) = said
    assert "squeue: slurm_load_jobs error: Socket timed out" in line
    monkeypatch.setattr(slurm, "REMIND_SECONDS", 0.0)
    queue.states(["71"])
    assert len(said) == 2


def test_patience_with_a_silent_scheduler_ends_and_begins_anew_with_each_answer(
    silent, bin_folder, tmp_path, monkeypatch
):
    clock = iter([0.0, 7000.0, 7300.0, 20_000.0, 30_000.0])
    monkeypatch.setattr(slurm.time, "monotonic", lambda: next(clock))
    queue = Queue("slurm", tmp_path, lambda line: None)
    queue.states(["71"])
    queue.states(["71"])
    with pytest.raises(
        UserError, match=r"Socket timed out; no answer for 2\.0 h: the jobs are left"
    ):
        queue.states(["71"])
    answer = Queue("slurm", tmp_path, lambda line: None)
    answer.states(["71"])
    program(bin_folder, "squeue", "echo '71|RUNNING'")
    assert answer.states(["71"]) == {"71": "RUNNING"}
    program(bin_folder, "squeue", "exit 1")
    assert answer.states(["71"]) == {"71": "UNKNOWN"}


@pytest.mark.parametrize(
    ("options", "ranks", "told"),
    [
        ({"nodes": "two"}, None, "nodes=two: must be a number"),
        ({"nodes": "0"}, 2, "nodes=0: must be a number, 1 or more"),
        ({"nodes": "2"}, None, "give --ranks too"),
        ({"nodes": "3"}, 4, "nodes=3: must divide --ranks 4"),
        ({"nodes": "2", "gpus_per_node": "4"}, 16, "each of 2 nodes has 8 of --ranks 16"),
    ],
)
def test_nodes_that_do_not_go_with_the_ranks_are_refused(options, ranks, told):
    with pytest.raises(UserError, match=re.escape(told)):
        num_nodes(options, None if ranks is None else Layout(ranks=ranks))


@pytest.mark.parametrize(
    ("options", "ranks", "nodes"),
    [
        ({}, None, 1),
        ({"nodes": "1", "gpus_per_node": "8"}, None, 1),
        ({"nodes": "2", "gpus_per_node": "4"}, 8, 2),
        ({"nodes": "4", "gpus_per_node": "h100:4"}, 16, 4),
        ({"gpus_per_node": "0"}, 8, 1),
    ],
)
def test_nodes_that_go_with_the_ranks_are_counted(options, ranks, nodes):
    assert num_nodes(options, None if ranks is None else Layout(ranks=ranks)) == nodes


def test_status_is_told_where_slurm_is_not_and_a_file_is_damaged(unfinished, monkeypatch, tmp_path):
    one, other = read_study_map(unfinished).runs
    (unfinished / JOBS).parent.mkdir()
    write_rows(unfinished / JOBS, [JobRow(run=one.name, job="71", cluster="slurm")])
    rows = unfinished / one.train.path / "steps.jsonl"
    rows.write_bytes(rows.read_bytes()[:-9])
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    damaged, whole = study_status(unfinished)
    assert damaged.job_state == "state not known"
    assert damaged.step > 0
    assert "steps.jsonl" in damaged.reason
    assert "not JSON" in damaged.reason
    assert (whole.run, whole.step, whole.reason) == (other.name, whole.num_steps, None)
    assert "job 71 state not known" in status_text([damaged, whole])


def test_a_refused_job_is_told_in_slurms_words(unfinished, bin_folder):
    program(
        bin_folder, "sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1"
    )
    program(bin_folder, "squeue", "exit 0")
    (unfinished / JOBS).parent.mkdir()
    study, queue = read_study_map(unfinished), Queue("slurm", unfinished, print)
    with pytest.raises(UserError, match=r"slurm refused E2-k2-s0: .*invalid partition specified"):
        submit(study, unfinished, [0], "slurm", {"partition": "gpu"}, None, queue)


def test_without_slurm_the_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"Slurm is not installed here: use --launcher pool"):
        job_states(["1"], "slurm", tmp_path)


def test_a_requeued_job_does_the_same_again(tmp_path):
    job = RunJob(tmp_path, 3, None, 1)
    assert job.checkpoint().function == job


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--slurm", "partition=gpu"], "--slurm is of --launcher slurm; give that too"),
        (["--launcher", "slurm", "--slurm", "gpu"], "--slurm 'gpu' must be KEY=VALUE"),
        (["--launcher", "slurm", "--slurm", "nodes=two"], "nodes=two: must be a number"),
        (["--launcher", "slurm", "--slurm", "nodes=2"], "give --ranks too"),
        (["--shard", "2"], "spread a run over --ranks; give --ranks too"),
        (["--ranks", "5"], "batch_sequences=32 must be a multiple of ranks=5"),
        (["--ranks", "4", "--expert-parallel", "4"], "E2-k2: expert_parallel=4 must divide"),
    ],
)
def test_mistakes_are_told_before_anything_runs(words, told, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["isoflop", "run", "demo", "--out", str(tmp_path), *words])
    assert main() == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_status_is_read_by_programs(finished, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["isoflop", "status", str(finished.root), "--json"])
    assert main() == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["run"], row["state"], row["job"]) for row in rows] == [
        ("E2-k2-s0", "done", None),
        ("E4-k2-s0", "done", None),
    ]
