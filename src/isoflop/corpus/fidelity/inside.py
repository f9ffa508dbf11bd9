"""What runs in the sandbox: a source, and calls of its functions, each with what came of it.

This file is sent into the sandbox as text and imports nothing of this package. A report is one line of
JSON after `MARK` on the real standard output; whatever the source prints is captured apart.

Packages that the sandbox lacks are replaced by objects that take part in everything and notice it:
a function that never touches them can be compared, a call that does is told apart.
"""

import ast
import builtins
import errno
import hashlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import random
import re
import signal
import sys
import time
import types
from typing import Any

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

MOST_ITEMS = 200
DEEPEST = 6

_ADDRESS = re.compile(r"\b0x[0-9a-f]{8,16}\b")
"""Where an object lies, as its default text says: another place is no other behaviour."""

_ANY = BaseException
"""Foreign code may raise anything, and that is what is observed."""


class TimeUp(BaseException):
    """A call used all its time; not an Exception, so that few handlers catch it."""


class Absent:
    """Stands for whatever comes out of a package that is not here."""

    touched = False

    def _touch(self, *_: Any, **__: Any) -> "Absent":
        Absent.touched = True
        return self

    def __call__(self, *args: Any, **_: Any) -> Any:
        """As a decorator it leaves the function alone."""
        Absent.touched = True
        if len(args) == 1 and isinstance(args[0], types.FunctionType | type):
            return args[0]
        return self

    def __getattr__(self, name: str) -> "Absent":
        """Any attribute, but for those by which Python probes objects."""
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._touch()

    def __iter__(self) -> Any:
        """Empty."""
        Absent.touched = True
        return iter(())

    def __bool__(self) -> bool:
        """True, as of most objects."""
        Absent.touched = True
        return True

    def __len__(self) -> int:
        """Nothing."""
        Absent.touched = True
        return 0

    def __hash__(self) -> int:
        """Any."""
        return 0

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        """A class made from it is a plain class."""
        Absent.touched = True
        return ()

    def __exit__(self, *_: Any) -> None:
        """Let exceptions through."""
        Absent.touched = True


_OPERATORS = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul "
    "rmatmul and rand or ror xor rxor lshift rlshift rshift rrshift neg pos invert abs iadd isub "
    "imul itruediv eq ne lt le gt ge getitem setitem delitem enter"
)
for _name in _OPERATORS.split():
    setattr(Absent, f"__{_name}__", Absent._touch)


class AbsentModule(types.ModuleType):
    """A package that is not here."""

    __path__: list[str] = []  # noqa: RUF012 - as of any package
    __all__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        """Anything can be imported from it."""
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Absent()


class AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages that it was told to stand in for, after all other finders failed."""

    def __init__(self, names: list[str]) -> None:
        """`names` of top-level packages."""
        self._names = frozenset(names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """A spec for a package that is stood in for."""
        if name.split(".")[0] not in self._names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        """The stand-in."""
        return AbsentModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


class Printed(io.StringIO):
    """Standard output that stops growing."""

    def write(self, text: str) -> int:
        """Keep what fits."""
        if self.tell() < MOST_PRINTED:
            super().write(text[:MOST_PRINTED])
        return len(text)


def encode(value: Any, depth: int = 0) -> Any:
    """A value as JSON that can be compared: numbers apart from texts, sets and dictionaries in order."""
    if isinstance(value, Absent | AbsentModule):
        Absent.touched = True
        return ["absent"]
    if value is None or isinstance(value, bool | int | float | complex):
        return ["number", _number(value)]
    if isinstance(value, str):
        return ["text", _ADDRESS.sub("0x", value)]
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(value).hex()]
    if depth >= DEEPEST:
        return ["deep"]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, len(value), [encode(item, depth + 1) for item in value[:MOST_ITEMS]]]
    if isinstance(value, set | frozenset):
        return ["set", _sorted([encode(item, depth + 1) for item in value])]
    if isinstance(value, dict):
        pairs = [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]
        return ["dict", _sorted(pairs)]
    if hasattr(type(value), "__next__"):
        first = [item for item, _ in zip(value, range(MOST_ITEMS), strict=False)]
        return ["iterator", [encode(item, depth + 1) for item in first]]
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | types.ModuleType):
        return ["object", type(value).__name__]
    return ["object", _words(type(value).__name__)]


def main(text: str) -> None:
    """Do the job: ``{"source", "name", "calls", "seed", "stdin", "absent"}``."""
    job = json.loads(text)
    out = sys.stdout
    sys.meta_path.append(AbsentFinder(job["absent"]))
    sys.stdin = io.StringIO(job["stdin"])
    time.sleep = lambda seconds: None
    builtins.open = _open
    os.stat = _stat
    signal.signal(signal.SIGVTALRM, _time_is_up)
    random.seed(job["seed"])
    module = types.ModuleType(job["name"])
    # Classes look their module up by name.
    sys.modules[job["name"]] = module
    seen = _observe(lambda: _run(job["source"], module.__dict__), PROGRAM_SECONDS)
    _report(out, {"call": -1, **seen})
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
        _report(out, {"call": number, **called})


def _called(module: types.ModuleType, call: dict[str, Any]) -> dict[str, Any]:
    function = getattr(module, call["function"], None)
    positional = [ast.literal_eval(literal) for literal in call["positional"]]
    keywords = {name: ast.literal_eval(literal) for name, literal in call["keywords"]}
    if isinstance(function, Absent) or not callable(function):
        raised = "absent" if isinstance(function, Absent) else NOT_DEFINED
        absent = isinstance(function, Absent)
        return {"raised": raised, "time_up": False, "absent": absent, "printed": "", "value": None}
    seen = _observe(lambda: function(*positional, **keywords), CALL_SECONDS)
    return {**seen, "arguments": _bounded(_quietly_encoded([positional, keywords]))}


def _observe(action: Any, seconds: float) -> dict[str, Any]:
    """What an action gives, prints and raises."""
    printed = Printed()
    real, sys.stdout = sys.stdout, printed
    Absent.touched = False
    raised, value, up = None, None, False
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        value = encode(action())
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
        sys.stdout = real
    return {
        "value": _bounded(value),
        "raised": raised,
        "time_up": up,
        "absent": Absent.touched,
        "printed": _ADDRESS.sub("0x", printed.getvalue()),
    }


def _open(file: Any, *arguments: Any, **options: Any) -> Any:
    """Open a file by its name. A number would name a descriptor of the sandbox's own."""
    if isinstance(file, int):
        raise TypeError("a number is no file name")
    return io.open(file, *arguments, **options)  # noqa: UP020


def _stat(path: Any, *arguments: Any, look: Any = os.stat, **options: Any) -> Any:
    """Look at a file by its name: which descriptors are open differs from run to run."""
    if isinstance(path, int):
        raise OSError(errno.EBADF, "a number is no file name")
    return look(path, *arguments, **options)


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


def _number(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**53 else hex(value)
    return float(value) if isinstance(value, float) else [value.real, value.imag]


def _sorted(items: list[Any]) -> list[Any]:
    return sorted(items, key=json.dumps)[:MOST_ITEMS]


def _words(name: str) -> str:
    return name.replace("_", "").lower()
