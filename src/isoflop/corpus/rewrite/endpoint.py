"""Any OpenAI-compatible endpoint, or several: the only module of this package that opens connections.

vLLM, SGLang, text-generation-inference, hosted services: all answer ``POST URL/chat/completions``. A
request is sent again after whatever time may mend; what came of every single request is counted.
"""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from isoflop.config import UserError
from isoflop.corpus.rewrite.completion import read_failure, read_reply, request_body
from isoflop.corpus.rewrite.messages import NoReply, Reply, Request
from isoflop.corpus.rewrite.reasons import Reason
from isoflop.corpus.rewrite.retry import Balance, Ending, Patience, wait_seconds

MOST_BODY_BYTES = 64 * 2**20
"""Of a response; a longer one is no chat completion. Chosen."""

CONNECT_SECONDS = 30.0
"""For a connection to be made; a server that drops packets says nothing. Chosen."""

SETTING_IS_WRONG = {
    401: "the key is wrong or missing: set the variable that --api-key-variable names",
    403: "the key may not use this model: use another",
    404: "there is no such model or path: see --model and --endpoint",
    405: "this is no chat completion endpoint: --endpoint ends with /v1 on most servers",
}
"""Statuses that no text can have caused."""

ANSWERED = "answered"
"""The name under which replies are counted."""

_KEY = re.compile(r"[!-~]+")
"""What a header can hold: printable ASCII without white space."""

Count = Callable[[str], None]
"""Called with what came of each request."""


def read_api_key(variable: str) -> str | None:
    """The key in an environment variable; None where it is unset or empty.

    Raises:
        UserError: it holds what no header can: another letter than ASCII's, white space, a line end.
    """
    key = os.environ.get(variable)
    if not key:
        return None
    if _KEY.fullmatch(key) is None:
        raise UserError(
            f"the key in {variable} must be printable ASCII without white space or line ends: "
            "set it again"
        )
    return key


class Endpoint:
    """One or several base URLs that serve the same model."""

    def __init__(
        self,
        urls: tuple[str, ...],
        *,
        patience: Patience,
        count: Count,
        api_key: str | None = None,
        seed: int = 0,
        most_connections: int = 64,
    ) -> None:
        """`seed`: of the waits. `most_connections`: requests at one time.

        Raises:
            UserError: a URL is none, or httpx is not installed.
        """
        self._httpx = _httpx()
        self._balance = Balance(urls=tuple(self._checked(url) for url in urls))
        self._patience = patience
        self._count = count
        self._seed = seed
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._most_connections = most_connections
        self._client: Any = None

    async def ask(self, request: Request) -> Reply:
        """The reply, from whichever server gives one, after as many tries as patience allows.

        Raises:
            NoReply: the last failure.
            UserError: the key, the URL or the model is wrong.
        """
        body, name = request_body(request), request.key().hex()
        tried: Counter[str] = Counter()
        while True:
            try:
                reply = await self._try(body, tried)
            except NoReply as problem:
                self._count(problem.reason.value)
                if problem.reason is Reason.REFUSED or tried.total() >= self._patience.tries:
                    raise
                await asyncio.sleep(wait_seconds(self._patience, tried.total(), self._seed, name))
            else:
                self._count(ANSWERED)
                return reply

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _try(self, body: dict[str, Any], tried: Counter[str]) -> Reply:
        """One request to one server, which is counted in `tried`."""
        url, rest = self._balance.choose(time.monotonic(), tried)
        tried[url] += 1
        how: Ending = "failed"
        asked_rest = 0.0
        try:
            await asyncio.sleep(rest)
            async with asyncio.timeout(self._patience.request_seconds):
                reply = await self._send(url, body)
            how = "answered"
            return reply
        except TimeoutError:
            seconds = self._patience.request_seconds
            raise NoReply(Reason.TIME_OUT, f"{url}: no reply in {seconds:g} s") from None
        except NoReply as problem:
            how = _ending(problem.reason)
            limit = self._patience.most_asked_wait_seconds
            asked_rest = min(problem.wait_seconds or 0.0, limit)
            raise
        finally:
            self._balance.ended(url, time.monotonic(), how, rest_seconds=asked_rest)

    async def _send(self, url: str, body: dict[str, Any]) -> Reply:
        httpx, content = self._httpx, bytearray()
        try:
            async with self._open().stream(
                "POST", f"{url}/chat/completions", json=body
            ) as response:
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > MOST_BODY_BYTES:
                        raise NoReply(Reason.OTHER_SCHEMA, f"{url}: over {MOST_BODY_BYTES} bytes")
        except httpx.TransportError as error:
            raise _failed(httpx, error, url) from None
        except httpx.DecodingError as error:
            raise NoReply(Reason.INCOMPLETE_BODY, f"{url}: {error}") from None
        if response.is_success:
            return read_reply(bytes(content))
        if response.status_code in SETTING_IS_WRONG or 300 <= response.status_code < 400:
            raise _wrong_setting(url, response.status_code, bytes(content))
        headers = {name.lower(): value for name, value in response.headers.items()}
        raise read_failure(response.status_code, headers, bytes(content), time.time())

    def _open(self) -> Any:
        """The client, made inside the running loop."""
        if self._client is None:
            limits = self._httpx.Limits(
                max_connections=self._most_connections,
                max_keepalive_connections=self._most_connections,
            )
            # The time of a whole request is bounded by `_try`, also where bytes trickle.
            timeout = self._httpx.Timeout(None, connect=CONNECT_SECONDS)
            self._client = self._httpx.AsyncClient(
                limits=limits, timeout=timeout, headers=self._headers
            )
        return self._client

    def _checked(self, url: str) -> str:
        try:
            parsed = self._httpx.URL(url)
        except (self._httpx.InvalidURL, TypeError) as error:
            raise UserError(f"endpoint {url!r} is no URL: {error}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UserError(f"endpoint {url!r} must look like http://127.0.0.1:8000/v1")
        return url.rstrip("/")


def _ending(reason: Reason) -> Ending:
    """A server that answers nonsense, or that it cannot answer, does no work either."""
    if reason is Reason.CONNECTION_REFUSED:
        return "unreachable"
    return "answered" if reason is Reason.REFUSED else "failed"


def _failed(httpx: Any, error: Exception, url: str) -> NoReply:
    """What a failed transport was, by name."""
    words = f"{url}: {str(error) or type(error).__name__}"
    if isinstance(error, httpx.TimeoutException):
        return NoReply(Reason.TIME_OUT, words)
    if isinstance(error, httpx.ConnectError):
        return NoReply(Reason.CONNECTION_REFUSED, words)
    if isinstance(error, httpx.RemoteProtocolError) and "body" in str(error):
        return NoReply(Reason.INCOMPLETE_BODY, words)
    return NoReply(Reason.CONNECTION_LOST, words)


def _wrong_setting(url: str, status: int, body: bytes) -> UserError:
    remedy = SETTING_IS_WRONG.get(status, "the server sends elsewhere: name that URL")
    return UserError(f"{url}: {read_failure(status, {}, body, 0.0).detail}; {remedy}")


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise UserError(
            "asking an endpoint needs httpx; run: pip install 'isoflop[corpus]'"
        ) from None
    return httpx
