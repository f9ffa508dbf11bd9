"""Laws of run folders: named by what decides them, done last, one process at a time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fakes import names_in, tiny_model
from isoflop import folders
from isoflop.config import UserError, to_text
from isoflop.folders import environment, locked, read_environments, stage_folder, working_in

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom isoflop.folders import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def holder(path: Path) -> subprocess.Popen:
    """A process that holds the lock of `path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_done_is_written_last(tmp_path):
    folder = stage_folder(tmp_path, "train", "E4", tiny_model())
    with working_in(folder) as path:
        assert not folder.done
        assert (path / "config.json").read_text() == to_text(tiny_model())
        (environment,) = read_environments(path / "env.json")
        assert environment["python"]
        folder.finish()
    assert folder.done
    assert (folder.path / "DONE").read_text() == folder.digest + "\n"


def test_an_error_leaves_the_folder_unfinished(tmp_path):
    folder = stage_folder(tmp_path, "train", "E4", tiny_model())
    with pytest.raises(KeyError), working_in(folder):
        raise KeyError
    assert not folder.done


def test_the_name_depends_on_config_stage_and_inputs_alone(tmp_path):
    def code(stage="train", inputs=("a",), **changes):
        return stage_folder(tmp_path, stage, "E4", tiny_model(**changes), inputs).path.name

    assert code() == code()
    assert len({code(), code(stage="tokens"), code(inputs=("b",)), code(num_layers=2)}) == 4


def test_naming_makes_no_folder(tmp_path):
    stage_folder(tmp_path, "train", "E4", tiny_model())
    assert names_in(tmp_path) == []


def test_a_second_process_is_refused_and_a_killed_holder_frees_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "LOCK_PATIENCE_SECONDS", 0.0)
    with holder(tmp_path) as process:
        with (
            pytest.raises(UserError, match="another process works in this folder"),
            locked(tmp_path),
        ):
            pass
        process.kill()
    with locked(tmp_path):
        pass


def test_a_lock_that_is_freed_in_time_is_waited_for(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
        began = time.monotonic()
        with locked(tmp_path):
            assert time.monotonic() - began < folders.LOCK_PATIENCE_SECONDS


def test_an_error_inside_frees_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "LOCK_PATIENCE_SECONDS", 0.0)
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_the_environment_names_what_can_change_a_result():
    found = environment()
    assert found["packages"]["torch"]
    assert found["num_cores"] == os.cpu_count()
    json.dumps(found)


def test_another_environment_is_added_and_the_same_is_not(tmp_path):
    folder = stage_folder(tmp_path, "train", "E4", tiny_model())
    for device in ("cpu", "cpu", "H200, CUDA 13.0"):
        with working_in(folder, device=device) as path:
            pass
    known = read_environments(path / "env.json")
    assert [one["device"] for one in known] == ["cpu", "H200, CUDA 13.0"]
