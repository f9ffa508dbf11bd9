"""Values as JSON carries them between a source's process and its tests, and back.

What travels by value: numbers (fractions, decimals and complex ones too), text, bytes, lists,
tuples (named ones too), sets, dictionaries and their views, deques, ranges, slices, dates and
times, None. Every such value is made anew from exact types that this file lists, so nothing of
the source's own code comes with it. A subclass of these arrives as what it extends; anything
else stays there, and a handle to it travels.
"""

import collections
import datetime
import decimal
import fractions
from collections.abc import Callable, Iterator
from typing import Any

DEEPEST = 100
"""Nesting of values that travel. Chosen, well below what recursion allows."""

MOST_FIELDS = 1000
"""Of a named tuple. Chosen."""

_SMALL = 2**62
"""Integers up to here travel as decimal text; Python refuses to read very long decimals."""

_AS_THEY_ARE = frozenset((str, bool, type(None), float))
"""Exact types that JSON carries without a change; Python's JSON knows infinities and NaN."""

_TYPES = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
}
"""Built-in types that may be arguments or results themselves."""

_SEQUENCES: tuple[tuple[type, str], ...] = (
    (list, "list"),
    (tuple, "tuple"),
    (set, "set"),
    (frozenset, "frozenset"),
)
_MAPPINGS: dict[type, str] = {collections.OrderedDict: "ordered", collections.Counter: "counter"}
_VIEWS: dict[type, str] = {
    type({}.keys()): "keys",
    type({}.values()): "values",
    type({}.items()): "items",
    type(collections.OrderedDict().keys()): "keys",
    type(collections.OrderedDict().values()): "values",
    type(collections.OrderedDict().items()): "items",
}
_Parts = Callable[[Any], list[Any]]
_MADE_OF_PARTS: dict[type, tuple[str, _Parts]] = {
    range: ("range", lambda it: [it.start, it.stop, it.step]),
    slice: ("slice", lambda it: [it.start, it.stop, it.step]),
    fractions.Fraction: ("fraction", lambda it: [it.numerator, it.denominator]),
    decimal.Decimal: ("decimal", lambda it: [str(it)]),
    collections.deque: ("deque", lambda it: [list(it), it.maxlen]),
    bytearray: ("bytearray", lambda it: [bytes(it)]),
    datetime.timedelta: ("timedelta", lambda it: [it.days, it.seconds, it.microseconds]),
    datetime.timezone: ("timezone", lambda it: [it.utcoffset(None), it.tzname(None)]),
    datetime.date: ("date", lambda it: [it.year, it.month, it.day]),
    datetime.time: (
        "time",
        lambda it: [it.hour, it.minute, it.second, it.microsecond, it.tzinfo],
    ),
    datetime.datetime: (
        "datetime",
        lambda it: [*it.timetuple()[:6], it.microsecond, it.tzinfo],
    ),
}
"""Exact types that are rebuilt from a few values: the word that travels, and the parts."""

_FROM_PARTS: dict[str, Callable[..., Any]] = {
    word: kind for kind, (word, _) in _MADE_OF_PARTS.items()
}


class DoesNotTravelError(BaseException):
    """The tests need what no value can carry; they do not catch it, since they do not expect it."""


class Handle:
    """In the tests' process: an object that stayed in the source's."""

    _number: int


class Handles:
    """Objects of the source that stay there, by number."""

    def __init__(self) -> None:
        """Empty."""
        self.objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number_of(self, value: Any) -> int:
        """The same number for the same object."""
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return self._numbers[id(value)]


def to_plain(value: Any, handles: Handles | None, depth: int = 0) -> Any:
    """A value as JSON can carry it.

    Raises:
        DoesNotTravelError: too deep, or an object where there are no handles.
    """
    if depth > DEEPEST:
        raise DoesNotTravelError(f"values nested deeper than {DEEPEST} do not travel")
    if handles is None and issubclass(type(value), Handle):
        return {"handle": value._number}
    if value is None or isinstance(value, bool):
        return value
    if type(value) is float or (type(value) is int and -_SMALL < value < _SMALL):
        return value
    plain = _collection(value, handles, depth)
    if plain is None:
        plain = _single(value)
    if plain is None and type(value) in _MADE_OF_PARTS:
        word, parts_of = _MADE_OF_PARTS[type(value)]
        plain = {word: [to_plain(part, handles, depth + 1) for part in parts_of(value)]}
    if plain is not None:
        return plain
    if handles is None:
        raise DoesNotTravelError(
            f"a {type(value).__name__} does not travel to the source's process"
        )
    return {"handle": handles.number_of(value)}


def _collection(value: Any, handles: Handles | None, depth: int) -> Any:
    """Values that hold others; None for any other."""
    for kind, name in _SEQUENCES:
        if isinstance(value, kind):
            items: Iterator[Any] = kind.__iter__(value)  # type: ignore[attr-defined]
            # Text and flags travel as they are: no call for each of a long list's items.
            carried = [
                item if type(item) in _AS_THEY_ARE else to_plain(item, handles, depth + 1)
                for item in items
            ]
            fields = _field_names(value) if kind is tuple else None
            return {name: carried} if fields is None else {"named": [*fields, carried]}
    if isinstance(value, dict):
        pairs = dict.items(value)
        carried = [[to_plain(part, handles, depth + 1) for part in pair] for pair in pairs]
        if type(value) is collections.defaultdict:
            factory = value.default_factory
            if factory is None or factory in _TYPES.values():
                return {"default": [to_plain(factory, handles), carried]}
        return {_MAPPINGS.get(type(value), "dict"): carried}
    if type(value) in _VIEWS:
        return {_VIEWS[type(value)]: [to_plain(item, handles, depth + 1) for item in value]}
    return None


def _single(value: Any) -> Any:
    """Text, numbers and built-in types; None for any other."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return {"int": int.__format__(value, "x")}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, bytes):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, type) and value in _TYPES.values():
        return {"type": type.__getattribute__(value, "__name__")}
    return None


def _field_names(value: Any) -> list[Any] | None:
    """Class and field names of a named tuple; None for any other."""
    fields = getattr(type(value), "_fields", None)
    if type(value) is tuple or type(fields) is not tuple or len(fields) != tuple.__len__(value):
        return None
    names = [type(value).__name__, *fields]
    if len(names) > MOST_FIELDS or not all(_is_field_name(name) for name in names):
        return None
    return [names[0], list(fields)]


def _is_field_name(name: Any) -> bool:
    return type(name) is str and name.isidentifier() and not name.startswith("_")


def from_plain(plain: Any, resolve: Any) -> Any:
    """The inverse of `to_plain`; `resolve` turns a handle's number into an object."""
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float.fromhex(content)
    if kind == "complex":
        return complex(*(float.fromhex(part) for part in content))
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "type":
        return _TYPES[content]
    if kind == "handle":
        return resolve(content)
    if kind in ("dict", "ordered", "counter", "default"):
        return _mapping(kind, content, resolve)
    if kind == "named":
        name, fields, items = content
        made = collections.namedtuple(name, fields)  # type: ignore[misc]
        return made._make(from_plain(item, resolve) for item in items)
    items = [from_plain(item, resolve) if type(item) is dict else item for item in content]
    if kind in _FROM_PARTS:
        return _FROM_PARTS[kind](*items)
    if kind == "keys":
        return dict.fromkeys(items).keys()
    if kind == "values":
        return dict(enumerate(items)).values()
    if kind == "items":
        return dict(items).items()
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)


def _mapping(kind: str, content: Any, resolve: Any) -> Any:
    factory, pairs = content if kind == "default" else (None, content)
    made = {from_plain(key, resolve): from_plain(value, resolve) for key, value in pairs}
    if kind == "dict":
        return made
    if kind == "default":
        return collections.defaultdict(from_plain(factory, resolve), made)
    return {"ordered": collections.OrderedDict, "counter": collections.Counter}[kind](made)
