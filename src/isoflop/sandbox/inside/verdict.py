"""From what was seen of a program to its verdict. Pure."""

import os
import signal
from typing import Any

from isoflop.sandbox.inside.program import (
    ERROR,
    FAILED,
    MEMORY,
    NOT_CARRIED,
    PASSED,
    REFUSED,
    Job,
    is_out_of_time,
)
from isoflop.sandbox.inside.watch import Seen


def outcome_of(job: Job, seen: Seen) -> dict[str, Any]:
    """The fields of the program's `Outcome`.

    Limits come first: a program that says it passed and used too much has not passed.
    """
    verdict, reason = _verdict(job, seen)
    return {
        "verdict": verdict,
        "reason": reason,
        "stdout": seen.output[: job.output_bytes].decode("utf-8", "replace"),
        "cpu_seconds": seen.cpu_seconds,
    }


def _verdict(job: Job, seen: Seen) -> tuple[str, str | None]:
    if seen.report.startswith(REFUSED):
        return "refused", seen.report[1:].decode("utf-8", "replace")
    if seen.cpu_seconds >= job.cpu_seconds or _is_spent(seen.status):
        return "time-out", f"more than {job.cpu_seconds:g} s of processor time"
    if seen.overslept:
        return "time-out", (
            f"more than {job.wall_seconds:g} s of real time with only {seen.cpu_seconds:.2g} s of"
            " processor time (asleep, not waiting for a processor)"
        )
    if len(seen.output) > job.output_bytes:
        return "error", f"more than {job.output_bytes} bytes of output"
    ended_well = seen.status is not None and os.WIFEXITED(seen.status)
    if ended_well and os.WEXITSTATUS(seen.status or 0) == 0 and seen.report == PASSED + seen.word:
        return "passed", None
    kind, text = seen.report[:1], seen.report[1:].decode("utf-8", "replace")
    if kind == MEMORY:
        return "memory", f"no more than {job.memory_bytes} bytes of address space"
    if kind == FAILED:
        return "failed", text
    if kind == NOT_CARRIED:
        return "not-carried", text
    if kind == ERROR:
        return "error", text
    return "error", _how_it_ended(seen)


def _is_spent(status: int | None) -> bool:
    return status is not None and is_out_of_time(status)


def _how_it_ended(seen: Seen) -> str:
    if seen.status is None:
        return "its first process died"
    if os.WIFSIGNALED(seen.status):
        return f"killed by {signal.Signals(os.WTERMSIG(seen.status)).name}"
    if seen.report:
        return "it wrote where only the sandbox writes"
    return f"exited with status {os.WEXITSTATUS(seen.status)} before its last line"
