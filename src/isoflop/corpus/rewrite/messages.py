"""What is asked of a model and what it answers: values only, and the name that a request has."""

import hashlib
import json
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from isoflop.config import UserError
from isoflop.corpus.rewrite.reasons import Reason

FINISHED = ("stop", "eos", "eos_token", "end_turn", "stop_sequence")
"""Finish reasons of a model that ended by itself, by server; "stop" is OpenAI's."""

CUT = ("length", "max_tokens", "max_length", "model_length")
"""Finish reasons of a reply that reached its limit."""

FILTERED = ("content_filter", "safety")
"""Finish reasons of a reply that the provider cut or withheld."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How replies are drawn. Defaults: arXiv:2505.02881, appendix on rewriting."""

    temperature: float = 0.2
    top_p: float = 0.7
    max_new_tokens: int = 8192
    seed: int | None = None
    """None: none is sent; not every endpoint takes one."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise UserError(f"temperature={self.temperature} must be between 0 and 2")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a model."""

    model: str
    prompt_digest: str
    messages: tuple[Message, ...]
    sampling: Sampling
    attempt: int
    """1, or 2 and so on for a request that says what was wrong with the reply before."""

    def key(self) -> bytes:
        """The request's name in the store: 256 bits over all that the reply depends on."""
        parts = [
            self.model,
            self.prompt_digest,
            [[message.role, message.content] for message in self.messages],
            [self.sampling.temperature, self.sampling.top_p],
            [self.sampling.max_new_tokens, self.sampling.seed],
            self.attempt,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).digest()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model answered. Stored before it is used."""

    text: str
    finish: str | None
    """The finish reason as the server wrote it."""
    prompt_tokens: int | None
    """As the server counted; None: it did not say."""
    completion_tokens: int | None
    model: str | None = None
    """The model as the server names it."""

    def problem(self) -> Reason | None:
        """Why the reply as a whole cannot be read; a cut one may hold what is needed."""
        if self.finish in FILTERED:
            return Reason.FILTERED
        if self.finish not in FINISHED + CUT:
            return Reason.UNKNOWN_FINISH
        if not self.text.strip():
            return Reason.EMPTY_REPLY if self.finish in FINISHED else Reason.TRUNCATED
        return None

    @property
    def complete(self) -> bool:
        """Whether the model ended by itself."""
        return self.finish in FINISHED


class NoReply(Exception):  # noqa: N818 - a fact about an endpoint, not a mistake
    """There is no reply. `Reason.REFUSED` is final; after any other, asking again may help."""

    def __init__(self, reason: Reason, detail: str, *, wait_seconds: float | None = None):
        """`wait_seconds`: how long the server asked to be left alone."""
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.wait_seconds = wait_seconds


@runtime_checkable
class Backend(Protocol):
    """Anything that answers requests: an endpoint, a fleet of them, an engine in this process."""

    async def ask(self, request: Request) -> Reply:
        """The reply.

        Raises:
            NoReply: there is none, after all tries.
            UserError: no request can be answered as things are.
        """

    async def close(self) -> None:
        """Let go of connections or of the engine."""
