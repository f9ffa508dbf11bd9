"""When each run of a family would start and end: the pool's order, played through in no time.

The rule is that of `isoflop.sweep.pool`: runs in the order of the study, each as soon as enough
workers are free, none overtaken. Wall time and cost follow from each run's seconds, which are
measured (`isoflop.sweep.measured`), or estimated from FLOPs (`isoflop.design.estimate`).
"""

import heapq
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from isoflop.config import UserError
from isoflop.design.plan import format_seconds

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run to be scheduled."""

    name: str
    seconds: float
    """From the start of its process to the end of its evaluation."""
    workers: int = 1
    """Workers, or GPUs, that it occupies."""
    layout: str | None = None
    """How it is spread over them, in words; None: not chosen here."""


@dataclass(frozen=True, kw_only=True)
class ScheduledRun:
    """One run with its place in time."""

    name: str
    workers: int
    start_seconds: float
    end_seconds: float
    layout: str | None = None

    @property
    def worker_seconds(self) -> float:
        """Time in which it occupies workers, of all of its workers."""
        return self.workers * (self.end_seconds - self.start_seconds)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A family's runs in time."""

    runs: tuple[ScheduledRun, ...]
    workers: int
    after_seconds: float = 0.0
    """For tables and report, when the last run has ended."""

    @property
    def wall_seconds(self) -> float:
        """From the call to its end."""
        return max(run.end_seconds for run in self.runs) + self.after_seconds

    @property
    def worker_seconds(self) -> float:
        """Time in which workers are occupied, of all workers; GPU time where workers are GPUs."""
        return sum(run.worker_seconds for run in self.runs)

    @property
    def used_share(self) -> float:
        """Of the workers' time until the end, how much is occupied."""
        whole = self.workers * self.wall_seconds
        return self.worker_seconds / whole if whole else 1.0


def simulate(
    tasks: Sequence[Task],
    workers: int,
    *,
    before_seconds: float = 0.0,
    after_seconds: float = 0.0,
) -> Schedule:
    """Play the tasks through in their order.

    Args:
        before_seconds: for corpus and tokens, before the first run starts.
        after_seconds: for tables and report, when the last run has ended.

    Raises:
        UserError: no tasks, or one that needs more workers than there are.
    """
    if not tasks or workers < 1:
        raise UserError(f"a schedule needs runs and workers, got {len(tasks)} and {workers}")
    ends: list[tuple[float, int]] = []
    free, now = workers, before_seconds
    runs = []
    for task in tasks:
        if not 1 <= task.workers <= workers:
            raise UserError(f"{task.name} needs {task.workers} workers; there are {workers}")
        if not task.seconds >= 0:
            raise UserError(f"{task.name}: {task.seconds} seconds must be 0 or more")
        while free < task.workers:
            now, released = heapq.heappop(ends)
            free += released
        free -= task.workers
        end = now + task.seconds
        heapq.heappush(ends, (end, task.workers))
        runs.append(
            ScheduledRun(
                name=task.name,
                workers=task.workers,
                start_seconds=now,
                end_seconds=end,
                layout=task.layout,
            )
        )
    return Schedule(runs=tuple(runs), workers=workers, after_seconds=after_seconds)


def schedule_to_json(schedule: Schedule, price_per_hour: float | None = None) -> str:
    """Runs with start, end and worker-hours, and the sums; null for what is not known."""
    values = {
        "runs": [
            {**asdict(run), "worker_hours": run.worker_seconds / SECONDS_PER_HOUR}
            for run in schedule.runs
        ],
        "workers": schedule.workers,
        "wall_seconds": schedule.wall_seconds,
        "worker_hours": schedule.worker_seconds / SECONDS_PER_HOUR,
        "cost": _cost(schedule, price_per_hour),
    }
    return json.dumps(values, indent=2) + "\n"


def schedule_to_text(schedule: Schedule, price_per_hour: float | None = None) -> str:
    """A line a run in the order of starts, and the sums."""
    width = max(len(run.name) for run in schedule.runs)
    lines = [
        f"{run.name.ljust(width)}  from {format_seconds(run.start_seconds):>9} "
        f"to {format_seconds(run.end_seconds):>9}  {run.workers:>4} workers "
        f"{run.worker_seconds / SECONDS_PER_HOUR:>9,.4g} worker-hours"
        + (f"  {run.layout}" if run.layout else "")
        for run in schedule.runs
    ]
    hours = schedule.worker_seconds / SECONDS_PER_HOUR
    summary = (
        f"{len(schedule.runs)} runs on {schedule.workers} workers: about "
        f"{format_seconds(schedule.wall_seconds)}, {hours:,.4g} worker-hours, "
        f"{schedule.used_share:.0%} of the workers' time used"
    )
    cost = _cost(schedule, price_per_hour)
    summary += "" if cost is None else f", cost {cost:,.0f}"
    return "\n".join([*lines, "", summary]) + "\n"


def _cost(schedule: Schedule, price_per_hour: float | None) -> float | None:
    if price_per_hour is None:
        return None
    return price_per_hour * schedule.worker_seconds / SECONDS_PER_HOUR
