"""`isoflop run NAME --launcher slurm`: every run of a study is a job, submitted by submitit.

    <folder>/slurm/jobs.jsonl      JobRow: which job has which run, so that nothing is submitted twice
    <folder>/slurm/<job>_*         what submitit writes of a job: its batch script, its output

A job is one node or several; on each it starts the run's worker, or its part of the run's ranks.
Preempted, requeued or submitted again, the run goes on from its last saved state. The launcher
only watches: interrupted and started again it finds its jobs, and what they finished meanwhile.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from isoflop.config import UserError
from isoflop.design.layout import Layout
from isoflop.extras import import_extra
from isoflop.records import read_rows, write_rows
from isoflop.sweep.ledger import run_state
from isoflop.sweep.pool import ERROR_FILE, ONE_THREAD, RunProgress, last_words, worker_command
from isoflop.sweep.study import StudyMap, read_study_map

Cluster = Literal["slurm", "local"]
"""submitit's executors; "local" starts the same jobs as processes here, to try things out."""

JOBS = Path("slurm") / "jobs.jsonl"
POLL_SECONDS = 2.0
"""Between looks at the queue; chosen: a scheduler serves many."""

GRACE_SECONDS = 30.0
"""After a job has left the queue, for its files to be seen over a network file system. Chosen."""

SQUEUE_SECONDS = 120.0
"""For one answer of squeue, which itself asks a silent controller for less. Chosen."""

PATIENCE_SECONDS = 2 * 3600.0
"""With a squeue that does not answer: a restarted controller must not cost a launcher. Chosen."""

REMIND_SECONDS = 600.0
"""Between two lines that say so. Chosen."""

GENERIC = ("timeout_min", "nodes", "cpus_per_task", "mem_gb", "gpus_per_node", "name")
"""Options that submitit knows for every cluster; all others are Slurm's own."""


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """The last job of a run."""

    run: str
    job: str
    cluster: str


@dataclass(frozen=True)
class RunJob:
    """What a job does on each of its nodes; pickled by submitit."""

    root: Path
    number: int
    layout: Layout | None
    nodes: int

    def __call__(self) -> str | None:
        """Train and evaluate the run; the reason if it failed."""
        command = worker_command(self.root, self.number, self.layout)
        if self.nodes > 1:
            command += self._meeting()
        path = self.root / read_study_map(self.root).runs[self.number].train.path
        path.mkdir(parents=True, exist_ok=True)
        errors_file = path / ERROR_FILE
        with errors_file.open("wb") as errors:
            # The worker ends when this pipe does: a killed job leaves nothing behind.
            done = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=errors, env={**os.environ, **ONE_THREAD}
            ).wait()
        if done == 0:
            return None
        return last_words(errors_file) or f"exit status {done}"

    def checkpoint(self) -> Any:
        """Submitit's question before a time limit or a preemption: the same again."""
        submitit = import_extra("submitit", "slurm", "a requeued job")
        return submitit.helpers.DelayedSubmission(self)

    def _meeting(self) -> list[str]:
        """Where the nodes' agents find each other: the first node, at a port of the job's own."""
        submitit = import_extra("submitit", "slurm", "a job")
        environment = submitit.JobEnvironment()
        port = 20_000 + int(re.sub(r"\D", "", environment.job_id) or 0) % 20_000
        return [
            *("--nodes", str(self.nodes)),
            *("--rendezvous", f"{environment.hostnames[0]}:{port}"),
            *("--name", f"isoflop-{environment.job_id}"),
        ]


class SqueueError(UserError):
    """squeue failed; nothing is known of the jobs."""


class Queue:
    """The scheduler's queue, which may be silent for a while without losing anything."""

    def __init__(self, cluster: Cluster, root: Path, say: Callable[[str], None]):
        """`say` hears what is wrong, the first time and then every `REMIND_SECONDS`."""
        self._cluster, self._root, self._say = cluster, root, say
        self._silent_since: float | None = None
        self._said: float | None = None

    def states(self, jobs: list[str]) -> dict[str, str]:
        """As `job_states`; every job "UNKNOWN" where squeue fails.

        Raises:
            UserError: squeue is not there, or has failed for longer than `PATIENCE_SECONDS`.
        """
        try:
            found = job_states(jobs, self._cluster, self._root)
        except SqueueError as failure:
            now = time.monotonic()
            self._silent_since = now if self._silent_since is None else self._silent_since
            hours = (now - self._silent_since) / 3600
            if now - self._silent_since >= PATIENCE_SECONDS:
                raise UserError(
                    f"{failure}; no answer for {hours:.1f} h: the jobs are left as they are; call "
                    "this again to watch them"
                ) from None
            if self._said is None or now - self._said >= REMIND_SECONDS:
                self._said = now
                self._say(f"{failure}; its jobs are taken to go on, and it is asked again")
            return dict.fromkeys(jobs, "UNKNOWN")
        self._silent_since = None
        return found


def num_nodes(options: Mapping[str, str], layout: Layout | None) -> int:
    """Nodes of one job, by --slurm, over which the run's ranks can be shared out.

    Raises:
        UserError: no number, or not one that goes with the ranks; sbatch would take it.
    """
    text = options.get("nodes", "1")
    if not re.fullmatch(r"[1-9]\d*", text):
        raise UserError(f"--slurm nodes={text}: must be a number, 1 or more")
    nodes = int(text)
    if layout is None:
        if nodes > 1:
            raise UserError(
                f"--slurm nodes={nodes}: a run of one process needs one node; give --ranks too, "
                "or leave nodes out"
            )
        return nodes
    if layout.ranks % nodes:
        raise UserError(f"--slurm nodes={nodes}: must divide --ranks {layout.ranks}")
    gpus = options.get("gpus_per_node", "")
    if re.fullmatch(r"[1-9]\d*", gpus) and layout.ranks // nodes > int(gpus):
        raise UserError(
            f"--slurm gpus_per_node={gpus}: each of {nodes} nodes has {layout.ranks // nodes} of "
            f"--ranks {layout.ranks}, which need a GPU each; ask for more nodes or GPUs"
        )
    return nodes


def run_jobs(
    study: StudyMap,
    root: Path,
    pending: list[int],
    cluster: Cluster,
    options: Mapping[str, str],
    tell: Callable[[RunProgress], None],
    tick: Callable[[], None],
    say: Callable[[str], None],
    layout: Layout | None = None,
) -> None:
    """Submit what is pending and not yet in the queue, and watch until all jobs have ended.

    `say` hears what a person should know meanwhile.

    Raises:
        UserError: submitit or Slurm is not there, stays silent, or refuses a job; its own words
            are told.
    """
    (root / JOBS).parent.mkdir(exist_ok=True)
    queue = Queue(cluster, root, say)
    waiting = submit(study, root, pending, cluster, options, layout, queue)
    gone: dict[int, float] = {}
    while waiting:
        states = queue.states([row.job for row in waiting.values()])
        for number, row in list(waiting.items()):
            run = study.runs[number]
            if run_state(study, root, run).state == "done":
                tell(RunProgress(number, "done", 1, 1, None))
                del waiting[number]
            elif row.job not in states:
                # Its last files may still be on their way.
                since = gone.setdefault(number, time.monotonic())
                reason = _reason(root, row)
                if reason is not None or time.monotonic() - since > GRACE_SECONDS:
                    told = reason or f"job {row.job} ended without a result (cancelled, or killed)"
                    tell(RunProgress(number, "failed", 0, 1, None, told))
                    del waiting[number]
            else:
                gone.pop(number, None)
        tick()
        if waiting:
            time.sleep(POLL_SECONDS)


def submit(
    study: StudyMap,
    root: Path,
    pending: list[int],
    cluster: Cluster,
    options: Mapping[str, str],
    layout: Layout | None,
    queue: Queue,
) -> dict[int, JobRow]:
    """The job of every pending run: one that waits or works already, or a new one."""
    nodes = num_nodes(options, layout)
    submitit = import_extra("submitit", "slurm", "--launcher slurm")
    known = {row.run: row for row in read_jobs(root)}
    names = {number: study.runs[number].name for number in pending}
    states = queue.states([known[name].job for name in names.values() if name in known])
    executor = _executor(submitit, root, cluster, options, study.experiment.name)
    jobs: dict[int, JobRow] = {}
    for number, name in names.items():
        row = known.get(name)
        if row is None or row.cluster != cluster or row.job not in states:
            try:
                job = executor.submit(RunJob(root.resolve(), number, layout, nodes))
            except submitit.core.utils.FailedJobError as error:
                raise UserError(f"{cluster} refused {name}: {_one_line(error)}") from None
            row = JobRow(run=name, job=job.job_id, cluster=cluster)
            known[name] = row
            # At once: a launcher killed here must find the job again.
            write_rows(root / JOBS, list(known.values()))
        jobs[number] = row
    return jobs


def read_jobs(root: Path) -> list[JobRow]:
    """The last job of each run that had one."""
    return list(read_rows(root / JOBS, JobRow)) if (root / JOBS).exists() else []


def job_states(jobs: list[str], cluster: str, root: Path) -> dict[str, str]:
    """State of each job that is in the queue or at work, as the scheduler calls it.

    Asked of squeue, which every Slurm has; sacct needs a database that many do not keep.

    Raises:
        UserError: squeue is not there.
        SqueueError: it fails, in its own words: a controller too busy to answer has not lost the jobs.
    """
    if not jobs:
        return {}
    if cluster == "local":
        return {job: "RUNNING" for job in jobs if _lives(root, job)}
    # Of this user, not by number: squeue refuses a list with a job that Slurm has forgotten.
    command = ["squeue", "--me", "--noheader", "--format=%i|%T", "--states=all"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_SECONDS)
    except FileNotFoundError:
        raise UserError(
            "squeue: no such program; Slurm is not installed here: use --launcher pool"
        ) from None
    except subprocess.TimeoutExpired:
        raise SqueueError(f"squeue: no answer within {SQUEUE_SECONDS:g} s") from None
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise SqueueError(f"squeue: {words}")
    found = dict(line.split("|", 1) for line in done.stdout.splitlines() if "|" in line)
    return {job: found[job] for job in jobs if found.get(job) in UNFINISHED}


UNFINISHED = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING"),
    *("SUSPENDED", "STOPPED", "PREEMPTED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"),
    "SPECIAL_EXIT",
}
"""Slurm's states of jobs that have not ended; a preempted one may be requeued."""


def _executor(
    submitit: Any, root: Path, cluster: Cluster, options: Mapping[str, str], name: str
) -> Any:
    try:
        executor = submitit.AutoExecutor(folder=root / JOBS.parent, cluster=cluster)
        given: dict[str, Any] = {"name": f"isoflop-{name}", "timeout_min": 24 * 60}
        for key, text in options.items():
            value: Any = int(text) if re.fullmatch(r"\d+", text) else text
            given[key if key in GENERIC else f"slurm_{key}"] = value
        if cluster == "local":
            given = {key: value for key, value in given.items() if not key.startswith("slurm_")}
        executor.update_parameters(tasks_per_node=1, **given)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise UserError(f"--slurm: {_one_line(error)}") from None
    return executor


def _reason(root: Path, row: JobRow) -> str | None:
    """Why an ended job's run is not done, if the job said so."""
    submitit = import_extra("submitit", "slurm", "--launcher slurm")
    paths = submitit.core.utils.JobPaths(root / JOBS.parent, job_id=row.job, task_id=0)
    if not paths.result_pickle.exists():
        return None
    outcome, said = submitit.core.utils.pickle_load(paths.result_pickle)
    if outcome == "error":
        return f"job {row.job}: {str(said).strip().splitlines()[-1]}"
    return f"job {row.job}: {said}" if said else None


def _lives(root: Path, job: str) -> bool:
    """Whether a local job's process is still there; its number is the process's."""
    status = Path(f"/proc/{job}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
