"""Exact match of the final answer, without reading it as a number: the probes.

No torch, no regular expression and no arithmetic on what a model wrote, so that no output,
however hostile, can crash or stall it.
"""

from isoflop.graders.verdict import Verdict, unreadable
from isoflop.records import EvaluationItem

FINAL_ANSWER_MARK = "#"
"""In this project's arithmetic probe, between a worked solution and its final answer."""

MAX_CHARACTERS = 10_000
"""Of an answer; the probes' have a few."""


def final_answer_in(text: str, mark: str | None) -> str | None:
    """The part of `text` that is compared: what follows the last `mark`; None means all of it.

    Whitespace is normalised: none at the ends, one space inside. None if nothing
    is left or the mark is missing.

    >>> final_answer_in("a=3;b=2*a=6;#6", mark="#")
    '6'
    >>> final_answer_in("a=3;b=2*a=6", mark="#") is None
    True
    """
    if mark is not None:
        _, found, text = text.rpartition(mark)
        if not found:
            return None
    return " ".join(text.split()) or None


def grade(generated: str, final_answer: str, *, mark: str | None = None) -> Verdict:
    """Compare the final answer in `generated` with the gold one, letter by letter.

    Args:
        generated: what the model wrote, up to and without the end of text.
        final_answer: the gold answer, as in `EvaluationItem.final_answer`.
        mark: what precedes the final answer in a worked solution; None if the
            whole output is the answer.

    No number is parsed: "6.0", "06" and "+6" are not "6", since the tasks have
    one way to write an answer and the training text shows it.
    """
    answer = final_answer_in(generated, mark)
    if answer is None or len(answer) > MAX_CHARACTERS or unreadable(answer) is not None:
        return Verdict.UNGRADABLE
    gold = final_answer_in(final_answer, None)
    return Verdict.CORRECT if answer == gold else Verdict.WRONG


def grade_item(generated: str, item: EvaluationItem) -> Verdict:
    """`grade`, asking for the mark where the item's gold answer is a worked solution.

    It is one if its last mark is followed by the final answer: "C#" is none.
    """
    gold = final_answer_in(item.final_answer, None)
    worked = gold is not None and final_answer_in(item.answer, FINAL_ANSWER_MARK) == gold
    return grade(generated, item.final_answer, mark=FINAL_ANSWER_MARK if worked else None)
