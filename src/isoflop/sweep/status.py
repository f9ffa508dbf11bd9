"""`isoflop status DIR`: where every run of a study stands, from its folders and the queue."""

from dataclasses import dataclass
from pathlib import Path

from isoflop.config import UserError
from isoflop.records import StepRow, read_rows
from isoflop.sweep.ledger import run_state
from isoflop.sweep.slurm import JOBS, job_states, read_jobs
from isoflop.sweep.study import read_study_map

NOT_KNOWN = "state not known"
"""Of a job, where squeue is not there or does not answer."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run of a study."""

    run: str
    state: str
    """"done", "failed", "waiting", or "training" where rows are there and no end."""
    step: int
    """Of the last row."""
    num_steps: int
    job: str | None
    job_state: str | None
    """As the scheduler calls it, or `NOT_KNOWN`; None: not in its queue."""
    reason: str | None
    """Why it failed, or which of its files is damaged."""
    log: str | None
    """File of what the job wrote."""


def study_status(root: Path) -> list[RunStatus]:
    """Every run in the order of the study; reads only.

    Raises:
        UserError: no study in the folder, or a damaged list of jobs.
    """
    study = read_study_map(root)
    jobs = {row.run: row for row in read_jobs(root)}
    states: dict[str, str] = {}
    for cluster in sorted({row.cluster for row in jobs.values()}):
        asked = [row.job for row in jobs.values() if row.cluster == cluster]
        try:
            states.update(job_states(asked, cluster, root))
        except UserError:
            # Folders are read on machines without Slurm too.
            states.update(dict.fromkeys(asked, NOT_KNOWN))
    found = []
    for run in study.runs:
        told = run_state(study, root, run)
        steps = root / run.train.path / "steps.jsonl"
        step, damage = _last_step(steps)
        job = jobs[run.name].job if run.name in jobs else None
        log = root / JOBS.parent / f"{job}_0_log.out"
        found.append(
            RunStatus(
                run=run.name,
                state="training" if told.state == "waiting" and step else told.state,
                step=step,
                num_steps=study.experiment.train.num_steps,
                job=job,
                job_state=states.get(job) if job else None,
                reason=told.reason or damage,
                log=str(log) if job and log.exists() else None,
            )
        )
    return found


def _last_step(rows: Path) -> tuple[int, str | None]:
    """Of a run's rows up to the first damaged one, and what is damaged."""
    step = 0
    if rows.exists():
        try:
            for row in read_rows(rows, StepRow):
                step = max(step, row.step)
        except UserError as damage:
            return step, str(damage)
    return step, None


def status_text(rows: list[RunStatus]) -> str:
    """A line a run, for people."""
    width = max(len(row.run) for row in rows)
    lines = []
    for row in rows:
        job = f"job {row.job} {row.job_state or 'ended'}" if row.job else ""
        parts = (f"{row.step}/{row.num_steps} steps", job, row.reason or "")
        lines.append(
            f"{row.run.ljust(width)}  {row.state:8}  " + "  ".join(part for part in parts if part)
        )
    return "\n".join(lines)
