"""What goes into the sandbox, what bounds it, and what comes out.

Nothing here runs anything: values only.
"""

from dataclasses import dataclass
from typing import Literal

from isoflop.config import UserError

OutcomeVerdict = Literal[
    "passed", "failed", "error", "time-out", "memory", "not-carried", "refused"
]
"""How a program ended; `Outcome` says what each word means."""

WORKERS_DIED = "its workers died"
"""Reason of a refused program of which nothing is known, though the isolation holds."""

MIB = 2**20
"""Bytes of a mebibyte."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One Python program: a completion, and the tests that it must pass."""

    source: str
    """Python source. Without `tests`, all of it runs in one process, tests at its end included."""
    tests: str | None = None
    """Test code that uses the source's names. Run in a process of its own, which the source
    cannot reach: it sees the source's functions only by their arguments and plain results, so
    that no trick inside the source can make the tests pass. None: no tests apart."""
    stdin: str = ""
    """What the program reads from its standard input."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use. All of them chosen, not tuned."""

    cpu_seconds: float = 30.0
    """Processor time of all the program's processes together; decides `time-out`."""
    wall_seconds: float = 120.0
    """A generous backstop for programs that sleep, in real seconds; those in which the program
    could have run and waited for a processor do not count."""
    memory_bytes: int = 512 * MIB
    """Address space of each process, so at most `processes` times this in all."""
    processes: int = 16
    """Processes and threads at one time."""
    file_bytes: int = 16 * MIB
    """Size of a file, and of the scratch folder in all."""
    output_bytes: int = MIB
    """Standard output; a program that writes more is stopped with `error`."""

    def __post_init__(self) -> None:
        for name in [
            "cpu_seconds",
            "wall_seconds",
            "memory_bytes",
            "processes",
            "file_bytes",
            "output_bytes",
        ]:
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UserError(f"{name}={value} must be a positive number; choose one above 0")
        if self.wall_seconds < self.cpu_seconds:
            raise UserError(
                f"wall_seconds={self.wall_seconds} must be at least cpu_seconds={self.cpu_seconds}:"
                " processor time decides; raise wall_seconds"
            )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one program ended.

    Verdicts: `passed`, the last statement was reached and the exit status was 0;
    `failed`, an AssertionError; `time-out`, more processor time than `cpu_seconds` or
    more real time than `wall_seconds` without waiting for a processor; `memory`, a
    MemoryError; `not-carried`, tests that stand apart need of the source what does not travel
    between processes, so nothing is known of its answer; `error`, any other exception, exit,
    signal, or too much output; `refused`, the program has no verdict: it was not run because
    the isolation that was promised could not be had, or its workers died.
    """

    verdict: OutcomeVerdict
    reason: str | None
    """Why, in one line; None for `passed`. Holds the program's own words: never trust them."""
    stdout: str
    """Standard output, bytes that are no UTF-8 replaced; cut at `output_bytes`."""
    cpu_seconds: float
    """Processor time of all its processes, user and system, those left alive included. Not of
    children whose parent ignores SIGCHLD, which the kernel adds to no sum."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of isolation, as measured on this machine."""

    name: str
    active: bool
    reason: str
    """What it keeps out, or why it is absent."""
    required: bool
    """Whether programs are refused without it."""
