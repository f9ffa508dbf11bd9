"""The caller's hold on one worker process: start it, ask it, end it."""

import contextlib
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from isoflop.sandbox.config import Limits, Outcome, Program
from isoflop.sandbox.inside.messages import receive, send
from isoflop.sandbox.usage import seconds_left, usage_of_program

START_SECONDS = 60.0
"""A worker that has not isolated itself by then is given up. Chosen for a machine under load."""

PATIENCE_SECONDS = 30.0
"""Beyond the wall limit, for the worker to answer: it ends programs itself. Chosen."""

_BOOTSTRAP = """
import sys, types
folder, descriptor = sys.argv[1], int(sys.argv[2])
for name in ("isoflop", "isoflop.sandbox"):
    package = types.ModuleType(name)
    package.__path__ = [folder + "/" + name.replace(".", "/")]
    sys.modules[name] = package
import isoflop.sandbox.inside.zygote as zygote
zygote.main(descriptor)
"""
"""Imports `sandbox.inside` without the packages around it, whose imports programs would inherit."""

_FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
"""No user's or installed packages, no script folder, no files written, UTF-8."""


class WorkerDied(Exception):  # noqa: N818 - a fact about a process, not a mistake
    """The worker ended or fell silent; what it ran has no verdict."""


class WorkerProcess:
    """One warm worker. `refused` tells why it will not run programs; empty if it will."""

    def __init__(self, *, allow_weaker_isolation: bool) -> None:
        """Starts the worker and waits until it has isolated itself.

        Raises:
            WorkerDied: it ended before it said anything.
        """
        self.connection, theirs = socket.socketpair()
        folder = str(Path(__file__).parents[2])
        command = [sys.executable, *_FLAGS, "-c", _BOOTSTRAP, folder, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env={"PYTHONHASHSEED": "0"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.started = time.monotonic()
        self.waits_until = self.started + START_SECONDS
        try:
            send(self.connection, {"allow_weaker_isolation": allow_weaker_isolation})
            hello = self.read()
        except (OSError, WorkerDied) as error:
            self.close()
            raise WorkerDied(str(error)) from error
        self.refused: str = hello["refused"]
        self.layers: dict[str, str] = hello["layers"]

    def start(self, program: Program, limits: Limits) -> None:
        """Hand over a program; its outcome is there once `connection` can be read.

        Raises:
            WorkerDied: it no longer listens.
        """
        message = {"source": program.source, "tests": program.tests, "stdin": program.stdin}
        fields = {name: getattr(limits, name) for name in limits.__dataclass_fields__}
        self.waits_until = time.monotonic() + limits.wall_seconds + PATIENCE_SECONDS
        try:
            send(self.connection, message | fields)
        except OSError as error:
            raise WorkerDied(str(error)) from error

    def outcome(self) -> Outcome:
        """The outcome of the program handed over last.

        Raises:
            WorkerDied: it ended instead.
        """
        return Outcome(**self.read())

    def read(self) -> dict[str, Any]:
        """The next message; questions before it, whether a program may go on, are answered.

        Raises:
            WorkerDied: there is none, or not in time.
        """
        while "real_seconds" in (message := self._read_one()):
            usage = usage_of_program(self._process.pid)
            more = seconds_left(usage, **{name: float(value) for name, value in message.items()})
            self.waits_until = max(self.waits_until, time.monotonic() + more + PATIENCE_SECONDS)
            try:
                send(self.connection, {"seconds": more, "cpu_seconds": usage.cpu_seconds})
            except OSError as error:
                raise WorkerDied(str(error)) from error
        return message

    def _read_one(self) -> dict[str, Any]:
        left = max(0.0, self.waits_until - time.monotonic())
        if not select.select([self.connection], [], [], left)[0]:
            raise WorkerDied("the worker fell silent")
        try:
            message = receive(self.connection)
        except (OSError, ValueError) as error:
            raise WorkerDied(str(error)) from error
        if message is None:
            raise WorkerDied("the worker process ended")
        return message

    def kill(self) -> None:
        """End the worker and every process that it started, from any thread."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self._process.kill()

    def close(self) -> None:
        """End the worker and let go of it; safe to call twice."""
        self.kill()
        self._process.wait()
        self.connection.close()
