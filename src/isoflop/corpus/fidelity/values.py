"""Values as JSON that two processes can compare, and stand-ins for packages that are not there.

This file is sent into the sandbox as text before `inside.py` and imports nothing of this package.
"""

import collections.abc
import importlib.abc
import importlib.machinery
import itertools
import json
import re
import types
from typing import Any

MOST_PARTS = 20_000
"""Of one value that are compared. Chosen: takes a twentieth of a second."""

MOST_DRAWN = 200
"""From an iterator, which need not end."""

DEEPEST = 40
ADDRESS = re.compile(r"\b0x[0-9a-f]{8,16}\b")
"""Where an object lies, as its default text says: another place is no other behaviour."""


_ERRORS = Exception
"""What foreign code may raise when it is asked for its value."""


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


class Encoding:
    """One value on its way to JSON, by what it is and not by what it says of itself."""

    def __init__(self, parts: int = MOST_PARTS) -> None:
        """`parts`: most values in it that are looked at."""
        self.left = parts
        self.opaque = False
        """Whether something was met whose value nobody can tell: a function, a lock, what is too deep."""
        self._path: list[int] = []

    def of(self, value: Any) -> Any:
        """As JSON that can be compared: each kind apart, sets and dictionaries in one order."""
        self.left -= 1
        if isinstance(value, Absent | AbsentModule):
            Absent.touched = True
            return ["absent"]
        for kind in (bool, int, float, complex, types.NoneType):
            if isinstance(value, kind):
                return [kind.__name__, _number(value)]
        if isinstance(value, str):
            return ["text", ADDRESS.sub("0x", value)]
        if isinstance(value, bytes | bytearray | memoryview):
            return ["bytes", bytes(value).hex()]
        if isinstance(value, type):
            return ["class", words_of(value.__name__)]
        if id(value) in self._path:
            return ["cycle", len(self._path) - self._path.index(id(value))]
        if self.left < 0 or len(self._path) >= DEEPEST:
            return self._unknown("more")
        self._path.append(id(value))
        try:
            return self._of_parts(value)
        finally:
            self._path.pop()

    def _of_parts(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return ["list" if isinstance(value, list) else "tuple", self._each(value)]
        if isinstance(value, set | frozenset):
            return ["set", _sorted(self._each(value))]
        if isinstance(value, dict):
            return ["dict", _sorted([self._each(pair) for pair in value.items()])]
        if isinstance(value, collections.abc.MappingView):
            return ["view", _sorted(self._each(value))]
        if hasattr(type(value), "__next__"):
            return ["iterator", self._each(itertools.islice(value, MOST_DRAWN))]
        return self._of_object(value)

    def _of_object(self, value: Any) -> Any:
        """By what pickling would take of it: that is how Python itself tells an object's value."""
        name = words_of(type(value).__name__)
        if isinstance(value, types.FunctionType):
            return self._unknown(name)
        try:
            made = value.__reduce_ex__(2)
        except _ERRORS:
            return self._unknown(name)
        if isinstance(made, str):
            return ["global", words_of(made)]
        _, arguments, state, items, pairs = (*made, None, None, None)[:5]
        attributes = state if isinstance(state, tuple) else (state,)
        return [
            "object", name, self._each(arguments), [self._attributes(part) for part in attributes],
            self._each(items or ()), _sorted([self._each(pair) for pair in pairs or ()]),
        ]  # fmt: skip

    def _attributes(self, state: Any) -> Any:
        if not isinstance(state, dict):
            return self.of(state)
        return _sorted([[words_of(str(name)), self.of(value)] for name, value in state.items()])

    def _each(self, values: Any) -> list[Any]:
        encoded = []
        for value in values:
            if self.left < 0:
                encoded.append(self._unknown("more"))
                break
            encoded.append(self.of(value))
        return encoded

    def _unknown(self, name: str) -> list[str]:
        self.opaque = True
        return ["opaque", name]


def encode(value: Any) -> Any:
    """A value as JSON that can be compared."""
    return Encoding().of(value)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**53 else hex(value)
    return float(value) if isinstance(value, float) else [value.real, value.imag]


def _sorted(items: list[Any]) -> list[Any]:
    return sorted(items, key=json.dumps)


def words_of(name: str) -> str:
    """A name without the choice between snake_case and camelCase.

    >>> words_of("removeOcc") == words_of("remove_occ") == words_of("remove_Occ")
    True
    """
    return name.replace("_", "").lower()
