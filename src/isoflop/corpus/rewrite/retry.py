"""When to ask again, and whom: pure arithmetic on given times."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from isoflop.config import UserError
from isoflop.corpus.seeds import generator


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long an endpoint is asked for one reply. All chosen, not tuned."""

    tries: int = 10
    """Requests for one reply before it is given up for this run."""
    first_wait_seconds: float = 0.5
    """Before the second try; doubled before each further one."""
    most_wait_seconds: float = 60.0
    """Longest wait of our own choosing."""
    most_asked_wait_seconds: float = 600.0
    """Longest wait that a server may ask for (Retry-After)."""
    request_seconds: float = 600.0
    """Of real time for one request with its whole body."""
    given_up_in_succession: int = 10
    """So many texts without a reply, one after the other, end the run: the endpoint is down."""

    def __post_init__(self) -> None:
        if self.tries < 1 or self.given_up_in_succession < 1:
            raise UserError("tries and given_up_in_succession must be at least 1")
        times = (self.first_wait_seconds, self.most_wait_seconds, self.most_asked_wait_seconds)
        if min(times) < 0 or self.request_seconds <= 0:
            raise UserError("waits must be 0 or more seconds, request_seconds above 0")


def wait_seconds(patience: Patience, tried: int, *seed: int | str) -> float:
    """How long a request waits after `tried` tries, whichever server is asked next.

    Twice as long each time, less up to half by a seeded draw, so that many clients do not come back
    together. What a server asks for, `Balance` keeps: another one may be asked meanwhile.

    >>> [round(wait_seconds(Patience(), n, 0), 2) <= 0.5 * 2 ** (n - 1) for n in (1, 2, 3)]
    [True, True, True]
    """
    doubled = patience.first_wait_seconds * 2.0 ** min(tried - 1, 60)
    longest = min(patience.most_wait_seconds, doubled)
    return longest * generator("wait", tried, *seed).uniform(0.5, 1.0)


@dataclass(kw_only=True)
class _Server:
    url: str
    asked: int = 0
    """Requests that are under way."""
    failed: int = 0
    """Failures since its last success."""
    rests_until: float = 0.0

    def ready(self, now: float) -> bool:
        """Whether it can be asked at once; one taken for dead, by one request at a time."""
        return self.rests_until <= now and not (self.failed >= DEAD_AFTER and self.asked)


Ending = Literal["answered", "failed", "unreachable"]
"""How a request to a server ended: with what only this request can have caused, a reply above all;
with anything that another server may do better; with nobody there."""

DEAD_AFTER = 3
"""Failures in succession after which a server is taken for dead; an unreachable one is at once. Chosen:
single requests fail on living servers."""

FIRST_REST_SECONDS = 1.0
"""Of a dead server; doubled with each further failure. Chosen."""

MOST_REST_SECONDS = 60.0
"""Longest rest before a dead server is tried again. Chosen."""


@dataclass(kw_only=True)
class Balance:
    """Several base URLs: the least busy living one is asked; a dead one rests, then is tried again.

    A server that refuses everything at once is always the least busy. It must not use up the tries
    of a request, so each goes first to the servers that have not failed it.
    """

    urls: tuple[str, ...]
    _servers: list[_Server] = field(init=False)

    def __post_init__(self) -> None:
        self._servers = [_Server(url=url) for url in self.urls]

    def choose(self, now: float, tried: Mapping[str, int] | None = None) -> tuple[str, float]:
        """The server to ask and how long to wait before; it counts as busy until `ended`.

        `tried`: how often each URL was asked for the same reply.
        """
        before = tried or {}
        ready = [server for server in self._servers if server.ready(now)]
        if ready:
            server = min(ready, key=lambda server: (before.get(server.url, 0), server.asked))
        else:
            server = min(self._servers, key=lambda server: (server.rests_until, server.asked))
        server.asked += 1
        return server.url, max(0.0, server.rests_until - now)

    def ended(self, url: str, now: float, how: Ending, *, rest_seconds: float = 0.0) -> None:
        """A request came to its end. `rest_seconds`: the server asked to be left alone."""
        server = next(server for server in self._servers if server.url == url)
        server.asked -= 1
        if how == "answered":
            server.failed = 0
        elif server.rests_until <= now:
            # Not while it rests: requests that were under way when it died tell nothing new.
            server.failed = max(server.failed + 1, DEAD_AFTER if how == "unreachable" else 0)
            if server.failed >= DEAD_AFTER:
                rest = FIRST_REST_SECONDS * 2.0 ** min(server.failed - DEAD_AFTER, 60)
                server.rests_until = now + min(rest, MOST_REST_SECONDS)
        server.rests_until = max(server.rests_until, now + rest_seconds)
