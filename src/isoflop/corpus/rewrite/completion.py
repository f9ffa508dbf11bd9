"""The bodies of OpenAI's chat completions: what is sent, and what comes back. Pure."""

import json
from email.utils import parsedate_to_datetime
from typing import Any

from isoflop.corpus.rewrite.messages import NoReply, Reply, Request
from isoflop.corpus.rewrite.reasons import Reason

QUOTED_CHARACTERS = 300
"""Of a server's words that are quoted."""

WAIT_AND_ASK_AGAIN = (408, 409, 425)
"""Client errors that time mends; besides 429 and all of 5xx."""

MOST_TOKENS = 2**32
"""Of one reply. No context is near it, and the sum of two billion such counts fits into 64 bits."""


def request_body(request: Request) -> dict[str, Any]:
    """The JSON of a request."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "max_tokens": request.sampling.max_new_tokens,
        "n": 1,
        "stream": False,
    }
    if request.sampling.seed is not None:
        body["seed"] = request.sampling.seed
    return body


def read_reply(body: bytes) -> Reply:
    """The reply in the body of a response with a status of success (2xx).

    JSON can hold half of a surrogate pair, which no file in UTF-8 can: it is read as U+FFFD.

    Raises:
        NoReply: malformed JSON, another schema, or no choices.
    """
    try:
        data = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise NoReply(Reason.MALFORMED_JSON, f"{error}: {_quoted(body)}") from None
    if not isinstance(data, dict) or not isinstance(data.get("choices"), list):
        raise NoReply(Reason.OTHER_SCHEMA, f"no list of choices: {_quoted(body)}")
    if not data["choices"]:
        raise NoReply(Reason.EMPTY_CHOICES, _quoted(body))
    choice = data["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or "content" not in message:
        raise NoReply(Reason.OTHER_SCHEMA, f"no message with content: {_quoted(body)}")
    content, finish = message["content"], choice.get("finish_reason")
    if not isinstance(content, str | None) or not isinstance(finish, str | None):
        raise NoReply(Reason.OTHER_SCHEMA, f"content or finish_reason is no text: {_quoted(body)}")
    served = data.get("model")
    return Reply(
        text=_whole_characters(content or ""),
        finish=finish,
        prompt_tokens=_tokens(data, "prompt_tokens"),
        completion_tokens=_tokens(data, "completion_tokens"),
        model=served if isinstance(served, str) else None,
    )


def read_failure(status: int, headers: dict[str, str], body: bytes, now: float) -> NoReply:
    """What a status other than success (2xx) means; `now` is the time since 1970 in seconds."""
    detail = f"status {status}: {_quoted(body)}"
    asked = retry_after_seconds(headers.get("retry-after"), now)
    if status == 429:
        return NoReply(Reason.RATE_LIMITED, detail, wait_seconds=asked)
    if status >= 500 or status in WAIT_AND_ASK_AGAIN:
        return NoReply(Reason.SERVER_ERROR, detail, wait_seconds=asked)
    return NoReply(Reason.REFUSED, detail)


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """The header Retry-After: seconds or a date (RFC 9110, section 10.2.3). None: not readable.

    >>> retry_after_seconds("2", 0.0), retry_after_seconds("soon", 0.0)
    (2.0, None)
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _whole_characters(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _tokens(data: dict[str, Any], name: str) -> int | None:
    usage = data.get("usage")
    value = usage.get(name) if isinstance(usage, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MOST_TOKENS else None


def _quoted(body: bytes) -> str:
    return " ".join(body[:QUOTED_CHARACTERS].decode("utf-8", "replace").split())
