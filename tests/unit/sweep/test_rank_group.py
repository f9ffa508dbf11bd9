"""A study whose runs are spread over ranks by torchrun's agent, one of which is killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from isoflop.design.layout import Layout
from isoflop.records import StepRow, read_rows
from isoflop.sweep.pool import ERROR_FILE, USER_ERROR, last_words
from isoflop.sweep.run import run_study
from isoflop.sweep.study import PlannedRun, read_study_map

LAYOUT = Layout(ranks=2, shard=2, expert_parallel=2)
PATIENCE_SECONDS = 900.0


def rank_processes(root: Path) -> list[int]:
    """Processes that are ranks of a run in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"isoflop.sweep.worker" in words and str(root).encode() in words:
            found.append(int(entry.parent.name))
    return found


def kill_a_rank(root: Path, run: PlannedRun, killed: list[int]) -> None:
    """As soon as a first row is there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        begun = (root / run.train.path / "steps.jsonl").exists()
        ranks = rank_processes(root) if begun else []
        if ranks:
            os.kill(max(ranks), signal.SIGKILL)
            killed.append(max(ranks))
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_study_ends_as_in_one_process(finished, tmp_path):
    one = replace(
        finished.experiment,
        cells=finished.experiment.cells[1:],
        train=replace(finished.experiment.train, resume_seconds=0.0),
    )
    root = tmp_path / "tiny"
    run = next(r for r in read_study_map(finished.root).runs if r.cell == "E4-k2")
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_rank, args=(root, run, killed), daemon=True)
    killer.start()
    states = run_study(one, root, num_workers=1, console=Console(quiet=True), layout=LAYOUT)
    assert [state.state for state in states] == ["done"], states
    killer.join()
    assert killed, "nothing was killed"
    told = (root / run.train.path / ERROR_FILE).read_text()
    assert "of 2 killed by signal 9" in told
    assert "started again (1 of 3)" in told
    assert not rank_processes(root)
    curves = [
        [row.train_loss for row in read_rows(where / run.train.path / "steps.jsonl", StepRow)]
        for where in (finished.root, root)
    ]
    assert curves[1] == pytest.approx(curves[0], abs=2e-5)
    assert "2 ranks, shard 2, expert parallel 2" in (root / run.train.path / "env.json").read_text()


@pytest.mark.slow
def test_a_user_s_mistake_is_one_line_however_many_ranks_make_it(finished, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    (run, *_) = read_study_map(root).runs
    shutil.rmtree(root / run.train.path)
    for shard in (root / "tokens").rglob("train.idx"):
        shard.write_bytes(b"")
    words = [str(root), "0", json.dumps(asdict(Layout(ranks=2)))]
    stderr = tmp_path / "stderr.txt"
    # Ranks live as long as this pipe: not closed while they are waited for.
    with (
        stderr.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "isoflop.sweep.rank_group", *words],
            stdin=subprocess.PIPE,
            stderr=errors,
        ) as group,
    ):
        assert group.wait(PATIENCE_SECONDS) == USER_ERROR
    assert re.fullmatch(r"rank [01] of 2: \S*train\.idx[^\n]*", last_words(stderr))
    # The elastic agent's own log is there too, and is no part of it.
    assert len(stderr.read_text().splitlines()) > 1
