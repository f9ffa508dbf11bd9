"""Inside a process of the pool: ``python -m isoflop.corpus.worker DESCRIPTOR``.

The nursery prepares the job and forks a worker whenever it is told to. Both end when their pipe
to the pool does: a killed parent leaves nothing behind.
"""

import os
import resource
import signal
import sys
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.corpus.filters.config import Limits
from isoflop.corpus.filters.lint import OUT_OF_MEMORY, resident_bytes
from isoflop.corpus.pool import (
    ERROR_BYTES,
    STEP_BYTES,
    Changes,
    RowFunction,
    Spoiled,
)
from isoflop.corpus.rows import TextRow

GROWTH_BYTES = 3 << 29
"""A worker that holds so much more than when it began ends between two rows, and a new one takes its
place: pylint keeps what it read of imported packages. 1.5 GiB, chosen."""


def main(descriptor: int) -> None:
    """The nursery."""
    control: Connection[Any, Any] = Connection(descriptor)
    job, limits = control.recv()
    try:
        function = job.prepare()
    except UserError as error:
        control.send(str(error))
        return
    control.send(None)
    children: set[int] = set()
    try:
        while True:
            _obey(control, function, limits, children)
    except (EOFError, OSError):
        pass
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        function.close()


def _obey(
    control: "Connection[Any, Any]", function: RowFunction, limits: Limits, children: set[int]
) -> None:
    """One order of the pool."""
    order, argument = control.recv()
    if order == "end":
        control.send(_end(argument, children))
        return
    connection, step = (reduction.recv_handle(control) for _ in range(2))
    child = os.fork()
    if child == 0:
        control.close()
        try:
            serve(Connection(connection), step, function, limits)
        finally:
            # Only an error comes here. The pool reads its words behind the step's name.
            words = repr(sys.exc_info()[1]).encode("utf-8", "backslashreplace")
            os.pwrite(step, words[:ERROR_BYTES], STEP_BYTES)
            os._exit(1)
    children.add(child)
    os.close(connection)
    os.close(step)
    control.send(child)


def _end(child: int, children: set[int]) -> int:
    """End a worker that may have ended already; how it ended if so."""
    children.discard(child)
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended == 0:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def serve(
    connection: "Connection[Any, Any]", step: int, function: RowFunction, limits: Limits
) -> None:
    """The worker: rows in, changes out, until the pipe ends. Does not return."""
    _limit_memory(limits)
    most = resident_bytes() + GROWTH_BYTES
    try:
        while True:
            row, lost = connection.recv()
            signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds)
            changes, spoiled = _work(function, row, lost, step)
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.pwrite(step, bytes(STEP_BYTES), 0)
            connection.send(changes)
            if spoiled or resident_bytes() > most:
                os._exit(0)
    except (EOFError, ConnectionError):
        os._exit(0)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _work(function: RowFunction, row: TextRow, lost: str | None, step: int) -> tuple[Changes, bool]:
    """The changes of one row, and whether the process must end after it."""

    def begin(name: str) -> bool:
        # The timer of processor time kills without a word: the pool reads the step here.
        os.pwrite(step, name.encode().ljust(STEP_BYTES, b"\0"), 0)
        return name != lost

    try:
        return function(row, begin), False
    except Spoiled as spoiled:
        return spoiled.changes, True


def _limit_memory(limits: Limits) -> None:
    """Bound the address space to what is held now, may stay from row to row, and one row may take."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return  # Not Linux: the address space in use is not told, and limits are not kept.
    most = pages * resource.getpagesize() + GROWTH_BYTES + limits.memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))
