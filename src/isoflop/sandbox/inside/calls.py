"""Calls from tests to a source in another process: arguments and results by value.

What travels, and how, is in `carried`. Anything else arrives as a handle that can be called, asked
for attributes, length, items, text and truth, each answered by a plain value. It equals itself;
whether it equals anything else, only the source's own code could say, and that is not asked: where
there is such code, the tests end with a reason of their own, since a source cannot be allowed to
hand the tests an object whose comparison it wrote. What does not travel: changes of an argument
in place, functions as arguments, the identity of values.
"""

import builtins
import json
import operator
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from isoflop.sandbox.inside.carried import (
    DoesNotTravelError,
    Handle,
    Handles,
    from_plain,
    to_plain,
)

Exact = TypeVar("Exact")

HEAD = struct.Struct("!8sQ")
"""Before every message: `MARK`, and the bytes that follow."""

MARK = b"isoflop\n"
"""No secret: it shows what is no message, so that nobody waits for the rest of it."""

LONGEST_BYTES = 2**30
"""Of a message. Chosen, above what the usual limit of memory lets anyone write."""

_ANY = BaseException
"""A foreign program may raise anything, and even its exit is an answer here."""


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
            DoesNotTravelError: it is too long.
        """
        body = json.dumps(message).encode()
        if len(body) > LONGEST_BYTES:
            raise DoesNotTravelError(f"{len(body)} bytes do not travel, {LONGEST_BYTES} do")
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
    if verb == "has own":
        return _has_own(target, rest[0])
    return _BUILT_IN[verb](target, *(from_plain(one, handles.objects.__getitem__) for one in rest))


def _has_own(target: Any, name: str) -> bool:
    """Whether a special method is more than what every object has."""
    return getattr(type(target), name, None) not in (None, getattr(object, name, None))


_BUILT_IN: dict[str, Callable[..., Any]] = {
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "int": int,
    "float": float,
    "abs": abs,
    "index": operator.index,
    "item": operator.getitem,
}
"""What the tests may ask of an object beside calls and attributes. The answer is a value."""


class Remote(Handle):
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
        there = _ask(self._channel, ["iter", self._number])
        while True:
            try:
                yield _ask(self._channel, ["next", there._number])
            except StopIteration:
                return

    def __next__(self) -> Any:
        """As the built-in function, there; so are those below."""
        return _ask(self._channel, ["next", self._number])

    def __len__(self) -> int:
        """There."""
        return _exactly(int, _ask(self._channel, ["len", self._number]))

    def __bool__(self) -> bool:
        """There."""
        return _exactly(bool, _ask(self._channel, ["bool", self._number]))

    def __str__(self) -> str:
        """There."""
        return _exactly(str, _ask(self._channel, ["str", self._number]))

    def __repr__(self) -> str:
        """There."""
        return _exactly(str, _ask(self._channel, ["repr", self._number]))

    def __int__(self) -> int:
        """There."""
        return _exactly(int, _ask(self._channel, ["int", self._number]))

    def __float__(self) -> float:
        """There."""
        return _exactly(float, _ask(self._channel, ["float", self._number]))

    def __index__(self) -> int:
        """There."""
        return _exactly(int, _ask(self._channel, ["index", self._number]))

    def __abs__(self) -> Any:
        """There."""
        return _ask(self._channel, ["abs", self._number])

    def __getitem__(self, key: Any) -> Any:
        """There."""
        return _ask(self._channel, ["item", self._number, to_plain(key, None)])

    def __eq__(self, other: object) -> bool:
        """The same object there; never its own idea of equality.

        Raises:
            DoesNotTravelError: it has one.
        """
        if isinstance(other, Remote) and other._number == self._number:
            return True
        if other is not None and _ask(self._channel, ["has own", self._number, "__eq__"]):
            raise DoesNotTravelError("a result that only the source's own code can compare")
        return False

    def __hash__(self) -> int:
        """As equality."""
        return hash(self._number)


def _exactly(kind: type[Exact], value: Any) -> Exact:
    """A value of this type, which is what its special method must return."""
    if type(value) is not kind:
        raise TypeError(f"the source answered with a {type(value).__name__}, not a {kind.__name__}")
    answer: Exact = value
    return answer


def _refuse(name: str) -> Callable[[Remote, object], Any]:
    def refuse(self: Remote, other: object) -> Any:
        if _ask(self._channel, ["has own", self._number, name]):
            raise DoesNotTravelError("a result that only the source's own code can compute with")
        return NotImplemented

    return refuse


for _name in ("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Remote, f"__{_name}__", _refuse(f"__{_name}__"))


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
    if name == DoesNotTravelError.__name__:
        raise DoesNotTravelError(text)
    found = getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, Exception) and found is not AssertionError:
        try:
            error = found(text)
        except TypeError:  # A class that wants more than a text.
            error = RuntimeError(f"{name}: {text}")
        raise error
    # An assertion of the source's own is not one of the tests'.
    raise RuntimeError(f"{name}: {text}")
