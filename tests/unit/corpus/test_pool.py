"""Rows come back in their order, whatever a row does to its worker."""

import os
import time
from pathlib import Path

import pytest

from fakes_corpus import HostileJob, row
from isoflop.corpus import pool as pool_module
from isoflop.corpus.filters.config import Limits
from isoflop.corpus.pool import Pool

TESTS = Path(__file__).parents[2]
LIMITS = Limits(cpu_seconds=0.5, memory_bytes=1 << 28)


@pytest.fixture(autouse=True)
def _workers_find_the_jobs(monkeypatch):
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)


def results(texts, num_workers=2):
    with Pool(HostileJob(), num_workers, LIMITS) as pool:
        return list(pool.run(row(text) for text in texts))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_many_rows_come_back_in_order(num_workers):
    texts = [f"text {number}" for number in range(500)]
    found = results(texts, num_workers)
    assert [(r.text, changes) for r, changes in found] == [
        (text, {"language": text.upper()}) for text in texts
    ]


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("spin", "time limit", "more than 0.5 s of processor time"),
        ("fill", "memory limit", "more than 268,435,456 bytes"),
        ("crash", "crash", "the process ended by SIGSEGV"),
        ("raise", "crash", "KeyError('a reason')"),
        ("leave", "crash", "the process ended with status 3"),
    ],
)
def test_a_hostile_row_is_rejected_with_its_reason_and_its_neighbours_are_not(text, reason, detail):
    texts = [f"before {n}" for n in range(10)] + [text] + [f"after {n}" for n in range(10)]
    found = results(texts)
    assert [r.text for r, _ in found] == texts
    hostile, changes = found.pop(10)
    assert (hostile.rejected_by, hostile.reason, hostile.detail) == ("second", reason, detail)
    assert changes == {"language": text.upper()}, "what was done before the step is kept"
    assert all(r.rejected_by is None and c == {"language": r.text.upper()} for r, c in found)


def test_a_worker_that_waits_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr(pool_module, "WALL_FACTOR", 0)
    monkeypatch.setattr(pool_module, "WALL_SECONDS", 1.0)
    begun = time.monotonic()
    (sleeper, _), (other, _) = results(["sleep", "other"], 1)
    assert (sleeper.rejected_by, sleeper.reason) == ("second", "time limit")
    assert sleeper.detail == "no answer within 1 s"
    assert other.rejected_by is None
    assert time.monotonic() - begun < 60


def test_a_spoiled_process_takes_no_further_row_and_loses_none():
    found = results(["a", "spoil", "b", "spoil", "c"], 1)
    assert [c["language"] for _, c in found] == ["A", "SPOIL", "B", "SPOIL", "C"]
    assert all(r.rejected_by is None for r, _ in found)


def test_rejected_rows_pass_untouched():
    rejected = row("spin", rejected_by="read", reason="why", detail="what")
    with Pool(HostileJob(), 1, LIMITS) as pool:
        assert list(pool.run([rejected, row("b")])) == [
            (rejected, {}),
            (row("b"), {"language": "B"}),
        ]


def test_a_long_row_beside_short_ones():
    texts = ["x" * (1 << 20), "a", "y" * (1 << 21), "b", "c"]
    assert [c["language"] for _, c in results(texts)] == [text.upper() for text in texts]


def test_leaving_early_leaves_no_process(tmp_path):
    with Pool(HostileJob(), 2, LIMITS) as pool:
        next(iter(pool.run(row(str(n)) for n in range(1000))))
        nursery = pool._nursery._process.pid
        workers = [worker.pid for worker in pool._workers]
    for process in (nursery, *workers):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
