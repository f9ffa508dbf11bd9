"""The sandbox: a few warm workers, programs in, outcomes out in the same order."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from isoflop.config import UserError
from isoflop.sandbox.config import WORKERS_DIED, Layer, Limits, Outcome, OutcomeVerdict, Program
from isoflop.sandbox.layers import as_layers
from isoflop.sandbox.worker import WorkerDied, WorkerProcess

DEFAULT_WORKERS = 2
"""Programs at one time. Chosen: the cores of a small machine."""

AHEAD_PER_WORKER = 64
"""Programs taken from the caller beyond the oldest unfinished one, per worker: bounds memory."""

TRIES = 2
"""A program whose worker dies is run once more in a new one."""


class Sandbox:
    """Runs foreign programs where they can do no harm; the only place that does.

    Use it as a context manager: leaving it ends every process it started. Nothing
    outlives it, not even if this process is killed (but see `allow_weaker_isolation`).
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        workers: int = DEFAULT_WORKERS,
        allow_weaker_isolation: bool = False,
    ) -> None:
        """Workers start with the first program.

        `allow_weaker_isolation`: run programs also where this machine refuses namespaces,
        under resource limits and the filter of system calls alone. Such programs can read and
        write what this user can, and if the worker is killed they go on until their limits.
        Without it they are refused.
        """
        if workers < 1:
            raise UserError(f"workers={workers} must be at least 1")
        self.limits = limits or Limits()
        self._count = workers
        self._allow_weaker = allow_weaker_isolation
        self._idle: list[WorkerProcess] = []
        self._busy: list[WorkerProcess] = []
        self._lock = threading.Lock()

    def __enter__(self) -> "Sandbox":
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every process."""
        self.close()

    def close(self) -> None:
        """End every worker with all its processes; safe to call twice."""
        with self._lock:
            workers = [*self._idle, *self._busy]
            self._idle, self._busy = [], []
        for worker in workers:
            worker.close()

    def layers(self) -> list[Layer]:
        """Every layer of isolation, measured now in a worker of this sandbox."""
        try:
            worker = self._take()
        except WorkerDied as error:
            return as_layers(str(error), {})
        self._put_back(worker)
        return as_layers(worker.refused, worker.layers)

    def run(self, programs: Iterable[Program]) -> Iterator[Outcome]:
        """Outcomes in the order of the programs, each as soon as those before it are there."""
        stopping = threading.Event()
        pending: deque[Future[Outcome]] = deque()
        with ThreadPoolExecutor(self._count) as threads:
            try:
                for program in programs:
                    pending.append(threads.submit(self._run_one, program, stopping))
                    while pending and (
                        pending[0].done() or len(pending) > AHEAD_PER_WORKER * self._count
                    ):
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                # A caller who stops listening leaves programs running: they are ended.
                stopping.set()
                for future in pending:
                    future.cancel()
                self._end_busy()

    def _run_one(self, program: Program, stopping: threading.Event) -> Outcome:
        """One program on a free worker; on a new one where the first died."""
        for _ in range(TRIES):
            if stopping.is_set():
                return _no_outcome("refused", "the sandbox was closed")
            try:
                worker = self._take()
            except WorkerDied as death:
                return _no_outcome("refused", f"no worker could be started: {death}")
            # Asked again: a worker that was still being started was not among those ended.
            refused = "the sandbox was closed" if stopping.is_set() else worker.refused
            if refused:
                self._put_back(worker)
                return _no_outcome("refused", refused)
            try:
                worker.start(program, self.limits)
                outcome = worker.outcome()
            except WorkerDied:
                self._drop(worker)
                continue
            self._put_back(worker)
            return outcome
        # Nothing is known of the program: no verdict may count it as wrong.
        return _no_outcome("refused", WORKERS_DIED)

    def _take(self) -> WorkerProcess:
        """A warm worker, or a new one where none is free."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        worker = worker or WorkerProcess(allow_weaker_isolation=self._allow_weaker)
        with self._lock:
            self._busy.append(worker)
        return worker

    def _put_back(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._busy.remove(worker)
            self._idle.append(worker)

    def _drop(self, worker: WorkerProcess) -> None:
        with self._lock:
            if worker in self._busy:
                self._busy.remove(worker)
        worker.close()

    def _end_busy(self) -> None:
        with self._lock:
            busy = list(self._busy)
        for worker in busy:
            worker.kill()


def _no_outcome(verdict: OutcomeVerdict, reason: str) -> Outcome:
    return Outcome(verdict=verdict, reason=reason, stdout="", cpu_seconds=0.0)
