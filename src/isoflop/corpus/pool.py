"""Rows through worker processes, out in the order in which they came in, each under limits.

A nursery process prepares the work once (imports, warm caches) and forks workers from itself, so
that a worker that a row has killed is replaced in milliseconds. A row that costs too much is
rejected with its reason, and the rest goes on.

The result for a row depends on the row alone, and so does the order: any number of workers
gives the same rows.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection, wait
from typing import IO, Any, Protocol, runtime_checkable

from isoflop.config import UserError
from isoflop.corpus.filters.config import Limits
from isoflop.corpus.filters.lint import OUT_OF_MEMORY
from isoflop.corpus.rows import TextRow

Changes = dict[str, Any]
"""Fields of a row and their new values."""

STEP_BYTES = 32
ERROR_BYTES = 200
"""Of the file through which a worker's last words pass: the step it is in, then an error."""

OUTSTANDING_BYTES = 1 << 16
"""Text that waits at a worker beside the row in work; less than a socket holds, so that handing
over never waits."""

OUTSTANDING_ROWS = 8
WINDOW_ROWS = 64
"""Rows a worker may be ahead of the oldest one that is not finished. Bounds memory."""

WALL_FACTOR = 10
WALL_SECONDS = 60.0
"""A worker that is silent for WALL_FACTOR times the processor time it may take and WALL_SECONDS more
is given up: it waits for something. Chosen for a machine under load."""


MAX_TRIES = 2
"""More workers that a row may cost which die before its first step. Chosen."""


@runtime_checkable
class RowFunction(Protocol):
    """What a worker does with a row."""

    def __call__(self, row: TextRow, begin: Callable[[str], bool]) -> Changes:
        """The row's changed fields.

        `begin` is called with the name of each step before it, and says whether it may be made: not
        where that step has killed a worker on this row before. Then the function returns.
        """
        ...

    def close(self) -> None:
        """Called once, in the process that prepared it, at the end."""
        ...


@runtime_checkable
class Job(Protocol):
    """Work for the pool: a value that can be pickled."""

    def prepare(self) -> RowFunction:
        """Called once, in the nursery."""
        ...


class Spoiled(Exception):  # noqa: N818 - a fact about a process, not a mistake
    """Raised by a row function: take these changes, and no further row in this process."""

    def __init__(self, changes: Changes):
        super().__init__("this process must end")
        self.changes = changes


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A step that killed a worker on a row."""

    step: str
    reason: str
    detail: str


@dataclass(frozen=True)
class _Task:
    number: int
    row: TextRow
    lost: Lost | None = None
    tries: int = 0
    """Workers that died before they began."""


class Pool:
    """Worker processes for one job; a context manager.

    Raises:
        UserError: the job cannot be prepared; its own message.
    """

    def __init__(self, job: Job, num_workers: int, limits: Limits):
        self._limits = limits
        self._num_workers = num_workers
        self._nursery = _Nursery(job, limits)
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        self._nursery.close()
        for worker in self._workers:
            worker.close()

    def run(self, rows: Iterable[TextRow]) -> Iterator[tuple[TextRow, Changes]]:
        """Every row with what the job's function returned for it, in their order.

        A row that is rejected already passes untouched, with nothing. One whose work was too costly
        comes back rejected by the step that was, with what was done before that step.
        """
        source = enumerate(rows)
        again: deque[_Task] = deque()
        done: dict[int, tuple[TextRow, Changes]] = {}
        given, taken, exhausted = 0, 0, False
        while True:
            while not exhausted and not again and given - taken < self._window:
                worker = self._free()
                if worker is None:
                    break
                number, row = next(source, (-1, None))
                if row is None:
                    exhausted = True
                    break
                given += 1
                if row.rejected_by is not None:
                    done[number] = row, {}
                    continue
                again.append(_Task(number, row))
                self._hand_over(again)
            self._hand_over(again)
            while taken in done:
                yield done.pop(taken)
                taken += 1
            if exhausted and taken == given:
                return
            if not again or self._busy:
                self._listen(done, again)

    @property
    def _window(self) -> int:
        return WINDOW_ROWS * self._num_workers

    @property
    def _busy(self) -> bool:
        return any(worker.tasks for worker in self._workers)

    def _free(self) -> "_Worker | None":
        """The worker with least to do, if it can take one more row; a new one where there is room."""
        if len(self._workers) < self._num_workers:
            self._workers.append(self._nursery.fork())
        worker = min(self._workers, key=lambda worker: len(worker.tasks))
        return worker if worker.has_room else None

    def _hand_over(self, again: deque[_Task]) -> None:
        while again:
            worker = self._free()
            if worker is None or not worker.give(again[0]):
                return
            again.popleft()

    def _listen(self, done: dict[int, tuple[TextRow, Changes]], again: deque[_Task]) -> None:
        """Take what workers have to say; replace those that died or fell silent."""
        busy = [worker for worker in self._workers if worker.tasks]
        if not busy:
            return
        patience = self._limits.cpu_seconds * WALL_FACTOR + WALL_SECONDS
        latest = min(worker.since for worker in busy) + patience
        ready = wait([w.connection for w in busy], max(0.0, latest - time.monotonic()))
        for worker in busy:
            if worker.connection in ready:
                finished = worker.take()
                if finished is None:
                    self._bury(worker, done, again, None)
                else:
                    task, changes = finished
                    done[task.number] = _verdict(task), changes
            elif time.monotonic() > worker.since + patience:
                self._bury(worker, done, again, f"no answer within {patience:.0f} s")

    def _bury(
        self,
        worker: "_Worker",
        done: dict[int, tuple[TextRow, Changes]],
        again: deque[_Task],
        silence: str | None,
    ) -> None:
        """Take back a dead or silent worker's rows; the one in work has lost its step."""
        self._workers.remove(worker)
        status = self._nursery.end(worker.pid)
        step, error = worker.last_words
        tasks = list(worker.tasks)
        worker.close()
        if status == 0 and silence is None:
            again.extendleft(reversed(tasks))
            return
        first, *others = tasks
        reason, detail = _cause(status, self._limits)
        if silence is not None:
            reason, detail = "time limit", silence
        elif error:
            detail = error
        lost = Lost(step=step or "worker", reason=reason, detail=detail)
        again.extendleft(reversed(others))
        if first.lost is None and step:
            again.appendleft(replace(first, lost=lost))
        elif not step and first.tries < MAX_TRIES:
            # It died before it looked at the row, perhaps for no fault of the row's.
            again.appendleft(replace(first, tries=first.tries + 1))
        else:
            done[first.number] = _verdict(replace(first, lost=first.lost or lost)), {}


def _verdict(task: _Task) -> TextRow:
    """The row, rejected where a step was lost."""
    row, lost = task.row, task.lost
    if lost is None:
        return row
    return replace(row, rejected_by=lost.step, reason=lost.reason, detail=lost.detail)


def _cause(status: int, limits: Limits) -> tuple[str, str]:
    """Reason and detail of a worker's end."""
    if status == -signal.SIGPROF:
        return "time limit", f"more than {limits.cpu_seconds:g} s of processor time"
    if status == OUT_OF_MEMORY:
        return "memory limit", f"more than {limits.memory_bytes:,} bytes"
    if status < 0:
        return "crash", f"the process ended by {signal.Signals(-status).name}"
    return "crash", f"the process ended with status {status}"


class _Worker:
    """The pool's hold on one worker process."""

    def __init__(self, pid: int, connection: "Connection[Any, Any]", step: IO[bytes]):
        self.pid = pid
        self.connection = connection
        self.tasks: deque[_Task] = deque()
        self.since = time.monotonic()
        self._step = step
        self._bytes = 0

    @property
    def has_room(self) -> bool:
        return len(self.tasks) < OUTSTANDING_ROWS and self._bytes < OUTSTANDING_BYTES

    def give(self, task: _Task) -> bool:
        """Hand a row over, unless that could wait: a long row goes to an idle worker only."""
        size = _size(task.row)
        if self.tasks and self._bytes + size > OUTSTANDING_BYTES:
            return False
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        self._bytes += size
        # One that has died is found out by listening, which takes the row back.
        with contextlib.suppress(OSError):
            self.connection.send((task.row, task.lost.step if task.lost else None))
        return True

    def take(self) -> tuple[_Task, Changes] | None:
        """The oldest row's changes; None: the process has ended."""
        try:
            changes: Changes = self.connection.recv()
        except (EOFError, OSError):
            return None
        task = self.tasks.popleft()
        self._bytes -= _size(task.row)
        self.since = time.monotonic()
        return task, changes

    @property
    def last_words(self) -> tuple[str, str]:
        """The step in which it was, "" before the first, and the error that ended it, "" for none."""
        said = os.pread(self._step.fileno(), STEP_BYTES + ERROR_BYTES, 0)
        step, error = said[:STEP_BYTES], said[STEP_BYTES:]
        return step.rstrip(b"\0").decode(), error.decode("utf-8", "replace")

    def close(self) -> None:
        self.connection.close()
        self._step.close()


def _size(row: TextRow) -> int:
    """Bytes of a row on its way, at most or nearly."""
    return 4 * (len(row.text) + sum(len(str(value)) for value in row.metadata.values()))


class _Nursery:
    """The process that prepares the job and forks workers."""

    def __init__(self, job: Job, limits: Limits):
        self._control, theirs = Pipe()
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed once the job is prepared
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "isoflop.corpus.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # Ctrl-C reaches the parent alone, which then ends its workers.
                start_new_session=True,
                env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            )
        try:
            self._control.send((job, limits))
            problem = self._control.recv()
        except (EOFError, OSError):
            self.close()
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").strip().splitlines()
            last = said[-1] if said else "without a word"
            raise UserError(f"the process that prepares the workers ended: {last}") from None
        finally:
            errors.close()
        if problem is not None:
            self.close()
            raise UserError(problem)

    def fork(self) -> _Worker:
        """A new worker."""
        ours, theirs = Pipe()
        step = tempfile.TemporaryFile()  # noqa: SIM115 - the worker closes it
        with theirs:
            self._control.send(("fork", None))
            for descriptor in (theirs.fileno(), step.fileno()):
                reduction.send_handle(self._control, descriptor, self._process.pid)
            return _Worker(self._control.recv(), ours, step)

    def end(self, pid: int) -> int:
        """End a worker and wait for it; its status as subprocess has it, 0 if it had ended well."""
        self._control.send(("end", pid))
        status: int = self._control.recv()
        return status

    def close(self) -> None:
        """End the nursery and all its workers."""
        self._control.close()
        self._process.wait()
