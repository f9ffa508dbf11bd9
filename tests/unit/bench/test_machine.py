"""Equal terms: memory is measured from a base, work apart leaves nothing, settings are the workers'."""

import os
import sys

import pytest
import torch

from isoflop.allocator import KEEP_MEMORY
from isoflop.bench import commands
from isoflop.bench.machine import PeakMemory, matrix_peak, require_device, run_apart
from isoflop.config import UserError

MIB = 1 << 20


def hold(megabytes: int) -> int | None:
    torch.ones(MIB)  # The library's own pages, read at first use, are resident too: not counted.
    memory = PeakMemory("cpu")
    torch.ones(megabytes * MIB // 4)
    return memory.read()


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is Linux's")
def test_the_peak_is_what_was_held_also_when_it_is_gone():
    for megabytes in (64, 128):
        found = run_apart(hold, megabytes, device="cpu", threads=1)
        assert found == pytest.approx(megabytes * MIB, abs=2 * MIB)


def test_work_apart_gives_its_result_and_a_users_mistake():
    def refuse():
        raise UserError("no such thing")

    assert run_apart(os.getpid, device="cpu", threads=1) != os.getpid()
    with pytest.raises(UserError, match="no such thing"):
        run_apart(refuse, device="cpu", threads=1)


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="sees no CUDA device here; use --device cpu"):
        require_device("cuda")
    with pytest.raises(UserError, match="must be cpu or cuda"):
        require_device("tpu")
    require_device("cpu")


def test_the_peak_of_products_is_a_speed(monkeypatch):
    monkeypatch.setattr("isoflop.bench.machine.PEAK_SIZES", {"cpu": (32, 64)})
    assert 1e6 < matrix_peak("float32", "cpu") < 1e15


def test_the_command_starts_again_once_with_the_workers_settings(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *given: started.append(given))
    for name in KEEP_MEMORY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "7")
    commands.use_worker_allocator()
    ((_, command, environment),) = started
    assert command[:3] == [sys.executable, "-m", "isoflop"]
    assert environment["MALLOC_TOP_PAD_"] == "7"
    for name in KEEP_MEMORY:
        assert environment[name]
        monkeypatch.setenv(name, environment[name])
    commands.use_worker_allocator()
    assert len(started) == 1
