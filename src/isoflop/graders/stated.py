"""The number that a short statement gives: "9 * 2 = 18", "36 million", "18 eggs for 2 days".

Policy, beside that of `numbers`:
- The first number counts. What stands behind "=" counts instead where what stands before it
  calculates or holds no number: "9 * 2 = 18" is 18, "15 = 5 x 3" is 15, "7, where x = 9" is 7.
- A calculation that is left open is worked out where it needs no brackets: "2 * 18" is 36,
  "36^2" is 1296. A minus could be a range ("3-4"), an exclamation mark a factorial, and a fraction
  of letters anything: these give no number.
- thousand to trillion multiply.
"""

import re
from fractions import Fraction

from isoflop.graders.numbers import match_number, number_places, plain

MAX_POWER_BITS = 4000
"""Of a power that is worked out. Chosen."""

_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(rf"[ ]*({'|'.join(_SCALES)})s?\b", re.IGNORECASE)
_OPERATOR = re.compile(
    r"(?P<before>[ ]*)(?P<sign>\*\*|\\times|\\cdot|\\div|[*/^\u00d7·÷+xX\u2212\u2013-])(?P<after>[ ]*)\{?"
)
_WORDED = ("\\times", "\\cdot", "\\div", "\u00d7", "·", "÷", "^", "/")
"""Signs that need no equal spaces on both sides to be operators; others may be emphasis or a word."""

_DIVIDES, _ADDS, _POWERS = ("/", "\\div", "÷"), ("+",), ("^", "**")
_MINUS = ("-", "\u2212", "\u2013")
_DEGREES = re.compile(r"\^[ ]?\{?(?:\\circ|°)")
_OPERATION = re.compile(
    r"[\w)}%][ ]*(?:[-+*/\u00d7÷·^\u2212]|\\times|\\cdot|\\div)[ ]*[$€£¥₹\\(]*[0-9.]"
    r"|[0-9][ ]*[xX][ ]*\$?[0-9]|[0-9][^=]{0,20} [-+*/\u00d7÷] "
)
_ASIDE = re.compile(r"[,;] *(?:where|since|because|as|with|when|if|given|for|so)\b", re.IGNORECASE)


def stated_number(statement: str) -> Fraction | None:
    """The number, or None where there is none or it cannot be told.

    >>> [str(stated_number(text)) for text in ("9 * 2 = 18", "7 (3 = 3)", "36 million", "3-4")]
    ['18', '7', '36000000', 'None']
    """
    text = plain(statement)
    before, equals, _ = text.partition("=")
    if equals and _calculates(before):
        text = text.rpartition("=")[2]
    first = next(number_places(text), None)
    if first is None or "\\frac" in text[: first.begin]:
        return None
    return _worked_out(first.value, text[first.end :])


def scaled(value: Fraction, rest: str) -> Fraction:
    """A number with the word behind it that multiplies it."""
    word = _SCALE.match(rest)
    return value if word is None else value * _SCALES[word[1].lower()]


def _calculates(before: str) -> bool:
    """Whether the number that is meant stands behind the sign that follows this text."""
    first = next(number_places(before), None)
    if first is None:
        return True
    aside = _ASIDE.search(before)
    opened = before.rfind("(")
    is_inside = before.count("(") > before.count(")") and opened > first.begin
    if is_inside or (aside is not None and aside.start() > first.begin):
        return False
    return _OPERATION.search(before) is not None


def _worked_out(value: Fraction, rest: str) -> Fraction | None:
    """The value of a calculation that begins with `value`; None where it cannot be told."""
    total, product, factor, divides = Fraction(0), Fraction(1), value, False
    while (found := _OPERATOR.match(rest)) is not None and _DEGREES.match(rest) is None:
        sign, behind = found["sign"], rest[found.end() :]
        right = match_number(behind)
        even = bool(found["before"]) == bool(found["after"])
        if right is None or not (even or sign in _WORDED):
            if sign in ("^", "\\times", "\\cdot", "\\div") or (even and behind.startswith("(")):
                return None
            break
        if sign in _MINUS or (divides and not factor):
            return None
        rest = behind[right.end :].removeprefix("}")
        if sign in _POWERS:
            power = _power(factor, right.value)
            if power is None:
                return None
            factor = power
            continue
        product = product / factor if divides else product * factor
        factor, divides = right.value, sign in _DIVIDES
        if sign in _ADDS:
            total, product = total + product, Fraction(1)
    if (rest.startswith("!") and not rest.startswith("!=")) or (divides and not factor):
        return None
    return scaled(total + (product / factor if divides else product * factor), rest)


def _power(left: Fraction, exponent: Fraction) -> Fraction | None:
    bits = max(left.numerator.bit_length(), left.denominator.bit_length())
    whole = int(exponent)
    if whole != exponent or bits * abs(whole) > MAX_POWER_BITS or (not left and whole < 0):
        return None
    return left**whole
