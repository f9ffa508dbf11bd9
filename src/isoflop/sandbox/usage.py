"""What a sandbox's program has used while it runs, as the host's /proc shows it, and what is left to it.

The kernel's own limit of processor time counts by clock ticks, and two processes that wake each
other between the ticks can pass it tenfold. And real time alone would end a program that only
waits for a processor. Sources: proc(5); Linux, Documentation/scheduler/sched-stats.rst.
"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")

LEAST_SHARE = 0.01
"""Of a limit: a program with less left is ended, so that questions about it have an end."""


class Usage(NamedTuple):
    """Of the processes of a program that are alive."""

    cpu_seconds: float
    """Processor time, of the children that they collected too."""
    waiting_seconds: float
    """Real time in which one thread could have run and stood in a queue: of the thread that waited
    longest, since threads of one program also wait for each other. 0 where no kernel counts it."""


def usage_of_program(worker: int) -> Usage:
    """Of the program that a worker runs: of all that descends from its child, that not included.

    With namespaces the child is the worker's inner process, without them the program's first one;
    neither does any of the program's work.
    """
    stats = _stats()
    children: dict[int, list[int]] = {}
    for process, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(process)
    todo = [process for child in children.get(worker, []) for process in children.get(child, [])]
    ticks, longest = 0, 0
    while todo:
        process = todo.pop()
        todo += children.get(process, [])
        ticks += sum(int(field) for field in stats[process][11:15])
        longest = max([longest, *_waiting(process)])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), longest / 1e9)


def seconds_left(
    usage: Usage, *, real_seconds: float, cpu_limit: float, wall_limit: float
) -> float:
    """Real time until it should be asked again; 0 once a limit is passed.

    >>> limits = {"cpu_limit": 30.0, "wall_limit": 120.0}
    >>> seconds_left(Usage(1.0, 0.0), real_seconds=30.0, **limits)
    29.0
    >>> seconds_left(Usage(1.0, 0.0), real_seconds=120.0, **limits)
    0.0
    >>> seconds_left(Usage(20.0, 90.0), real_seconds=120.0, **limits)
    10.0
    >>> seconds_left(Usage(31.0, 90.0), real_seconds=120.0, **limits)
    0.0
    """
    wall_left = wall_limit - real_seconds + min(usage.waiting_seconds, real_seconds)
    cpu_left = cpu_limit - usage.cpu_seconds
    if cpu_left <= 0 or wall_left <= LEAST_SHARE * wall_limit:
        return 0.0
    return min(wall_left, max(cpu_left, LEAST_SHARE * cpu_limit))


def _stats() -> dict[int, list[str]]:
    """The fields of every process's stat after its name, which may hold anything."""
    found = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (folder / "stat").read_text(errors="replace")
            found[int(folder.name)] = text.rpartition(")")[2].split()
    return found


def _waiting(process: int) -> list[int]:
    """Nanoseconds in which each of its threads waited for a processor."""
    found = []
    with contextlib.suppress(OSError):
        for thread in (PROC / str(process) / "task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found.append(int((thread / "schedstat").read_text().split()[1]))
    return found
