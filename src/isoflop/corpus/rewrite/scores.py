"""The score in a model's judgement, as models write it. Pure, linear time."""

import re
import unicodedata

from isoflop.corpus.rewrite.reasons import Reason

BEST_SCORE = 10.0
"""Scores are 0 to 10: SGCR asks for 1 to 10 (arXiv:2505.02881), SwallowCode-v2 for 0 to 10."""

_EMPHASIS = re.compile(r"[*_`$\\]|\\text|boxed")

_SCALES = (
    # A bracket that holds 10 and more than a number, before the score: "(max 10):", "[0..10] 6".
    re.compile(
        r"[(\[](?![^()\[\]\n]{0,40}[0-9]\s{0,3}(?:/|out of|of)\s{0,3}(?:10|ten)\b)"
        r"(?=[^()\[\]\n]{0,40}[^\s\d.,()\[\]])[^()\[\]\n]{0,40}\b10\b[^()\[\]\n]{0,20}[)\]]"
        r"(?=\s{0,3}[:=]|\s{1,3}[0-9])",
        re.IGNORECASE,
    ),
    re.compile(
        r"\b(?:from |between |scale of |scale from )?(?:0|1) ?(?:to|and|-|\u2013|\.\.\.?) ?10\b",
        re.IGNORECASE,
    ),
    # "Score out of 10: 6"; not the end of "6 out of 10".
    re.compile(
        r"(?<=[a-z(\[])[ ,]{0,2}\b(?:out of|max\.?|maximum|on) ?(?:10|ten)\b", re.IGNORECASE
    ),
)
"""What a judgement says about its scale, which is no score."""

_ANY = r"(?<![\w.])(?P<number>[-\u2212]?[0-9]{1,9}(?:[.,][0-9]{1,9})?)(?![\w%])"
# NFKC writes a half as 1, U+2044, 2.
_NUMBER = rf"(?<!\u2044){_ANY}(?!\u2044|\s{{0,2}}=)"
_COUNTED = (
    r"(?![ \t]{1,3}(?:of )?(?:the |its |all |public |private |test |unit )?(?:functions?|methods?"
    r"|class(?:es)?|lines?|tests?|cases?|variables?|names?|files?|docstrings?|comments?|arguments?|parameters?|criteria"
    r"|aspects?|items?|checks?|rules?|modules?|statements?|loops?|imports?|categories|principles)\b)"
)
"""Things that a judgement counts: "2 of 10 functions" is no score."""
_TENTH = rf"\s{{0,3}}(?:/|out of|of)\s{{0,3}}(?:10(?:[.,]0)?|ten)\b(?!\.[0-9]){_COUNTED}"
_NO_PART = rf"(?!\s{{0,3}}(?:/|to\b|or\b|out\b|of\b|[-\u2013]\s{{0,3}}[0-9])){_COUNTED}"
_LABEL = (
    r"\b(?:(?P<whole>overall|total|final)(?: (?:score|rating|grade|evaluation|verdict|mark))?"
    r"|score|rating|grade|evaluation|rated?)\b"
)
_WORDS = r"[^0-9\n\u2212-]{0,40}"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_KINDS = (
    # "Overall score: 8", "Score - 6/10": the surest.
    _compiled(
        rf"{_LABEL}[ \t()\[\]\"']{{0,8}}(?:[:=]|[-\u2013](?=\s)|is\b|(?<!evaluation )of\b)"
        rf"[ \t(\[\"']{{0,4}}{_NUMBER}(?:{_TENTH}|{_NO_PART})"
    ),
    # "I rate this 6 out of 10"; what else is said of tenths may be a part of it.
    _compiled(rf"{_LABEL}{_WORDS}{_NUMBER}{_TENTH}"),
    _compiled(rf"{_NUMBER}{_TENTH}"),
    _compiled(rf"{_LABEL}{_WORDS}{_NUMBER}{_NO_PART}"),
)
"""Ways to give a score, the surest first."""

MOST_CHARACTERS = 20_000
"""Of a judgement that are read. Chosen."""


def score_in(text: str) -> float | Reason:
    """The score that a judgement gives, or why there is none.

    "Score: n" counts before "n of 10", and that before the only number of the text. An overall score
    counts before those of criteria. Scores of one kind that differ are none.

    >>> [score_in(t) for t in ("7/10", "Score: **8** (before: 5/10)", "I rate this 6.5 out of 10.", "7")]
    [7.0, 8.0, 6.5, 7.0]
    >>> score_in("12/10").value, score_in("8 or 9").value
    ('score out of range', 'no score')
    """
    plain = _EMPHASIS.sub("", unicodedata.normalize("NFKC", text[:MOST_CHARACTERS]))
    for scale in _SCALES:
        plain = scale.sub(" ", plain)
    values = next(filter(None, (_values(kind, plain) for kind in _KINDS)), [])
    if not values:
        values = [_value(match) for match in re.finditer(_ANY, plain)]
        if len(values) > 1:  # Even of one value: "3 of 3 functions".
            return Reason.NO_SCORE
    if len(set(values)) != 1:
        return Reason.NO_SCORE
    score = values[0]
    return score if 0 <= score <= BEST_SCORE else Reason.SCORE_OUT_OF_RANGE


def _values(kind: re.Pattern[str], text: str) -> list[float]:
    """All numbers that are given in one way; those of the whole alone where there are any."""
    found = list(kind.finditer(text))
    whole = [match for match in found if match.groupdict().get("whole")]
    return [_value(match) for match in whole or found]


def _value(match: re.Match[str]) -> float:
    return float(match["number"].replace(",", ".").replace("\u2212", "-"))
