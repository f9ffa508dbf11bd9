"""What runs in the sandbox: a source, and calls of its functions, each with what came of it.

This file is sent into the sandbox as text after `values.py`, and imports nothing else of this package. A
report is one line of JSON after `MARK` on the real standard output; whatever the source prints is
captured apart.

Packages that the sandbox lacks are replaced by objects that take part in everything and notice it:
a function that never touches them can be compared, a call that does is told apart.
"""

import ast
import builtins
import errno
import hashlib
import io
import json
import os
import random
import re
import signal
import sys
import time
import types
import warnings
from typing import Any

from isoflop.corpus.fidelity.values import (
    ADDRESS,
    Absent,
    AbsentFinder,
    Encoding,
    encode,
    words_of,
)

MARK = "\x1eisoflop-fidelity "
"""Begins a report; no program prints a record separator and these words by chance."""

CALL_SECONDS = 0.2
"""Of processor time for one call. Chosen: a thousand times what a typical call takes."""

PROGRAM_SECONDS = 2.0
"""Of processor time for a whole program, or for a module's own statements."""

MOST_TIME_OUTS = 2
"""Calls of one function that may use up their time; further ones are not made."""

MOST_CHARACTERS = 2_000
"""Of an encoded value; a longer one is told by its digest."""

MOST_PRINTED = 20_000
"""Characters of standard output that are kept."""

NOT_DEFINED = "not defined"
"""In place of an exception: the module stopped before its function was there."""

MOST_GLOBAL_PARTS = 1_000
"""Of a module's globals, which are looked at after every call; larger ones are not compared."""


_LINE = re.compile(r"\bline \d+")
"""Where in the file, as tracebacks say: another layout is no other behaviour."""

_FILE_LINE = re.compile(r"""(File "[^"\n]*", line) \d+""")
"""The same on standard output, where doctest writes; other numbers there are the program's own."""

_PLAIN = bool, int, float, complex, types.NoneType, str, bytes, list, tuple, dict, set, frozenset

_ANY = BaseException
"""Foreign code may raise anything, and that is what is observed."""


class TimeUp(BaseException):
    """A call used all its time; not an Exception, so that few handlers catch it."""


class Printed(io.StringIO):
    """Standard output that stops growing."""

    def write(self, text: str) -> int:
        """Keep what fits."""
        if self.tell() < MOST_PRINTED:
            super().write(text[:MOST_PRINTED])
        return len(text)


def main(text: str) -> None:
    """Do the job: ``{"source", "name", "calls", "seed", "stdin", "absent", "globals"}``."""
    job = json.loads(text)
    out = sys.stdout
    sys.meta_path.append(AbsentFinder(job["absent"]))
    sys.stdin = io.StringIO(job["stdin"])
    time.sleep = lambda seconds: None
    # Warnings name lines and their text.
    warnings.showwarning = lambda *arguments, **options: None
    builtins.open = _open
    _refuse_descriptors()
    signal.signal(signal.SIGVTALRM, _time_is_up)
    random.seed(job["seed"])
    module = types.ModuleType(job["name"])
    # Classes look their module up by name.
    sys.modules[job["name"]] = module
    seen = _observe(lambda: _run(job["source"], module.__dict__), PROGRAM_SECONDS)
    _report(out, {"call": -1, **seen})
    begun = _globals(module, job["globals"])
    time_outs: dict[str, int] = {}
    for number, call in enumerate(job["calls"]):
        name = call["function"]
        if time_outs.get(name, 0) >= MOST_TIME_OUTS:
            continue
        # Each call starts from the same draws and the same input, whatever the one before took.
        random.seed(job["seed"])
        sys.stdin = io.StringIO(job["stdin"])
        called = _called(module, call)
        time_outs[name] = time_outs.get(name, 0) + called["time_up"]
        now = _globals(module, job["globals"])
        changed = {name: now[name] for name in now if now[name] != begun.get(name)}
        _report(out, {"call": number, **called, "globals": _bounded(changed)})


def _called(module: types.ModuleType, call: dict[str, Any]) -> dict[str, Any]:
    function = getattr(module, call["function"], None)
    positional = [ast.literal_eval(literal) for literal in call["positional"]]
    keywords = {name: ast.literal_eval(literal) for name, literal in call["keywords"]}
    if isinstance(function, Absent) or not callable(function):
        raised = "absent" if isinstance(function, Absent) else NOT_DEFINED
        absent = isinstance(function, Absent)
        return {
            "raised": raised, "time_up": False, "absent": absent, "printed": "", "errors": "",
            "value": None, "opaque": False,
        }  # fmt: skip
    seen = _observe(lambda: function(*positional, **keywords), CALL_SECONDS)
    return {**seen, "arguments": _bounded(_quietly_encoded([positional, keywords]))}


def _observe(action: Any, seconds: float) -> dict[str, Any]:
    """What an action gives, prints and raises."""
    printed, errors, encoding = Printed(), Printed(), Encoding()
    real, sys.stdout, sys.stderr = (sys.stdout, sys.stderr), printed, errors
    Absent.touched = False
    raised, value, up = None, None, False
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        value = encoding.of(action())
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except TimeUp:
        up = True
    except SystemExit as error:
        raised = None
        value = ["exit", encode(error.code)]
    except _ANY as error:
        raised = type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        sys.stdout, sys.stderr = real
    return {
        "value": _bounded(value),
        "raised": raised,
        "time_up": up,
        "absent": Absent.touched,
        "opaque": encoding.opaque,
        "printed": _FILE_LINE.sub(r"\1", ADDRESS.sub("0x", printed.getvalue())),
        "errors": _LINE.sub("line", ADDRESS.sub("0x", errors.getvalue())),
    }


def _globals(module: types.ModuleType, names: list[str]) -> dict[str, Any]:
    """Values of these names that are plain data; none at all where they are too large."""
    found = {}
    encoding = Encoding(MOST_GLOBAL_PARTS)
    for name, value in list(vars(module).items()):
        if words_of(name) in names and isinstance(value, _PLAIN):
            encoding.opaque = False
            encoded = encoding.of(value)
            if encoding.left < 0:
                return {}
            if not encoding.opaque:
                found[words_of(name)] = encoded
    return found


def _open(file: Any, *arguments: Any, **options: Any) -> Any:
    """Open a file by its name. A number would name a descriptor of the sandbox's own."""
    if isinstance(file, int):
        raise TypeError("a number is no file name")
    return io.open(file, *arguments, **options)  # noqa: UP020


def _refuse_descriptors() -> None:
    """Let `os.stat`, `os.listdir` and all that take a descriptor take names alone: which descriptors
    are open differs from run to run."""
    for name, function in list(vars(os).items()):
        if callable(function) and function in os.supports_fd:
            setattr(os, name, _by_name(function))


def _by_name(function: Any) -> Any:
    def named(*arguments: Any, **options: Any) -> Any:
        if isinstance(options.get("path", arguments[0] if arguments else None), int):
            raise OSError(errno.EBADF, "a number is no file name")
        return function(*arguments, **options)

    return named


def _run(source: str, names: dict[str, Any]) -> None:
    exec(compile(source, "<text>", "exec", dont_inherit=True), names)


def _report(out: Any, seen: dict[str, Any]) -> None:
    out.write(MARK + json.dumps(seen) + "\n")
    out.flush()


def _time_is_up(number: int, frame: Any) -> None:
    raise TimeUp


def _quietly_encoded(value: Any) -> Any:
    try:
        return encode(value)
    except _ANY:
        return ["not to be had"]


def _bounded(value: Any) -> Any:
    text = json.dumps(value)
    if len(text) <= MOST_CHARACTERS:
        return value
    return ["digest", hashlib.sha256(text.encode()).hexdigest()]
