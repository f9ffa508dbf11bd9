"""`isoflop run NAME --launcher megatron`: a study's runs trained by Megatron-LM, one after another.

    <folder>/megatron-<digest>/              shards and scripts, as `isoflop export --to megatron` writes
    <folder>/megatron-<digest>/logs/<run>.log        all that the run printed, attempts in order
    <folder>/megatron-<digest>/rows/<run>/           steps.jsonl, losses.jsonl, set-aside.jsonl

A run is done when its log has its last step, or its last checkpoint is of that step. Called again, the
others are started again, and Megatron-LM goes on from its own checkpoint. The digest covers runs and
layouts: a changed study never reads another's logs.
"""

import hashlib
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isoflop.config import UserError
from isoflop.folders import locked
from isoflop.megatron.export import LayoutOf, export_megatron
from isoflop.megatron.log import MegatronLog
from isoflop.megatron.status import read_progress, remember_log
from isoflop.records import CellState, write_rows
from isoflop.sweep.config import Experiment
from isoflop.sweep.ledger import clear_failure, record_failure
from isoflop.sweep.stages import prepare
from isoflop.sweep.study import PlannedRun, StudyMap, map_study, write_study_map

COMMAND = "bash {script}"
"""What starts one run; on several nodes e.g. "srun --nodes 4 bash {script}"."""


@dataclass(frozen=True)
class MegatronLaunch:
    """How runs are started."""

    layout_of: LayoutOf
    command: str = COMMAND
    """Words of a shell; {script} stands for the run's script."""
    checkout: Path | None = None
    """Megatron-LM's folder; None: MEGATRON of the environment."""
    save_steps: int | None = None

    def words(self, script: Path) -> list[str]:
        """The command for one script.

        Raises:
            UserError: the command does not say where the script goes.
        """
        if "{script}" not in self.command:
            raise UserError(
                f"command={self.command!r} must have {{script}} in it, e.g. {COMMAND!r}"
            )
        return [word.replace("{script}", str(script)) for word in shlex.split(self.command)]


def run_megatron(
    experiment: Experiment, root: Path, launch: MegatronLaunch, say: Callable[[str], None]
) -> list[CellState]:
    """Train what is not done, run by run; a failed run does not stop the others.

    Raises:
        UserError: an unusable corpus, a cell that Megatron-LM would refuse, a command that cannot
            be started, or another study at work in `root`.
    """
    launch.words(Path("script"))
    root.mkdir(parents=True, exist_ok=True)
    with locked(root):
        study = map_study(experiment)
        write_study_map(study, root)
        prepare(study, root, say)
        folder = root / f"megatron-{_digest(study, launch)}"
        if not folder.exists():
            export_megatron(root, folder, launch.layout_of, save_steps=launch.save_steps)
        num_steps = study.experiment.train.num_steps
        return [_finish(root, folder, run, num_steps, launch, say) for run in study.runs]


def _digest(study: StudyMap, launch: MegatronLaunch) -> str:
    layouts = [launch.layout_of(cell) for cell in study.experiment.cells]
    text = repr(([run.train.digest for run in study.runs], layouts, launch.save_steps))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _finish(
    root: Path,
    folder: Path,
    run: PlannedRun,
    num_steps: int,
    launch: MegatronLaunch,
    say: Callable[[str], None],
) -> CellState:
    log = folder / "logs" / f"{run.name}.log"
    reason = None
    if not (log.exists() and read_progress(log).step >= num_steps):
        clear_failure(root, run)
        remember_log(root, run, log)
        say(f"{run.name}: started; its output goes to {log}")
        status = _start(launch.words((folder / f"{run.name}.sh").resolve()), log, launch.checkout)
        reason = _reason(log, status, num_steps)
    found = read_progress(log).log
    if reason is None:
        write_log_rows(found, folder / "rows" / run.name)
        clear_failure(root, run)
        remember_log(root, run, log)
    else:
        record_failure(root, run, reason)
    state = "done" if reason is None else "failed"
    lost = f"; {len(found.set_aside)} damaged lines in {log}" if found.set_aside else ""
    say(f"{run.name}: {state}" + (f": {reason}" if reason else lost))
    return CellState(cell=run.cell, seed=run.seed, run=run.name, state=state, reason=reason)


def _start(words: Sequence[str], log: Path, checkout: Path | None) -> int:
    """Run a command to its end, its output after what is in the log; its exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if checkout is not None:
        environment["MEGATRON"] = str(checkout.resolve())
    with log.open("ab") as out:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"{words[0]}: {error.strerror}; give --megatron command=...") from None
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                # Interrupted: the ranks are in the process's own group.
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def _reason(log: Path, status: int, num_steps: int) -> str | None:
    """Why a run is not done, and what to do; None if it is."""
    found = read_progress(log)
    if status == 0 and found.step >= num_steps:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    where = f"after step {found.step} of {num_steps}" if found.step else "before any step"
    ended = f"signal {-status}" if status < 0 else f"exit status {status}"
    last = lines[-1].strip() if lines else "nothing printed"
    remedy = "; run again to go on from its last checkpoint" if status == 0 else ""
    return f"ended {where} with {ended}: {last} ({log}){remedy}"


def write_log_rows(log: MegatronLog, folder: Path) -> None:
    """The log's rows and what was set aside, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "steps.jsonl", log.steps)
    write_rows(folder / "losses.jsonl", log.losses)
    write_rows(folder / "set-aside.jsonl", log.set_aside)
