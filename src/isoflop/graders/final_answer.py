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

from isoflop.graders.numbers import canonical_number, number_places, number_text, plain
from isoflop.graders.stated import scaled, stated_number
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
    wanted = _number_of_gold(gold)
    if wanted is None:
        return _grade_words(stated, gold)
    if stated is None and extraction == "strict":
        return ungradable("no mark before a final answer")
    found = _last(text) if stated is None else stated_number(stated)
    if found is None and stated is not None and next(number_places(plain(stated)), None):
        return ungradable("a calculation after the mark that cannot be read")
    if found is None and extraction == "flexible":
        found = _last(text)
    if found is None:
        return ungradable("no number" if stated is None else "no number after the mark")
    return graded(number_text(found), correct=found == wanted)


def _number_of_gold(gold: str) -> Fraction | None:
    """As a person wrote it: one number, with the word behind it that multiplies it."""
    if canonical_number(gold) is None:
        return None
    return _last(gold)


def _after_last_mark(text: str, marks: Sequence[str]) -> str | None:
    """The line after the last of the marks, or the next one where that is empty."""
    # Bold type may end before the colon: "**Answer**: 18".
    patterns = [re.escape(mark).replace(":", "[*_]{0,3}:") for mark in marks]
    found = list(re.compile("|".join(patterns), re.IGNORECASE).finditer(text))
    if not found:
        return None
    end = found[-1].end()
    if len(found) > 1 and not text[end:].split("\n", 1)[0].strip():
        # As in "#### 18 ####", where the last mark closes the line.
        between = text[found[-2].end() : found[-1].start()]
        if between.strip() and "\n" not in between:
            end = found[-2].end()
    rest = text[end:][:STATEMENT_CHARACTERS].strip(" :*$\t\r\n")
    return rest.split("\n", 1)[0]


def _last(text: str) -> Fraction | None:
    readable = plain(text)
    found = None
    for found in number_places(readable):  # noqa: B007 - read after the loop
        pass
    return None if found is None else scaled(found.value, readable[found.end : found.end + 20])


def _grade_words(stated: str | None, gold: str) -> Grade:
    answer = " ".join((stated or "").lower().strip(" .").split())
    problem = unreadable(answer) if answer else "no answer after a mark"
    if problem is not None:
        return ungradable(problem)
    return graded(answer, correct=answer == " ".join(gold.lower().split()))
