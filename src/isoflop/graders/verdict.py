"""What a grader says."""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """Three verdicts: an answer that cannot be read is counted apart from a wrong one."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNGRADABLE = "ungradable"
    """No final answer given. Counts as wrong in the accuracy."""

    @property
    def correct(self) -> bool | None:
        """As in `AnswerRow.correct`: None for ungradable."""
        return None if self is Verdict.UNGRADABLE else self is Verdict.CORRECT


@dataclass(frozen=True, kw_only=True)
class Grade:
    """The verdict on one answer."""

    verdict: Verdict
    answer: str | None
    """The final answer in one spelling, by which equal answers vote together; None: ungradable."""
    reason: str | None
    """Why it is ungradable; None where it is not."""


def ungradable(reason: str) -> Grade:
    """The grade of an answer that cannot be read."""
    return Grade(verdict=Verdict.UNGRADABLE, answer=None, reason=reason)


def graded(answer: str, *, correct: bool) -> Grade:
    """The grade of an answer that can."""
    verdict = Verdict.CORRECT if correct else Verdict.WRONG
    return Grade(verdict=verdict, answer=answer, reason=None)


def unreadable(text: str) -> str | None:
    """What is in an answer that no person writes, so that it is neither right nor wrong; or None."""
    if "\x00" in text:
        return "a null byte"
    has_surrogates = any("\ud800" <= character <= "\udfff" for character in text)
    return "a lone surrogate" if has_surrogates else None
