"""Calls from tests to a source in another process: arguments and results by value.

Only plain values travel (numbers, text, bytes, lists, tuples, sets, dictionaries, None);
subclasses of these arrive as what they extend, anything else as a handle that can be called,
iterated and asked for attributes, and that equals only itself. So a source cannot hand
the tests an object whose comparison it wrote. What does not travel: changes of an argument
in place, functions as arguments, the identity of values.
"""

import builtins
import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

HEAD = struct.Struct("!8sQ")
"""Before every message: `MARK`, and the bytes that follow."""

MARK = b"isoflop\n"
"""No secret: it shows what is no message, so that nobody waits for the rest of it."""

LONGEST_BYTES = 2**30
"""Of a message. Chosen, above what the usual limit of memory lets anyone write."""

DEEPEST = 100
"""Nesting of values that travel. Chosen, well below what recursion allows."""


_ANY = BaseException
"""A foreign program may raise anything, and even its exit is an answer here."""

_SMALL = 2**62
"""Integers up to here travel as decimal text; Python refuses to read very long decimals."""

_AS_THEY_ARE = frozenset((str, bool, type(None), float))
"""Exact types that JSON carries without a change; Python's JSON knows infinities and NaN."""

_TYPES = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
}
"""Built-in types that may be arguments or results themselves."""


class BadFrameError(BaseException):
    """The other end wrote what is no message; tests that expect an Exception do not catch it."""


class Channel:
    """One end of a pair of sockets, a message at a time."""

    def __init__(self, end: socket.socket) -> None:
        """`end` is closed by `close`."""
        self._end = end
        self._spoiled = False

    def close(self) -> None:
        """This end only."""
        self._end.close()

    def send(self, message: Any) -> None:
        """Mark and length, then JSON; huge integers are text in hexadecimal, see `to_plain`.

        Raises:
            ValueError: it is too long.
        """
        body = json.dumps(message).encode()
        if len(body) > LONGEST_BYTES:
            raise ValueError(f"{len(body)} bytes do not travel, {LONGEST_BYTES} do")
        self._end.sendall(HEAD.pack(MARK, len(body)) + body)

    def receive(self) -> Any:
        """The next message.

        Raises:
            EOFError: the other end is gone.
            BadFrameError: it wrote something else; so does every later call.
        """
        mark, length = HEAD.unpack(self._take(HEAD.size))
        if mark != MARK or length > LONGEST_BYTES:
            self._spoiled = True
        if not self._spoiled:
            try:
                return json.loads(self._take(length))
            except ValueError:
                self._spoiled = True
        raise BadFrameError("the source's process wrote to the tests what is no answer")

    def _take(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._end.recv(min(count - len(parts), 2**20))
            if not part:
                raise EOFError("the source's process ended before the tests did")
            parts += part
        return bytes(parts)


def channel() -> tuple[Channel, Channel]:
    """Two ends."""
    here, there = socket.socketpair()
    return Channel(here), Channel(there)


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
        TypeError: too deep, or an object where there are no handles.
    """
    if depth > DEEPEST:
        raise TypeError(f"values nested deeper than {DEEPEST} do not travel")
    if isinstance(value, Remote) and handles is None:
        return {"handle": value._number}
    if value is None or isinstance(value, bool):
        return value
    if type(value) is float or (type(value) is int and -_SMALL < value < _SMALL):
        return value
    for kind, name in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "frozenset")):
        if isinstance(value, kind):
            items: Iterator[Any] = kind.__iter__(value)  # type: ignore[arg-type]
            # Text and flags travel as they are: no call for each of a long list's items.
            return {
                name: [
                    item if type(item) in _AS_THEY_ARE else to_plain(item, handles, depth + 1)
                    for item in items
                ]
            }
    if isinstance(value, dict):
        pairs = dict.items(value)
        return {"dict": [[to_plain(part, handles, depth + 1) for part in pair] for pair in pairs]}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return {"int": int.__format__(value, "x")}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, type) and value in _TYPES.values():
        return {"type": type.__getattribute__(value, "__name__")}
    if handles is None:
        raise TypeError(f"a {type(value).__name__} does not travel to the source's process")
    return {"handle": handles.number_of(value)}


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
    if kind == "dict":
        return {from_plain(key, resolve): from_plain(value, resolve) for key, value in content}
    items = [from_plain(item, resolve) if type(item) is dict else item for item in content]
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)


def exception_words(error: BaseException) -> list[str]:
    """Class name and text."""
    try:
        return [type(error).__name__, str(error)[:500]]
    except _ANY:
        return [type(error).__name__, ""]


def answer(channel: Channel, names: dict[str, Any], flush: Callable[[], None]) -> None:
    """In the source's process: do what the tests ask until they end."""
    handles = Handles()
    channel.send(["value", None])
    while True:
        try:
            request = channel.receive()
        except EOFError:
            return
        try:
            reply = ["value", to_plain(_do(request, names, handles), handles)]
        except _ANY as error:
            reply = ["raised", *exception_words(error)]
        # The tests may end all after this answer, and what was printed would be lost.
        flush()
        channel.send(reply)


def _do(request: list[Any], names: dict[str, Any], handles: Handles) -> Any:
    verb, subject, *rest = request
    if verb == "name":
        return names[subject]
    target = handles.objects[subject]
    if verb == "call":
        positional, keywords = (from_plain(part, handles.objects.__getitem__) for part in rest)
        return target(*positional, **keywords)
    if verb == "attribute":
        return getattr(target, rest[0])
    if verb == "set":
        return setattr(target, rest[0], from_plain(rest[1], handles.objects.__getitem__))
    if verb == "iterate":
        return iter(target)
    return next(target)


class Remote:
    """An object of the source, in the tests' process."""

    def __init__(self, channel: Channel, number: int) -> None:
        """`number`: the object's handle."""
        object.__setattr__(self, "_channel", channel)
        object.__setattr__(self, "_number", number)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute there."""
        _ask(self._channel, ["set", self._number, name, to_plain(value, None)])

    def __call__(self, *positional: Any, **keywords: Any) -> Any:
        """Call it there."""
        plain = [to_plain(positional, None), to_plain(keywords, None)]
        return _ask(self._channel, ["call", self._number, *plain])

    def __getattr__(self, name: str) -> Any:
        """An attribute there."""
        return _ask(self._channel, ["attribute", self._number, name])

    def __iter__(self) -> Iterator[Any]:
        """Its items, one call each."""
        there = _ask(self._channel, ["iterate", self._number])
        while True:
            try:
                yield _ask(self._channel, ["next", there._number])
            except StopIteration:
                return

    def __eq__(self, other: object) -> bool:
        """The same object there; never its own idea of equality."""
        return isinstance(other, Remote) and other._number == self._number

    def __hash__(self) -> int:
        """As equality."""
        return hash(self._number)


class Source:
    """All global names of the source as attributes, those that hide a built-in name included."""

    def __init__(self, names: "RemoteNames") -> None:
        """`names` asks for them."""
        self._names = names

    def __getattr__(self, name: str) -> Any:
        """The source's own value of a global name."""
        return self._names.of_source(name)


class RemoteNames(dict[str, Any]):
    """Global names of the tests: their own, then the built-in ones, then the source's.

    A source that defines `len` or `set` so does not change what the tests mean by it. Tests that
    want the source's say so: `__source__.len`.
    """

    def __init__(self, channel: Channel, built_in: dict[str, Any]) -> None:
        """`built_in`: names that a source cannot put others in place of."""
        super().__init__(__name__="__main__", __builtins__=built_in, __source__=Source(self))
        self._channel = channel
        self._built_in = built_in
        self._ready = False

    def __missing__(self, name: str) -> Any:
        """A name of the source, or KeyError, which makes the interpreter look further."""
        if name in self._built_in:
            raise KeyError(name)
        return self.of_source(name)

    def of_source(self, name: str) -> Any:
        """The source's value of a global name; KeyError where it has none."""
        self.wait()
        return _ask(self._channel, ["name", name])

    def wait(self) -> None:
        """Until the source has run to its end; raises what it raised."""
        if not self._ready:
            self._ready = True
            _outcome(self._channel)


def _ask(channel: Channel, request: list[Any]) -> Any:
    channel.send(request)
    return _outcome(channel)


def _outcome(channel: Channel) -> Any:
    """The answer to a request, or the exception that it raised there."""
    kind, *content = channel.receive()
    if kind == "value":
        return from_plain(content[0], lambda number: Remote(channel, number))
    name, text = content
    found = getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, Exception) and found is not AssertionError:
        try:
            error = found(text)
        except TypeError:  # A class that wants more than a text.
            error = RuntimeError(f"{name}: {text}")
        raise error
    # An assertion of the source's own is not one of the tests'.
    raise RuntimeError(f"{name}: {text}")
