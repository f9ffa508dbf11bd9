"""Several ranks for tests: processes forked from a server that has imported torch once."""

import json
import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import fakes_hook  # noqa: F401 - before isoflop
from isoflop.design.layout import Layout
from isoflop.train.loop import TrainingRun, train_run
from isoflop.train.parallel.compute import ManyProcesses
from isoflop.train.parallel.mesh import OverRanks, joined
from isoflop.train.parallel.traffic import CountedTraffic

PATIENCE_SECONDS = 300.0
"""For a loaded machine; a rank that dies is noticed at once."""


def start_ranks(layout: Layout, body: Callable[..., None], *given: Any) -> list[BaseProcess]:
    """Start `body(rank, layout, *given)` in `layout.ranks` processes; a function of this file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fakes_ranks"])
    # A file, not a port: another process may take a free port before rank 0 does.
    meeting = f"file://{tempfile.mkdtemp()}/meeting"
    processes = [
        context.Process(target=_rank, args=(rank, layout, meeting, body, given), daemon=True)
        for rank in range(layout.ranks)
    ]
    for process in processes:
        process.start()
    return processes


def finish_ranks(processes: list[BaseProcess]) -> list[int]:
    """Wait for all; their exit statuses."""
    for process in processes:
        process.join(PATIENCE_SECONDS)
        if process.is_alive():
            process.kill()
    return [process.exitcode if process.exitcode is not None else -99 for process in processes]


def run_ranks(layout: Layout, body: Callable[..., None], *given: Any) -> None:
    """Start, wait, and demand that all ranks end well."""
    statuses = finish_ranks(start_ranks(layout, body, *given))
    assert statuses == [0] * layout.ranks, statuses


def error_file(rank: int) -> str:
    """In the run's folder: why a rank ended."""
    return f"error-{rank}.txt"


def _rank(
    rank: int, layout: Layout, meeting: str, body: Callable[..., None], given: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(layout.ranks), MEETING=meeting)
    try:
        body(rank, layout, *given)
    except BaseException:  # noqa: BLE001 - told, whatever it is
        # The server's standard error is not the test's.
        for folder in (one for one in given if isinstance(one, Path)):
            (folder / error_file(rank)).write_text(traceback.format_exc())
        traceback.print_exc()
        os._exit(1)


@dataclass(frozen=True)
class Kill:
    """End a rank at a moment of the run."""

    rank: int
    step: int
    """After which row."""
    place: str = "row"
    """"row": where progress is told; "state": in the middle of saving the state of that step."""


def train_rank(
    rank: int, layout: Layout, run: TrainingRun, folder: Path, kill: Kill | None = None
) -> None:
    """Train a run to its end, or until a rank is killed."""
    if kill is not None and kill.place == "state" and kill.rank == rank:
        _kill_while_saving(kill)

    def progress(done: int, total: int, speed: float) -> None:
        if kill and kill.place == "row" and rank == kill.rank and done >= kill.step:
            os.kill(os.getpid(), signal.SIGKILL)

    with joined(layout, torch.device("cpu"), PATIENCE_SECONDS, os.environ["MEETING"]) as ranks:
        computation = ManyProcesses(run.model, run.train, run.seed, ranks, folder)
        train_run(run, folder, progress, computation)


def train_slow_rank(
    rank: int, layout: Layout, run: TrainingRun, folder: Path, patience_seconds: float
) -> None:
    """Train a run whose last rank stops working for three times as long as the others wait."""

    def progress(done: int, total: int, speed: float) -> None:
        if rank == layout.ranks - 1:
            time.sleep(3 * patience_seconds)

    with joined(layout, torch.device("cpu"), patience_seconds, os.environ["MEETING"]) as ranks:
        computation = ManyProcesses(run.model, run.train, run.seed, ranks, folder)
        train_run(run, folder, progress, computation)


def train_without_space(
    rank: int, layout: Layout, run: TrainingRun, folder: Path, full: int, num_bytes: int
) -> None:
    """Train a run of which one rank's node takes no file longer than `num_bytes`."""
    if rank == full:
        # Else the kernel ends the process instead of refusing the write.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    train_rank(rank, layout, run, folder)


def train_layouts(rank: int, outer: Layout, cases: list[tuple[Layout, TrainingRun, Path]]) -> None:
    """Train several runs in turn, each spread in its own way; each leaves what its ranks counted.

    One start of the processes for all of them: importing torch takes longer than training.
    """
    with joined(outer, torch.device("cpu"), PATIENCE_SECONDS, os.environ["MEETING"]):
        for layout, run, folder in cases:
            ranks = OverRanks(layout, torch.device("cpu"))
            computation = _Counting(run.model, run.train, run.seed, ranks, folder)
            train_run(run, folder, lambda *_: None, computation)
            counted = {"sent": computation.sent, "state_bytes": computation.state_bytes()}
            (folder / f"rank-{rank}.json").write_text(json.dumps(counted))


class _Counting(ManyProcesses):
    """Counts what the first step sends."""

    sent: dict[str, int] | None = None

    def step(self, *given: Any) -> Any:
        if self.sent is not None:
            return super().step(*given)
        with CountedTraffic() as counted:
            result = super().step(*given)
        self.sent = dict(counted.sent)
        return result


def _kill_while_saving(kill: Kill) -> None:
    from isoflop.train.parallel import state

    whole = state.state_dict_saver.save

    def torn(tensors: Any, checkpoint_id: Path) -> None:
        if int(checkpoint_id.name.split("-")[1]) >= kill.step:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(tensors, checkpoint_id=checkpoint_id)

    state.state_dict_saver.save = torn  # type: ignore[assignment]
