"""What every parser of replies needs: what a parser says, and a reply freed of its frame. Pure."""

import re
from dataclasses import dataclass

from isoflop.corpus.rewrite.markdown import open_fences
from isoflop.corpus.rewrite.reasons import Note, Reason

DETAIL_CHARACTERS = 120
"""Longest quotation of a reply in a row's detail."""

_THINKING = "(?:think|thinking|thought|reasoning)"
_OPENED = re.compile(rf"\s*<{_THINKING}>", re.IGNORECASE)
_OPENS = re.compile(rf"<{_THINKING}>", re.IGNORECASE)
_CLOSED = re.compile(rf"</{_THINKING}>", re.IGNORECASE)
_LAST_TOKEN = re.compile(r"(?:<\|[A-Za-z_]{1,40}\|>|</s>|<end_of_turn>)\Z")
LAST_TOKEN_CHARACTERS = 44
"""Of the longest that `_LAST_TOKEN` knows."""
_DECLINES = re.compile(
    r"\s*(?:I(?:'|\u2019)m sorry|I am sorry|Sorry,|I apologi[sz]e|I can(?:no|')t |I cannot |I am unable"
    r"|I(?:'|\u2019)m unable|As an AI)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A reply that can be used."""

    text: str | None
    """The new text; None: the stage judges and changes nothing."""
    score: float | None = None
    """0 to 10."""
    suggestions: tuple[str, ...] = ()
    question: str | None = None
    """The user's turn of an instruction pair."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A reply that cannot be used, and why."""

    reason: Reason
    detail: str
    score: float | None = None
    """A judgement may be there although the text is not."""
    text: str | None = None
    """The text that was made and has a flaw."""


def without_thinking(reply: str, *, complete: bool) -> str | Unusable:
    """The reply after the model's thinking, which stands in tags before it.

    Some chat templates open the tag in the prompt, so that only its end is in the reply.
    """
    opened = _OPENED.match(reply)
    closed = _CLOSED.search(reply, opened.end()) if opened else _closed_by_template(reply)
    if closed is not None:
        reply = reply[closed.end() :]
    elif opened is not None:
        reason = Reason.UNCLOSED_THINKING if complete else Reason.TRUNCATED
        return Unusable(reason=reason, detail=quoted(reply))
    reply = _without_last_tokens(reply)
    if not reply.strip():
        reason = Reason.EMPTY_REPLY if complete else Reason.TRUNCATED
        return Unusable(reason=reason, detail="nothing but thinking or white space")
    return reply


def _without_last_tokens(reply: str) -> str:
    """The reply without white space and a template's tokens at its end."""
    reply = reply.rstrip()
    while match := _LAST_TOKEN.search(reply, max(0, len(reply) - LAST_TOKEN_CHARACTERS)):
        reply = reply[: match.start()].rstrip()
    return reply


def declines(reply: str) -> bool:
    """Whether a reply begins as a refusal does."""
    return _DECLINES.match(reply) is not None


def quoted(text: str) -> str:
    """How a text begins, on one line, as UTF-8 can hold it."""
    short = " ".join(text.lstrip()[: 4 * DETAIL_CHARACTERS].split())[:DETAIL_CHARACTERS]
    return short.encode("utf-8", "backslashreplace").decode("utf-8")


def noted(*notes: Note | None) -> tuple[str, ...]:
    """The notes that there are, as text."""
    return tuple(note.value for note in notes if note is not None)


def _closed_by_template(reply: str) -> re.Match[str] | None:
    """The tag that ends thinking whose beginning stands in the prompt; None: there is no thinking.

    Thinking holds drafts in fences, and code may hold the tag. So a tag in an open block is the code's,
    unless it fills its line and nothing in the block opened it: a draft without its last fence. Behind
    a block, a tag within a sentence is one that the sentence is about.
    """
    if _CLOSED.search(reply) is None:
        return None
    start, after_block, opened_inside = 0, False, False
    for line, is_open in open_fences(reply):
        closed = _CLOSED.search(reply, start, start + len(line))
        rest = _CLOSED.sub("", line).strip()
        opened_inside = is_open and (opened_inside or _OPENS.search(line) is not None)
        if closed is not None and (
            (rest == "" and not opened_inside)
            or (not is_open and (not after_block or _at_an_edge(line)))
        ):
            return closed
        after_block = after_block or is_open
        start += len(line) + 1
    return None


def _at_an_edge(line: str) -> bool:
    """Whether the tag begins or ends its line."""
    line = line.strip()
    closed = list(_CLOSED.finditer(line))
    return closed[0].start() == 0 or closed[-1].end() == len(line)
