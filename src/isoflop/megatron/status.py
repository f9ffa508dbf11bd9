"""How far Megatron-LM has trained each run of a study, from what it prints and from what it saves.

    <folder>/train/<run>-<digest>/megatron-log.txt     where the run's log lies, below <folder>

The log is one witness: the number of a step stands in front of its line, so that a line whose rest
is damaged still tells it. The other is the checkpoint folder's `latest_checkpointed_iteration.txt`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from isoflop.config import UserError
from isoflop.megatron.log import MegatronLog, read_log
from isoflop.records import write_text
from isoflop.sweep.status import RunStatus
from isoflop.sweep.study import PlannedRun, read_study_map

LOG_FILE = "megatron-log.txt"


@dataclass(frozen=True)
class Progress:
    """What both witnesses say of one run."""

    log: MegatronLog
    saved: int
    """Step of the last checkpoint; 0: none here."""

    @property
    def step(self) -> int:
        """Steps done."""
        return max(self.log.reached, self.saved)


def read_progress(log: Path) -> Progress:
    """How far the run has come whose log this is; a missing log, or one without a step, is step 0."""
    try:
        found = read_log(log)
    except UserError:
        found = MegatronLog([], [], [])
    told = log.parents[1] / "checkpoints" / log.stem / "latest_checkpointed_iteration.txt"
    try:
        saved = int(told.read_text())
    except (OSError, ValueError):
        saved = 0  # It may be where the command runs, not here.
    return Progress(found, saved)


def remember_log(root: Path, run: PlannedRun, log: Path) -> None:
    """Leave in the run's folder, whose name has its digest, where its log lies."""
    write_text(root / run.train.path / LOG_FILE, f"{log.relative_to(root)}\n")


def with_megatron(root: Path, rows: list[RunStatus]) -> list[RunStatus]:
    """The runs' states, those that Megatron-LM trains by their logs and checkpoints."""
    runs = {run.name: run for run in read_study_map(root).runs}
    return [_of_log(root, runs[row.run], row) for row in rows]


def _of_log(root: Path, run: PlannedRun, row: RunStatus) -> RunStatus:
    told = root / run.train.path / LOG_FILE
    if row.state == "done" or not told.exists():
        return row
    log = root / told.read_text(encoding="utf-8").strip()
    step = read_progress(log).step
    state = row.state
    if state == "waiting" and log.exists():
        state = "done" if step >= row.num_steps else "training"
    return replace(row, state=state, step=step, log=str(log) if log.exists() else row.log)
