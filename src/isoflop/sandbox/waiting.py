"""How long the processes of a sandbox's program have waited for a processor, as the kernel counts it.

Source: /proc/PID/schedstat, whose second figure is the nanoseconds that a thread could have run but
stood in a queue (Linux, Documentation/scheduler/sched-stats.rst).
"""

import contextlib
from pathlib import Path

PROC = Path("/proc")


def waiting_seconds(worker: int) -> float:
    """Of all threads of the programs that a worker started and that are alive, together.

    The worker's first child is its inner process, where it has namespaces; both lived before the
    program and do not count. 0 where the kernel keeps no such count: then real time decides.
    """
    children = _children()
    inner = children.get(worker, [])
    found, todo = 0, [process for child in inner for process in children.get(child, [])]
    while todo:
        process = todo.pop()
        todo += children.get(process, [])
        for thread in _threads(process):
            with contextlib.suppress(OSError, ValueError, IndexError):
                found += int((thread / "schedstat").read_text().split()[1])
    return found / 1e9


def _children() -> dict[int, list[int]]:
    """Processes by their parents."""
    children: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # After the name, which may hold anything: state, then parent.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    return children


def _threads(process: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list((PROC / str(process) / "task").iterdir())
    return []
