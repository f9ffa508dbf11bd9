"""A schedule keeps the order, never uses more workers than there are, and leaves none idle."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.design.schedule import Schedule, Task, schedule_to_json, schedule_to_text, simulate

SECONDS = st.floats(0.1, 1e4)


def tasks(seconds: list[float], workers: int = 1) -> list[Task]:
    return [Task(name=f"r{n}", seconds=float(s), workers=workers) for n, s in enumerate(seconds)]


def busy_at(schedule: Schedule, moment: float) -> int:
    return sum(
        run.workers for run in schedule.runs if run.start_seconds <= moment < run.end_seconds
    )


def test_two_workers_take_the_next_run_as_soon_as_one_is_free():
    schedule = simulate(tasks([3, 5, 4, 1]), 2)
    assert [run.start_seconds for run in schedule.runs] == [0, 0, 3, 5]
    assert schedule.wall_seconds == 7
    assert schedule.worker_seconds == 13
    assert schedule.used_share == pytest.approx(13 / 14)


def test_a_run_of_several_workers_waits_for_all_of_them():
    wide = Task(name="wide", seconds=2.0, workers=3)
    schedule = simulate([*tasks([1, 4]), wide, *tasks([1])], 4)
    assert [run.start_seconds for run in schedule.runs] == [0, 0, 1, 3]
    schedule = simulate([*tasks([1, 4]), wide, *tasks([1])], 3)
    assert [run.start_seconds for run in schedule.runs] == [0, 0, 4, 6]


@given(st.lists(SECONDS, min_size=1, max_size=12), st.integers(1, 5))
def test_bounds_of_wall_time(seconds, workers):
    schedule = simulate(tasks(seconds), workers)
    least = max(max(seconds), sum(seconds) / workers)
    assert least * (1 - 1e-9) <= schedule.wall_seconds <= sum(seconds) / workers + max(seconds)
    for run in schedule.runs:
        assert busy_at(schedule, run.start_seconds) <= workers
        # Nothing waits while a worker is free.
        earlier = run.start_seconds * (1 - 1e-9)
        assert run.start_seconds == 0 or busy_at(schedule, earlier) == workers
    starts = [run.start_seconds for run in schedule.runs]
    assert starts == sorted(starts)


@given(st.lists(SECONDS, min_size=1, max_size=8))
def test_one_worker_needs_the_sum(seconds):
    assert simulate(tasks(seconds), 1).wall_seconds == pytest.approx(sum(seconds))


def test_what_lies_around_the_runs_is_no_workers_time():
    schedule = simulate(tasks([3, 5]), 1, before_seconds=10.0, after_seconds=2.0)
    assert [run.start_seconds for run in schedule.runs] == [10, 13]
    assert (schedule.wall_seconds, schedule.worker_seconds) == (20, 8)


@pytest.mark.parametrize(
    ("given_tasks", "workers", "told"),
    [
        ([], 1, "needs runs and workers"),
        (tasks([1]), 0, "needs runs and workers"),
        (tasks([1], workers=4), 2, "r0 needs 4 workers; there are 2"),
        (tasks([float("nan")]), 1, "nan seconds must be 0 or more"),
    ],
)
def test_what_cannot_be_scheduled_is_told(given_tasks, workers, told):
    with pytest.raises(UserError, match=told):
        simulate(given_tasks, workers)


def test_texts_have_the_sums():
    schedule = simulate(tasks([3600, 3600], workers=2), 2)
    assert "2 runs on 2 workers: about 2.0 h, 4 worker-hours, 100%" in schedule_to_text(schedule)
    assert "cost 8" in schedule_to_text(schedule, 2.0)
    told = json.loads(schedule_to_json(schedule))
    assert (told["wall_seconds"], told["worker_hours"], told["cost"]) == (7200, 4, None)
