"""The worker: a small interpreter that isolates itself once and then runs programs by forking.

    outer     starts `inner` as process 1 of a namespace and waits; if either dies, both die
    inner     answers the caller: one program in, one outcome out, until the caller hangs up

Warm: a program costs two or three forks of a small process and one folder in memory.
"""

import gc
import importlib
import os
import signal
import socket
import sys
from typing import Any, NoReturn

from isoflop.sandbox.inside import isolation, kernel, program
from isoflop.sandbox.inside.messages import receive, send
from isoflop.sandbox.inside.program import Ends, Job
from isoflop.sandbox.inside.verdict import outcome_of
from isoflop.sandbox.inside.watch import Pipes, Seen, watch

PRELOADED = (
    "abc",
    "bisect",
    "collections",
    "copy",
    "datetime",
    "decimal",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "queue",
    "random",
    "re",
    "statistics",
    "string",
    "textwrap",
    "time",
    "typing",
)
"""Modules that programs of the tasks import most: loaded once instead of once a program."""


def main(descriptor: int) -> NoReturn:
    """Isolate, say what holds, then serve programs on the socket `descriptor`."""
    os.environ.clear()
    os.environ.update({"HOME": isolation.SCRATCH, "LANG": "C.UTF-8"})
    for name in PRELOADED:
        importlib.import_module(name)
    sys.argv = ["program.py"]
    connection = socket.socket(fileno=descriptor)
    try:
        isolation.enter_namespaces()
        reason = ""
    except OSError as error:
        reason = str(error)
    if reason == "":
        _become_inner(connection)
    hello = receive(connection)
    if hello is None or not hello["allow_weaker_isolation"]:
        send(connection, {"refused": reason, "layers": {}})
        os._exit(1)
    _serve(connection, None, reason)


def _become_inner(connection: socket.socket) -> None:
    """Go on as process 1 of the new namespace; the old process waits and dies with it."""
    inner = os.fork()
    if inner != 0:
        connection.close()
        _wait_for(inner)
        os._exit(0)
    own_processes = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        isolation.build_root()
    except OSError as error:
        send(connection, {"refused": f"no private root: {error}", "layers": {}})
        os._exit(1)
    kernel.control_process(kernel.PR_SET_DEATH_SIGNAL, signal.SIGKILL)
    socket.sethostname("sandbox")
    receive(connection)
    _serve(connection, own_processes, "")


def _wait_for(child: int) -> None:
    while True:
        try:
            os.waitpid(child, 0)
            return
        except InterruptedError:
            continue


def _serve(connection: socket.socket, own_processes: int | None, absent: str) -> NoReturn:
    gc.collect()
    gc.freeze()
    gc.disable()
    worker = Worker(connection, own_processes)
    layers = {"namespaces": absent, **worker.measure()}
    send(connection, {"refused": "", "layers": layers})
    while (message := receive(connection)) is not None:
        send(connection, worker.run(_job(message)))
    os._exit(0)


def _job(message: dict[str, Any]) -> Job:
    def to_bytes(text: str | None) -> bytes | None:
        return None if text is None else text.encode("utf-8", "surrogatepass")

    texts = {name: to_bytes(message.pop(name)) for name in ("source", "tests", "stdin")}
    return Job(**message, **texts)  # type: ignore[arg-type]


class Worker:
    """Runs one program at a time."""

    def __init__(self, connection: socket.socket, own_processes: int | None) -> None:
        """`own_processes`: descriptor of this worker's process namespace; None: it has none."""
        self.connection = connection
        self.own_processes = own_processes

    def measure(self) -> dict[str, str]:
        """Layers of a program's process: name -> "" if it holds, else why not."""
        job = Job(
            source=b"", tests=None, stdin=b"", cpu_seconds=5, wall_seconds=30,
            memory_bytes=2**29, processes=4, file_bytes=2**20, output_bytes=2**10, measure=True,
        )  # fmt: skip
        report = self._watch(job).report
        if not report.startswith(program.MEASURED):
            reason = report.decode(errors="replace") or "the measuring process died"
            return {"measuring": reason}
        lines = report[1:].decode().split("\n")
        return dict(_pair(line) for line in lines)

    def run(self, job: Job) -> dict[str, Any]:
        """Run one program; its outcome's fields."""
        return outcome_of(job, self._watch(job))

    def _watch(self, job: Job) -> Seen:
        """Start a program, follow it, end it."""
        stdin = _memory_file(job.stdin)
        (output, output_end), (report, report_end), (status, status_end) = (
            os.pipe() for _ in range(3)
        )
        secret_end, secret = os.pipe()
        word = os.urandom(program.SECRET_BYTES)
        os.write(secret, word)
        os.close(secret)
        init = self._fork()
        if init == 0:
            ends = Ends(
                stdin=stdin, output=output_end, secret=secret_end, report=report_end,
                status=status_end,
            )  # fmt: skip
            program.run_as_init(job, ends, has_namespaces=self.own_processes is not None)
        for descriptor in (stdin, output_end, secret_end, report_end, status_end):
            os.close(descriptor)
        pipes = Pipes(output=output, report=report, status=status)
        has_namespaces = self.own_processes is not None
        seen = watch(job, init, pipes, self.connection, word, has_namespaces=has_namespaces)
        for descriptor in (output, report, status):
            os.close(descriptor)
        return seen

    def _fork(self) -> int:
        """Fork; with namespaces, the child is process 1 of a new one."""
        if self.own_processes is None:
            return os.fork()
        kernel.unshare(kernel.NEW_PID)
        child = os.fork()
        if child != 0:
            kernel.enter_namespace(self.own_processes, kernel.NEW_PID)
        return child


def _pair(line: str) -> tuple[str, str]:
    name, _, reason = line.partition("\t")
    return name, reason


def _memory_file(content: bytes) -> int:
    """A file without a name that holds `content`, at its beginning."""
    if not content:
        return os.open("/dev/null", os.O_RDONLY)
    descriptor = os.memfd_create("stdin")
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
