"""One program: the processes it gets, and how they report.

    init      process 1 of the program's namespace: gives up its rights, starts the others,
              collects what they leave behind, ends and collects all that is left once the
              main one has ended, and then tells the worker how that was
    main      runs the source, or the tests where they stand apart
    source    where tests stand apart: holds the source and answers calls to it

The last thing `main` does is to read a secret from one pipe and write it to another: the
verdict `passed` needs it. Where tests stand apart, no code of the source runs in `main`.
Where they do not, the source shares the process: leaving early, patching any name and
walking over exceptions do not help it, but code that searches the interpreter's frames or
every descriptor for the pipes can forge the secret's way.
"""

import builtins
import contextlib
import gc
import math
import os
import random
import signal
import struct
import sys
import types
from dataclasses import dataclass
from typing import Any, NoReturn

from isoflop.sandbox.inside import calls, carried, isolation, kernel

SECRET_BYTES = 16
"""Length of the word that shows completion: 128 bits, not to be guessed."""

STATUS = struct.Struct("i")
"""How the main process ended, as wait(2) says it."""

REASON_CHARACTERS = 500
"""Of an exception's text that are reported. Chosen."""

FIRST_HIDDEN = 24
"""The main process's pipes lie at numbers drawn from here to `isolation.OPEN_FILES`."""

END_ALL = signal.SIGUSR1
"""What the worker sends to init so that it ends and collects all others. A program that sends
it ends itself: no verdict but `error` comes of that."""

FAILED, MEMORY, ERROR, PASSED, REFUSED, MEASURED = b"F", b"M", b"E", b"P", b"R", b"L"
NOT_CARRIED = b"T"
"""First byte of a report."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One program with its limits, as the worker was told."""

    source: bytes
    tests: bytes | None
    stdin: bytes
    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    processes: int
    file_bytes: int
    output_bytes: int
    measure: bool = False
    """Measure the layers instead of running anything."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The program's ends of the worker's pipes, as descriptors."""

    stdin: int
    output: int
    secret: int
    report: int
    status: int


_ANY, _FULL, _ASSERTION = BaseException, MemoryError, AssertionError
_STAYS = carried.DoesNotTravelError
_isinstance, _type, _str = isinstance, type, str
"""Built-in names under others, which a program that changes the built-in ones leaves alone."""


def run_as_init(job: Job, ends: Ends, *, has_namespaces: bool) -> NoReturn:
    """What the first process of a program does; never returns, whatever happens."""
    try:
        _run_as_init(job, ends, has_namespaces=has_namespaces)
    finally:
        os._exit(1)


def _run_as_init(job: Job, ends: Ends, *, has_namespaces: bool) -> NoReturn:
    try:
        _prepare(job, ends, has_namespaces=has_namespaces)
    except OSError as error:
        os.write(ends.report, REFUSED + str(error).encode())
        os._exit(1)
    if job.measure:
        layers = isolation.measured_layers()
        lines = "\n".join(f"{name}\t{reason}" for name, reason in layers.items())
        os.write(ends.report, MEASURED + lines.encode())
        os._exit(0)
    if has_namespaces:
        signal.signal(END_ALL, lambda *_: _end_and_leave())
    main = _start(job, ends)
    collected: list[int] = []
    while True:
        child, status = os.waitpid(-1, 0)
        collected.append(status)
        if child == main:
            if has_namespaces:
                collected += _end_others()
            # A source that was ended for its time leaves the tests with nothing but an end of file.
            spent = (one for one in collected if is_out_of_time(one))
            os.write(ends.status, STATUS.pack(next(spent, status)))
            os._exit(0)


def is_out_of_time(status: int) -> bool:
    """Whether the kernel ended it for its processor time, whose clock differs from ours a little."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU


def _fork() -> int:
    """Fork; the child leaves to the first process what only that one does."""
    child = os.fork()
    if child == 0:
        signal.signal(END_ALL, signal.SIG_DFL)
    return child


def _end_others() -> list[int]:
    """Kill and collect every other process of the namespace, so that its time counts as ours.

    Left to the kernel, which ends them with their first process, their time is in no sum. How
    they ended, as wait(2) says it.
    """
    collected: list[int] = []
    if os.getpid() != 1:
        return collected  # Not alone in a namespace: -1 would mean every process of the user.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            collected.append(os.waitpid(-1, 0)[1])
    return collected


def _end_and_leave() -> NoReturn:
    _end_others()
    os._exit(0)


def _prepare(job: Job, ends: Ends, *, has_namespaces: bool) -> None:
    """Streams, signals, scratch folder, limits; then nothing is left to give up."""
    os.setsid()
    os.dup2(ends.stdin, 0)
    os.dup2(ends.output, 1)
    silence = os.open("/dev/null", os.O_WRONLY)
    os.dup2(silence, 2)
    kept = sorted({ends.secret, ends.report, ends.status})
    for low, high in zip([2, *kept], [*kept, 4096], strict=True):
        os.closerange(low + 1, high)
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    if has_namespaces:
        isolation.mount_scratch(job.file_bytes)
    else:
        kernel.control_process(kernel.PR_SET_SUBREAPER, 1)
    kernel.control_process(kernel.PR_SET_DUMPABLE, 0)
    isolation.set_limits(
        cpu=math.ceil(job.cpu_seconds),
        memory=job.memory_bytes,
        processes=job.processes,
        file=job.file_bytes,
    )
    isolation.give_up_privileges(signals=has_namespaces)


def _start(job: Job, ends: Ends) -> int:
    """Start the main process, and the source's own where tests stand apart."""
    if job.tests is None:
        main = _fork()
        if main == 0:
            os.close(ends.status)
            _run_main(job.source, _new_main(), ends)
        os.close(ends.secret)
        return main
    here, there = calls.channel()
    source = _fork()
    if source == 0:
        here.close()
        for descriptor in (ends.secret, ends.report, ends.status):
            os.close(descriptor)
        _serve_source(job.source, there)
    there.close()
    main = _fork()
    if main == 0:
        os.close(ends.status)
        _run_main(job.tests, calls.RemoteNames(here, builtins.__dict__), ends)
    here.close()
    os.close(ends.secret)
    return main


def _new_main() -> dict[str, Any]:
    """A fresh `__main__`, as a script of its own would have it."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    return module.__dict__


def _run_main(source: bytes, names: dict[str, Any], ends: Ends) -> NoReturn:
    """Run `source` to its end, then show the secret; or report how it ended."""
    # Taken before the program can put others in their place.
    read, write, leave, flush = os.read, os.write, os._exit, sys.stdout.flush
    whoami, me, describe = os.getpid, os.getpid(), _describe
    secret, report = _hide(ends.secret, ends.report)
    try:
        if isinstance(names, calls.RemoteNames):
            names.wait()
        _execute(source, names)
    except _FULL:
        write(report, MEMORY)
        leave(1)
    except _ANY as error:
        write(report, describe(error))
        _quietly(flush)
        leave(1)
    _quietly(flush)
    if whoami() == me:  # Not a copy of this process that the program made.
        write(report, PASSED + read(secret, SECRET_BYTES))
    leave(0)


def _hide(*descriptors: int) -> list[int]:
    """Move descriptors to numbers that a program does not know beforehand."""
    places: list[int] = []
    for descriptor in descriptors:
        place = FIRST_HIDDEN
        while place in places or place == FIRST_HIDDEN:
            place = FIRST_HIDDEN + os.urandom(1)[0] % (isolation.OPEN_FILES - FIRST_HIDDEN)
        os.dup2(descriptor, place, inheritable=False)
        os.close(descriptor)
        places.append(place)
    return places


def _execute(source: bytes, names: dict[str, Any]) -> None:
    # Text may hold what no UTF-8 can, and compiling is where a program learns it.
    code = compile(source.decode("utf-8", "surrogatepass"), "<program>", "exec", dont_inherit=True)
    gc.enable()
    # The same draws in every program, whichever worker it gets.
    random.seed(0)
    exec(code, names)


def _quietly(action: Any) -> None:
    """Call something that the program may have broken."""
    try:
        action()
    except _ANY:
        return


def _describe(error: BaseException) -> bytes:
    """Kind and text of an exception, whose text may be the program's own code."""
    kind = FAILED if _isinstance(error, _ASSERTION) else ERROR
    if _isinstance(error, _STAYS):
        kind = NOT_CARRIED
    name = _type.__getattribute__(_type(error), "__name__")
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        text = _str.__str__(_str(error))[:REASON_CHARACTERS]
    except _ANY:
        text = "its text cannot be had"
    where = "" if line is None else f" (line {line})"
    said = f"{name}: {text}" if text else _str(name)
    return kind + f"{said}{where}".encode("utf-8", "replace")


def _serve_source(source: bytes, channel: calls.Channel) -> NoReturn:
    """Run the source, then answer the tests' calls until they end."""
    flush = sys.stdout.flush
    try:
        names = _new_main()
        _execute(source, names)
        calls.answer(channel, names, lambda: _quietly(flush))
    except _ANY as error:
        words = ["raised", *calls.exception_words(error)]
        _quietly(lambda: channel.send(words))
    os._exit(0)
