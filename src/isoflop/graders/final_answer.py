"""The number that a worked solution ends in, as GSM8K and its kin ask for.

Two readings, reported side by side, since scores move by many points between them:

    strict     only what follows the last mark ("####", "The answer is", "Answer:"):
               did the model answer in the form that it was shown?
    flexible   the same, and where there is no mark, the last number of the text

Source of the marks: arXiv:2508.18672, appendix B, an extension of the lm-evaluation-harness's
strict match.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from isoflop.graders.numbers import canonical_number, number_text, numbers_in
from isoflop.graders.verdict import Grade, graded, ungradable, unreadable

Extraction = Literal["strict", "flexible"]

MARKS = ("####", "the answer is", "answer:")
"""What announces a final answer; case does not matter."""

MAX_CHARACTERS = 100_000
"""Of a text that is read; from a longer one, its end."""

STATEMENT_CHARACTERS = 500
"""After a mark: a final answer is short."""


def grade_math(
    text: str, gold: str, extraction: Extraction, *, marks: Sequence[str] = MARKS
) -> Grade:
    """Compare the final number in `text` with `gold`, exactly.

    A gold that is no number ("None" in GSM-Plus, for a question without an answer) is
    compared with the words after the mark.
    """
    text = text[-MAX_CHARACTERS:]
    stated = _after_last_mark(text, marks)
    wanted = canonical_number(gold)
    if wanted is None:
        return _grade_words(stated, gold)
    if stated is None and extraction == "strict":
        return ungradable("no mark before a final answer")
    found = _stated_number(stated) if stated is not None else _last(text)
    if found is None and extraction == "flexible":
        found = _last(text)
    if found is None:
        return ungradable("no number" if stated is None else "no number after the mark")
    return graded(number_text(found), correct=found == wanted)


def _after_last_mark(text: str, marks: Sequence[str]) -> str | None:
    """The line after the last of the marks, or the next one where that is empty."""
    any_mark = re.compile("|".join(map(re.escape, marks)), re.IGNORECASE)
    ends = [match.end() for match in any_mark.finditer(text)]
    if not ends:
        return None
    rest = text[ends[-1] :][:STATEMENT_CHARACTERS].strip(" :*$\t\r\n")
    return rest.split("\n", 1)[0]


def _stated_number(statement: str) -> Fraction | None:
    """The first number of a statement; the one after the last "=" where it calculates."""
    _, calculates, result = statement.rpartition("=")
    return next(numbers_in(result if calculates else statement), None)


def _last(text: str) -> Fraction | None:
    found = None
    for found in numbers_in(text):  # noqa: B007 - read after the loop
        pass
    return found


def _grade_words(stated: str | None, gold: str) -> Grade:
    answer = " ".join((stated or "").lower().strip(" .").split())
    problem = unreadable(answer) if answer else "no answer after a mark"
    if problem is not None:
        return ungradable(problem)
    return graded(answer, correct=answer == " ".join(gold.lower().split()))
