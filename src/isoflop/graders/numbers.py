"""Numbers as people and models write them, read exactly.

Policy, where writing is ambiguous:
- Commas (or thin spaces) group digits in threes, or as in India (12,34,567). Digits that
  commas part in any other way are several numbers, of which the last counts: "1,2" is 2, as a
  comma for a decimal point cannot be told from a list.
- A percent sign and a currency sign are units: "50%" is 50, "$1.50" is 1.5.
- A fraction and a mixed number are what they say: "3/4", "2 1/2".
- The comparison is exact: "0.33" is not one third.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

MAX_DIGITS = 400
"""Of one number; more are no answer to anything, and cost quadratic time to read."""

MAX_EXPONENT = 300
"""Of scientific notation."""

_SPACES = "\u00a0\u2009\u202f"
_DIGITS = rf"[0-9]++(?:[,{_SPACES}][0-9]++)*+"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]++)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+"
_NUMBER = re.compile(
    rf"(?<![A-Za-z0-9_.])(?P<sign>[-+\u2212\u2013])?[ ]?\\?[$€£¥₹]?[ ]?(?P<sign_inside>[-\u2212])?"
    rf"(?P<whole>{_DECIMAL})(?:[ ]?/[ ]?(?P<under>[0-9]++)|[ ](?P<upper>[0-9]++)/(?P<lower>[0-9]++))?+"
    r"(?!\.[0-9])"
)
"""Possessive quantifiers never go back, so that a search is linear in the text. A sign after a
digit is a minus between two numbers; after a letter or a point, a hyphen."""

_PART_OF_FRACTION = r"\{[ ]?([-+]?[0-9.,]{1,50})[ ]?\}"
_LATEX_FRACTION = re.compile(
    rf"\\[dt]?frac(?:{_PART_OF_FRACTION}{_PART_OF_FRACTION}|[ ]?([0-9])[ ]?([0-9]))"
)
_CURRENCY = re.compile(
    r"(?<![A-Za-z])(?:Rs\.?|USD|EUR|GBP|INR|JPY|CNY|CAD|AUD)[ ]?(?=[-.]?[0-9])", re.IGNORECASE
)
_EMPHASIS = re.compile(r"(?<![A-Za-z0-9_)}\]\\])_{1,3}(?=[-+$]?[.0-9])")
"""Underscores before a number, which no word or subscript stands before."""
_LATEX_NOISE = re.compile(r"\\[!,;: ]|\\(?:left|right)\b|\{,\}")

_VULGAR_FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5),
    "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8),
    "⅞": (7, 8),
}  # fmt: skip
_AS_ASCII = str.maketrans(
    {sign: f" {upper}/{under}" for sign, (upper, under) in _VULGAR_FRACTIONS.items()}
    | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
)
"""Fractions that are one character, and the full-width digits of Chinese and Japanese text."""


def canonical_number(text: str) -> Fraction | None:
    """The number that `text` is, whatever sign, grouping or unit stands about it.

    None if it holds no number or more than one.

    >>> [str(canonical_number(text)) for text in ("$1,234.50", "-3/4", "2 1/2", "60 %", "x")]
    ['2469/2', '-3/4', '5/2', '60', 'None']
    """
    numbers = list(numbers_in(text))
    return numbers[0] if len(numbers) == 1 else None


def numbers_in(text: str) -> Iterator[Fraction]:
    """Every number, from left to right; one that is too long or over zero is left out."""
    for place in number_places(plain(text)):
        yield place.value


class NumberPlace(NamedTuple):
    """A number and where it stands in a text that is `plain`."""

    value: Fraction
    begin: int
    end: int


def number_places(text: str) -> Iterator[NumberPlace]:
    """As `numbers_in`, of a text that is `plain`, with their places."""
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None:
            yield NumberPlace(value, match.start(), match.end())


def match_number(text: str) -> NumberPlace | None:
    """The number that a `plain` text begins with."""
    match = _NUMBER.match(text)
    value = None if match is None else _value(match)
    return None if match is None or value is None else NumberPlace(value, 0, match.end())


def number_text(value: Fraction) -> str:
    """One spelling a number: a whole number, or a fraction in lowest terms."""
    return str(value)


def plain(text: str) -> str:
    """LaTeX's spaces and fractions of numbers, and other signs for digits, as ASCII has them.

    Without currencies' letters and emphasis before a number.
    """
    if not text.isascii():
        text = text.translate(_AS_ASCII)
    text = _EMPHASIS.sub(" ", _CURRENCY.sub("", text))
    if "\\" not in text and "{,}" not in text:
        return text
    text = _LATEX_NOISE.sub(lambda match: "," if match[0] == "{,}" else "", text)
    return _LATEX_FRACTION.sub(_fraction_as_text, text)


def _fraction_as_text(match: re.Match[str]) -> str:
    upper, lower = (canonical_number(match[place] or match[place + 2]) for place in (1, 2))
    if upper is None or not lower:
        return match[0].replace("\\", " ")
    value = upper / lower
    return f" {value.numerator}/{value.denominator}"


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > MAX_DIGITS:
        return None
    value = _decimal(match["whole"])
    if value is None:
        return None
    if match["under"] is not None:
        if not int(match["under"]):
            return None
        value /= int(match["under"])
    elif match["lower"] is not None:
        if not int(match["lower"]) or value.denominator != 1:
            return None
        value += Fraction(int(match["upper"]), int(match["lower"]))
    negative = (match["sign"] or "+") != "+" or match["sign_inside"] is not None
    return -value if negative else value


def _decimal(text: str) -> Fraction | None:
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_EXPONENT:
        return None
    whole, point, rest = mantissa.partition(".")
    groups = re.split(rf"[,{_SPACES}]", whole)
    digits = "".join(groups) if _is_grouped([len(group) for group in groups]) else groups[-1]
    value = Fraction((digits or "0") + (point + rest if rest else ""))
    return value * Fraction(10) ** int(exponent or 0)


def _is_grouped(lengths: list[int]) -> bool:
    """Whether parts of these lengths are one number: thousands, or lakhs and crores."""
    if len(lengths) == 1:
        return True
    thousands = 1 <= lengths[0] <= 3 and all(length == 3 for length in lengths[1:])
    middle = lengths[1:-1]
    indian = 1 <= lengths[0] <= 2 and bool(middle) and all(length == 2 for length in middle)
    return thousands or (indian and lengths[-1] == 3)
