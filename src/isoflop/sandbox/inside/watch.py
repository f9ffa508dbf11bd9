"""Follow one program from outside its namespace until it ends or must be ended."""

import contextlib
import os
import resource
import select
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from isoflop.sandbox.inside.messages import receive, send
from isoflop.sandbox.inside.program import END_ALL, STATUS, Job

CHUNK_BYTES = 2**16
"""Read at once from a pipe: what a pipe holds."""

REPORT_BYTES = 2**14
"""A report is cut here; ours are far shorter."""


GRACE_SECONDS = 5.0
"""For a first process to end and collect the others, before it is killed. Chosen: it takes
milliseconds, but a machine may be busy."""


@dataclass(frozen=True, kw_only=True)
class Pipes:
    """The worker's ends of a program's pipes, as descriptors."""

    output: int
    report: int
    status: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All that was seen of one program."""

    output: bytes
    """Standard output, one byte more than allowed where there was more."""
    report: bytes
    status: int | None
    """How its main process ended, as wait(2) says it; None: it was ended."""
    overslept: bool
    """Ended because of the time it took, of whichever kind."""
    word: bytes
    """The secret that only its last step could read."""
    cpu_seconds: float
    """Of all its processes, those that were killed with it included. Not of children whose
    parent ignores SIGCHLD: the kernel drops their time, each is bounded by itself."""


def watch(
    job: Job,
    init: int,
    pipes: Pipes,
    caller: socket.socket,
    word: bytes,
    *,
    has_namespaces: bool,
) -> Seen:
    """Read a program's pipes until its main process has ended or a limit is passed, then end all.

    If the caller hangs up, this process ends, and with it every process of its namespace. A program
    that has run for as long as its processor time is asked about: the caller sees /proc, and there
    what the kernel's own limit overlooks, processes that sleep whenever its clock ticks.
    `has_namespaces`: whether `init` is alone with the program in a process namespace.
    """
    read = {pipes.output: bytearray(), pipes.report: bytearray(), pipes.status: bytearray()}
    caps = {pipes.output: job.output_bytes + 1, pipes.report: REPORT_BYTES, pipes.status: 64}
    began = time.monotonic()
    ask_at, asked_cpu_seconds = began + job.cpu_seconds, 0.0
    poll = select.poll()
    for descriptor in read:
        os.set_blocking(descriptor, False)
        poll.register(descriptor, select.POLLIN)
    poll.register(caller.fileno(), select.POLLRDHUP)
    overslept = is_over = False
    while not (is_over or overslept or read[pipes.status]):
        if len(read[pipes.output]) > job.output_bytes:
            break
        left = ask_at - time.monotonic()
        if left <= 0:
            more, asked_cpu_seconds = _ask(caller, init, job, time.monotonic() - began)
            ask_at = time.monotonic() + more
            overslept = more <= 0
            continue
        for descriptor, _ in poll.poll(left * 1000 + 1):
            if descriptor == caller.fileno():
                _kill(init)
                os._exit(0)
            if not _read_some(descriptor, read[descriptor], caps[descriptor]):
                poll.unregister(descriptor)
                # Only the first process holds this pipe's other end: it has gone without a word.
                is_over = is_over or descriptor == pipes.status
    cpu_seconds = _end(init, pipes.status) if has_namespaces else _end_session(init)
    for descriptor, content in read.items():
        while _read_some(descriptor, content, caps[descriptor]):
            pass
    status = bytes(read[pipes.status])
    return Seen(
        output=bytes(read[pipes.output]),
        report=bytes(read[pipes.report]),
        status=STATUS.unpack(status)[0] if len(status) == STATUS.size else None,
        overslept=overslept,
        word=word,
        cpu_seconds=max(cpu_seconds, asked_cpu_seconds),
    )


def _ask(caller: socket.socket, init: int, job: Job, real_seconds: float) -> tuple[float, float]:
    """Seconds until the caller wants to be asked again, 0 to end the program; and the processor
    time that the caller has seen."""
    limits = {"cpu_limit": job.cpu_seconds, "wall_limit": job.wall_seconds}
    reply = None
    with contextlib.suppress(OSError, ValueError):
        send(caller, {"real_seconds": real_seconds, **limits})
        reply = receive(caller)
    if reply is None:
        _kill(init)
        os._exit(0)
    return float(reply["seconds"]), float(reply["cpu_seconds"])


def _read_some(descriptor: int, content: bytearray, cap: int) -> bool:
    """Take what is there, up to `cap` in all; False at the end, when full or when empty."""
    try:
        part = os.read(descriptor, CHUNK_BYTES)
    except BlockingIOError:
        return False
    content += part[: cap - len(content)]
    return part != b"" and len(content) < cap


def _end(init: int, status: int) -> float:
    """End a program whose first process collects the others; the processor time of all."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(init, END_ALL)
    # Only the first process holds this pipe's other end: it hangs up when that has gone.
    gone = select.poll()
    gone.register(status, 0)
    gone.poll(GRACE_SECONDS * 1000)
    return _kill(init)


def _end_session(init: int) -> float:
    """End a program without a namespace; the processor time of all that can still be seen."""
    seen = session_seconds(init)
    return max(seen, _kill(init))


def _kill(init: int) -> float:
    """Kill a program's first process and its group; its time and that of what it collected."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(init, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(init, signal.SIGKILL)
    used: resource.struct_rusage = os.wait4(init, 0)[2]
    return used.ru_utime + used.ru_stime


def session_seconds(leader: int) -> float:
    """Processor time of a session's processes and of the children they collected, from /proc."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # After the name, which may hold anything: state, parent, group, session and so on.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")
