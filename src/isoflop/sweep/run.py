"""Run or resume a whole study: prepare, train and evaluate every cell, join, report."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from isoflop.config import UserError
from isoflop.design.layout import Layout
from isoflop.folders import locked
from isoflop.records import CellState, write_text
from isoflop.sweep.config import Experiment
from isoflop.sweep.ledger import (
    COMMAND_FILE,
    clear_failure,
    record_failure,
    run_state,
    write_ledger,
)
from isoflop.sweep.measured import PREPARE, REPORT, Spans
from isoflop.sweep.mirror import Mirror, open_mirror
from isoflop.sweep.pool import RunProgress, check_gpus, run_pool, visible_gpus
from isoflop.sweep.progress import open_progress
from isoflop.sweep.slurm import Cluster, num_nodes, run_jobs
from isoflop.sweep.stages import prepare
from isoflop.sweep.study import StudyMap, map_study, read_study_map, write_study_map


def run_study(
    experiment: Experiment,
    root: Path,
    *,
    num_workers: int | None = None,
    mirrors: tuple[str, ...] = (),
    console: Console | None = None,
    command: Sequence[str] = (),
    layout: Layout | None = None,
    launcher: str = "pool",
    slurm_options: Mapping[str, str] | None = None,
) -> list[CellState]:
    """Run what is not finished of an experiment in the folder `root`, then write its report.

    Killed at any moment and called again it goes on where it was and ends with
    the same rows. A failed run is recorded and does not stop the others; it is
    tried again at the next call.

    Args:
        num_workers: runs at once; None: one a GPU, or one a core where there is none.
        mirrors: "tensorboard", "wandb": where rows are shown live as well.
        console: where progress goes; None: standard error.
        command: what the user typed, for the report.
        layout: how each run is spread over processes; None: one process each.
        launcher: "pool", processes here; "slurm" or "local-jobs", see `isoflop.sweep.slurm`.
        slurm_options: of the jobs, by submitit's or sbatch's names.

    Returns:
        Where each run stands, in the order of the study.

    Raises:
        UserError: an unusable corpus, tokenizer or config, or another study at work in `root`.
        KeyboardInterrupt: after all workers have ended.
    """
    console = console or Console(stderr=True)
    options = slurm_options or {}
    _check_machines(experiment, layout, launcher, options)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    root.mkdir(parents=True, exist_ok=True)
    with locked(root), _terminate_as_interrupt():
        study = map_study(experiment)
        write_study_map(study, root)
        write_text(root / COMMAND_FILE, json.dumps(list(command)) + "\n")
        opened = [open_mirror(kind, root) for kind in mirrors]
        workers = num_workers or max(1, default_workers() // (layout.ranks if layout else 1))
        spans = Spans(study, root, workers, layout)
        fresh = not any(study.folder(root, stage).done for stage in study.corpora + study.tokens)
        with spans.part(PREPARE, whole=fresh):
            prepare(study, root, say)
        pending = [
            number
            for number, run in enumerate(study.runs)
            if run_state(study, root, run).state != "done"
        ]

        def start(tell: Callable[[RunProgress], None], tick: Callable[[], None]) -> None:
            if launcher == "pool":
                run_pool(study, root, pending, workers, tell, tick, layout)
            else:
                cluster: Cluster = "slurm" if launcher == "slurm" else "local"
                run_jobs(study, root, pending, cluster, options, tell, tick, say, layout)

        _run_pending(study, root, pending, start, opened, console, spans)
        with spans.part(REPORT, whole=bool(pending)):
            return _write_results(study, root)


def _check_machines(
    experiment: Experiment, layout: Layout | None, launcher: str, options: Mapping[str, str]
) -> None:
    """Refuse before anything is made what could not be run on this machine or these nodes."""
    if layout is not None:
        check_layout(experiment, layout)
    if launcher == "pool":
        check_gpus(layout, visible_gpus())
    else:
        num_nodes(options, layout)


def check_layout(experiment: Experiment, layout: Layout) -> None:
    """Refuse a layout that a cell or the batch cannot be spread by.

    Raises:
        UserError: which field, and what it must be.
    """
    train = experiment.train
    for cell in experiment.cells:
        layout.check_model(cell.model, cell.name)
    layout.micro_batch_sequences(
        train.batch_sequences, train.micro_batch_sequences, train.balance_scope
    )


def report_study(root: Path) -> list[CellState]:
    """Join a study's rows again and write its ledger, table, figures and report.

    Raises:
        UserError: no study in the folder, or one at work in it.
    """
    study = read_study_map(root)
    with locked(root):
        return _write_results(study, root)


def _write_results(study: StudyMap, root: Path) -> list[CellState]:
    # Imported late: fits need scipy, which a study that fails early need not wait for.
    from isoflop.analysis.report import report

    states = write_ledger(study, root)
    report(root)
    return states


def default_workers() -> int:
    """One a GPU, or one a usable core where there is no GPU."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # Not on macOS, where a process cannot be bound to cores.
        cores = os.cpu_count() or 1
    return len(visible_gpus()) or cores


def _run_pending(
    study: StudyMap,
    root: Path,
    pending: list[int],
    start: Callable[[Callable[[RunProgress], None], Callable[[], None]], None],
    mirrors: list[Mirror],
    console: Console,
    spans: Spans,
) -> None:
    for number in pending:
        clear_failure(root, study.runs[number])
    progress = open_progress(study, pending, console)

    def tell(said: RunProgress) -> None:
        progress.tell(said)
        if said.stage == "start":
            spans.start(said.run)
        elif said.stage == "done":
            spans.done(said.run)
        if said.stage == "failed":
            record_failure(root, study.runs[said.run], said.reason or "no reason given")

    def tick() -> None:
        progress.tick()
        for mirror in list(mirrors):
            try:
                mirror.poll(study)
            except UserError as error:
                # A tracker is a convenience: its failure must not cost the study.
                mirrors.remove(mirror)
                console.print(f"mirror switched off: {error}", highlight=False, markup=False)

    try:
        start(tell, tick)
        tick()
    finally:
        progress.close()
        for mirror in mirrors:
            mirror.close()


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that workers end and files stay whole."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
