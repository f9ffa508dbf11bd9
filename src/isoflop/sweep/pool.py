"""A pool of worker processes on this machine: one core or one GPU each.

Two small runs side by side, each on one thread, are faster than one run on two
threads, so every worker gets one BLAS thread. A failed run is recorded with its
reason and does not stop the others.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from isoflop.allocator import KEEP_MEMORY
from isoflop.config import UserError
from isoflop.design.layout import Layout
from isoflop.sweep.study import StudyMap

ERROR_FILE = "stderr.txt"
"""In a run's training folder: all that its worker wrote to standard error in its last attempt."""

USER_ERROR = 2
"""Exit status of a worker that tells a user's mistake in one message."""

REASON = "reason: "
"""What a worker's line on standard error begins with that says why it ends: libraries write there
too, before and after."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

GPU_FOLDERS = Path("/proc/driver/nvidia/gpus")
"""The driver keeps one folder a GPU here, so that they can be counted without torch."""


def tell_reason(why: object) -> None:
    """Say on standard error why this worker ends, for `last_words`."""
    print(REASON + " ".join(str(why).splitlines()), file=sys.stderr)


def last_words(stderr: Path) -> str:
    """Why a worker ended, by the file of its standard error: the reason it told, else the last line."""
    lines = stderr.read_text(errors="replace").strip().splitlines()
    told = [line.removeprefix(REASON) for line in lines if line.startswith(REASON)]
    return (told or lines or [""])[-1]


def end_with_parent() -> None:
    """Wait until standard input ends, as it does when the parent dies, and end at once."""
    # Not sys.stdin: its lock, held while waiting, would abort the interpreter's own end.
    while os.read(sys.stdin.fileno(), 1):
        pass
    # Not sys.exit: that would end this thread only. Nothing is lost: files appear whole.
    os._exit(1)


def visible_gpus() -> tuple[str, ...]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES has them."""
    present = tuple(str(number) for number, _ in enumerate(GPU_FOLDERS.glob("*")))
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None or not present:
        return present
    return tuple(name.strip() for name in asked.split(",") if name.strip())


def check_gpus(layout: Layout | None, gpus: tuple[str, ...]) -> None:
    """Refuse a run with more ranks than GPUs; runs at once may share GPUs, one run's ranks cannot.

    Raises:
        UserError: says how many there are.
    """
    if layout is not None and 0 < len(gpus) < layout.ranks:
        raise UserError(
            f"--ranks {layout.ranks}: each rank needs a GPU of its own and there are {len(gpus)}; "
            "give fewer ranks, or set CUDA_VISIBLE_DEVICES= to train on cores"
        )


@dataclass(frozen=True)
class RunProgress:
    """What a worker last said."""

    run: int
    """Position in the study."""
    stage: str
    """"start", "train", "evaluate", "grpo", "done" or "failed"."""
    done: int
    total: int
    tokens_per_second: float | None
    reason: str | None = None


def run_pool(
    study: StudyMap,
    root: Path,
    pending: list[int],
    num_workers: int,
    tell: Callable[[RunProgress], None],
    tick: Callable[[], None],
    layout: Layout | None = None,
) -> dict[int, str]:
    """Run the `pending` runs, at most `num_workers` at once; returns the failed ones' reasons.

    With a `layout` each run is trained by that many ranks, on as many GPUs where there are some.

    `tell` hears every change, `tick` is called about twice a second; both in the
    calling thread. An interrupt stops all workers and is raised again.
    """
    waiting = list(reversed(pending))
    news: queue.Queue[RunProgress] = queue.Queue()
    running: dict[int, _Worker] = {}
    failed: dict[int, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_workers:
                number = waiting.pop()
                slot = min(set(range(num_workers)) - {worker.slot for worker in running.values()})
                folder = root / study.runs[number].train.path
                running[number] = _Worker(root, number, folder, slot, news, layout)
                tell(RunProgress(number, "start", 0, 1, None))
            try:
                said = news.get(timeout=0.5)
            except queue.Empty:
                tick()
                continue
            if said.stage in ("done", "failed"):
                del running[said.run]
            if said.stage == "failed":
                failed[said.run] = said.reason or "no reason given"
            tell(said)
            tick()
    finally:
        for worker in running.values():
            worker.stop()
    return failed


def worker_command(root: Path, number: int, layout: Layout | None) -> list[str]:
    """What runs one run of the study: a process, or a process that starts its ranks."""
    given = [str(root), str(number)]
    if layout is None:
        return [sys.executable, "-m", "isoflop.sweep.worker", *given]
    layout_text = json.dumps(asdict(layout))
    return [sys.executable, "-m", "isoflop.sweep.rank_group", *given, layout_text]


def _gpus_of(slot: int, gpus: tuple[str, ...], layout: Layout | None) -> str:
    """The GPUs of the run in this slot: one, or one a rank."""
    count = 1 if layout is None else layout.ranks
    return ",".join(gpus[(slot * count + place) % len(gpus)] for place in range(count))


class _Worker:
    """One process and the thread that listens to it."""

    def __init__(
        self,
        root: Path,
        number: int,
        folder: Path,
        slot: int,
        news: "queue.Queue[RunProgress]",
        layout: Layout | None,
    ):
        self.slot = slot
        self._number = number
        self._news = news
        folder.mkdir(parents=True, exist_ok=True)
        self._errors = folder / ERROR_FILE
        environment = {**os.environ, **ONE_THREAD, **KEEP_MEMORY}
        gpus = visible_gpus()
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = _gpus_of(slot, gpus, layout)
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                worker_command(root, number, layout),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                # Ctrl-C reaches the parent alone, which then ends its workers.
                start_new_session=True,
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def stop(self) -> None:
        """End the process; its folder stays resumable."""
        # Ranks are children of the process, and end when this pipe does.
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                stage, done, total, speed = json.loads(line)
            except (ValueError, TypeError):
                continue  # A library's own message on standard output.
            self._news.put(RunProgress(self._number, stage, done, total, speed))
        status = self._process.wait()
        if not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.stdout.close()
        if status == 0:
            self._news.put(RunProgress(self._number, "done", 1, 1, None))
        else:
            reason = self._reason(status)
            self._news.put(RunProgress(self._number, "failed", 0, 1, None, reason))

    def _reason(self, status: int) -> str:
        """The worker's last words; all of them stay in the file."""
        if status < 0:
            return f"killed by signal {-status}" + (" (out of memory?)" if status == -9 else "")
        return last_words(self._errors) or f"exit status {status}"
