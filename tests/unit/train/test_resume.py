"""The law of resuming: killed at any moment and run again, a run leaves the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fakes import tiny_run, tiny_train
from isoflop.config import UserError
from isoflop.train.loop import train_run
from isoflop.train.state import STATE_FILE, forget_state


class KilledError(Exception):
    """Stands for the end of the process."""


def quiet(*_: object) -> None:
    """A progress callback."""


def results(folder: Path) -> dict[str, bytes]:
    """Every byte that must not depend on interruptions."""
    names = ["mixture.jsonl", "steps.jsonl", "losses.jsonl"]
    files = [folder / name for name in names] + sorted((folder / "checkpoints").rglob("*.*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """Results of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train_run(tiny_run(folder), folder, quiet)
    return results(folder)


def kill_at(folder: Path, step: int, **changes) -> None:
    """Train until the row of `step` is written, then stop as if killed."""

    def progress(done: int, total: int, speed: float) -> None:
        if done >= step:
            raise KilledError

    with pytest.raises(KilledError):
        train_run(tiny_run(folder, tiny_train(**changes)), folder, progress)


@pytest.mark.parametrize("kills", [(3,), (10,), (18,), (20,), (3, 6, 9, 10, 12, 15, 18)])
def test_a_resumed_run_leaves_the_same_bytes(tmp_path, whole, kills):
    for step in kills:
        kill_at(tmp_path, step)
    train_run(tiny_run(tmp_path), tmp_path, quiet)
    assert results(tmp_path) == whole


def test_a_run_killed_before_it_is_marked_as_complete_repeats_nothing_saved(tmp_path, whole):
    train_run(tiny_run(tmp_path), tmp_path, quiet)
    heard = []
    train_run(tiny_run(tmp_path), tmp_path, lambda done, *_: heard.append(done))
    assert heard == []
    assert results(tmp_path) == whole
    forget_state(tmp_path)
    assert not (tmp_path / STATE_FILE).exists()


def test_a_run_killed_before_its_first_state_begins_again(tmp_path, whole):
    kill_at(tmp_path, 15, resume_seconds=1e9)
    assert not (tmp_path / STATE_FILE).exists()
    train_run(tiny_run(tmp_path), tmp_path, quiet)
    assert results(tmp_path) == whole


def test_a_resumed_run_goes_on_where_it_was(tmp_path):
    kill_at(tmp_path, 12)
    heard = []
    train_run(tiny_run(tmp_path), tmp_path, lambda done, *_: heard.append(done))
    assert heard == [12, 15, 18, 20]


@pytest.mark.parametrize("torn", ['{"step": 12, "tok', '{"step": 12}', "\xff\x00"])
def test_a_torn_last_line_is_dropped(tmp_path, whole, torn):
    kill_at(tmp_path, 12)
    for name in ("steps.jsonl", "losses.jsonl", "timings.jsonl"):
        with (tmp_path / name).open("a", encoding="latin-1") as file:
            file.write(torn)
    train_run(tiny_run(tmp_path), tmp_path, quiet)
    assert results(tmp_path) == whole


def test_a_damaged_line_before_the_last_is_told_with_its_place(tmp_path):
    kill_at(tmp_path, 12)
    steps = tmp_path / "steps.jsonl"
    steps.write_text("{\n" + steps.read_text())
    with pytest.raises(UserError, match=r"steps\.jsonl:1: not JSON"):
        train_run(tiny_run(tmp_path), tmp_path, quiet)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_state_cut_short_is_told_and_deleting_it_begins_again(tmp_path, whole, kept):
    kill_at(tmp_path, 12)
    state = tmp_path / STATE_FILE
    state.write_bytes(state.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"resume\.safetensors: not a whole safetensors file"):
        train_run(tiny_run(tmp_path), tmp_path, quiet)
    state.unlink()
    train_run(tiny_run(tmp_path), tmp_path, quiet)
    assert results(tmp_path) == whole


def test_the_state_of_another_run_is_refused(tmp_path):
    kill_at(tmp_path, 12)
    with pytest.raises(UserError, match="state of run 0123abcd, expected ffffffff; delete it"):
        train_run(tiny_run(tmp_path, digest="ffffffff"), tmp_path, quiet)


def test_resuming_does_not_depend_on_the_global_random_state(tmp_path, whole):
    kill_at(tmp_path, 9)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        torch.rand(5)
        train_run(tiny_run(tmp_path), tmp_path, quiet)
    assert results(tmp_path) == whole


WORKER = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from fakes import tiny_run
from isoflop.train.loop import train_run
folder = Path(sys.argv[2])
train_run(tiny_run(folder), folder, lambda *done: print(*done, flush=True))
"""


def test_a_real_sigkill_leaves_the_same_bytes(tmp_path, whole):
    tests = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, tests, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        while not process.stdout.readline().startswith(b"9 "):
            assert process.poll() is None
        time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    train_run(tiny_run(tmp_path), tmp_path, quiet)
    assert results(tmp_path) == whole
