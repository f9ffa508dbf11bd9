"""The score in a model's judgement, as models write it. Pure, linear time."""

import re

from isoflop.corpus.rewrite.reasons import Reason

BEST_SCORE = 10.0
"""Scores are 0 to 10: SGCR asks for 1 to 10 (arXiv:2505.02881), SwallowCode-v2 for 0 to 10."""

_EMPHASIS = re.compile(r"[*_`$\\]|\\text|boxed")
_NUMBER = r"(?<![\w.])(?P<number>[-\u2212]?[0-9]{1,9}(?:[.,][0-9]{1,9})?)(?![\w%])"
_OF_TEN = re.compile(
    rf"{_NUMBER}\s{{0,3}}(?:/|out of|of)\s{{0,3}}(?:10(?:[.,]0)?|ten)\b(?!\.[0-9])"
)
_NAMED = re.compile(
    r"\b(?:score|rating|grade|evaluation|rate(?:d)?)\b[^0-9\n\u2212-]{0,40}"
    rf"{_NUMBER}(?!\s{{0,3}}(?:/|to\b|out\b|of\b|[-\u2013]))",
    re.IGNORECASE,
)
_ANY = re.compile(_NUMBER)
_SCALE = re.compile(
    r"\b(?:from |between |scale of |scale from )?(?:0|1) ?(?:to|and|-|\u2013) ?10\b", re.IGNORECASE
)

MOST_CHARACTERS = 20_000
"""Of a judgement that are read. Chosen."""


def score_in(text: str) -> float | Reason:
    """The score that a judgement gives, or why there is none.

    "n of 10" counts before "score: n", and that before the only number of the text.

    >>> [score_in(t) for t in ("7/10", "Score: **8**", "I rate this 6.5 out of 10.", "7")]
    [7.0, 8.0, 6.5, 7.0]
    >>> score_in("12/10").value, score_in("8 or 9").value
    ('score out of range', 'no score')
    """
    plain = _SCALE.sub(" ", _EMPHASIS.sub("", text[:MOST_CHARACTERS]))
    match = _OF_TEN.search(plain) or _NAMED.search(plain)
    if match is None:
        numbers = [found for _, found in zip(range(2), _ANY.finditer(plain), strict=False)]
        if len(numbers) != 1:
            return Reason.NO_SCORE
        match = numbers[0]
    score = float(match["number"].replace(",", ".").replace("\u2212", "-"))
    return score if 0 <= score <= BEST_SCORE else Reason.SCORE_OUT_OF_RANGE
