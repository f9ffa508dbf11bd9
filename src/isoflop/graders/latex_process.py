"""The process in which LaTeX answers are compared: questions in, replies out, a line of JSON each.

Started by latex.py. A question that takes more processor time than it may ends the process by a
signal that the kernel delivers, so also inside C code and where a library catches every exception.

Equality is math-verify's (0.9): "x=5" is 5 where 5 is asked for, and so it votes with it.
"""

import hashlib
import itertools
import json
import logging
import re
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any

from isoflop.graders.verdict import unreadable

MEMORY_BYTES = 2 << 30
"""Address space; SymPy needs 0.3 GB."""

KEY_CHARACTERS = 300
"""Of an expression's text that names it in a vote; a longer one is named by its beginning and
the digest of all of it."""

_SPACED_THOUSANDS = re.compile(r"(?<=[0-9])(?:\\[,;:! ]|~)(?=[0-9]{3}(?![0-9]))")
_IN_BASE = re.compile(r"\s*([0-9][0-9A-Fa-f]{0,100})\s*_\s*\{?\s*([0-9]{1,2})\s*\}?\s*\}?")
_MIXED_NUMBER = re.compile(
    r"(?<![0-9./])([0-9]{1,20})[ ]([0-9]{1,20})/([0-9]{1,20})(?![0-9/]|[.][0-9])"
)


def compare(text: str, gold: str) -> dict[str, Any]:
    """The final expression of `text` and whether it equals the gold answer.

    The last box counts, as in MATH's own evaluation (Hendrycks et al. 2021, arXiv:2103.03874);
    where it alone is wrong, all boxes together may be right: "\\boxed{1} and \\boxed{2}". The
    answer is of the reading that is right, or else of the last box: texts with one answer have, as
    a rule, one verdict.
    """
    wanted = _expressions(f"\\boxed{{{gold}}}", []) or _expressions(gold, [])
    if not wanted or unreadable(gold) is not None:
        return {"problem": f"the gold answer {gold[:60]!r} cannot be read"}
    box = last_box(text)
    last = text if box is None else box
    if unreadable(last) is not None:
        return {"problem": f"{unreadable(last)} in the answer"}
    closing = last if box is not None else last.rstrip(" $.\n").rpartition(" ")[2]
    bases = [_digits_and_base(one) for one in (gold, closing)]
    if None not in bases and bases[0] != bases[1]:
        # The library leaves the base out.
        return {"problem": None, "answer": "_".join(bases[1] or ()), "correct": False}
    failures: list[Exception] = []
    readings = [
        found for one in dict.fromkeys((last, text)) if (found := _expressions(one, failures))
    ]
    right = next((found for found in readings if _is_equal(wanted, found, failures)), None)
    if right is None and failures:
        # That another reading differs does not make wrong what could not be read or compared.
        raise failures[0]
    if not readings:
        return {"problem": "no mathematical expression"}
    answer = vote_key(readings[0] if right is None else right)
    return {"problem": None, "answer": answer, "correct": right is not None}


def _plain_numbers(text: str) -> str:
    """Numbers that math-verify misreads, written so that it does not: it takes the sum of 1\\,234
    (235), and 2 1/2 for (2+1)/2.

    >>> _plain_numbers("1\\\\,234 and 2 1/2")
    '1234 and \\\\frac{5}{2}'
    """
    return _MIXED_NUMBER.sub(_as_fraction, _SPACED_THOUSANDS.sub("", text))


def _digits_and_base(text: str) -> tuple[str, str] | None:
    """Of a whole number written with its base, and nothing else, boxed or not.

    >>> _digits_and_base("\\\\boxed{102_{3}}"), _digits_and_base("x_1")
    (('102', '3'), None)
    """
    found = _IN_BASE.fullmatch(text.strip(" $.").removeprefix("\\boxed{"))
    return None if found is None else (found[1].upper().lstrip("0") or "0", found[2])


def _as_fraction(mixed: re.Match[str]) -> str:
    whole, upper, under = map(int, mixed.groups())
    return rf"\frac{{{whole * under + upper}}}{{{under}}}"


def _is_equal(wanted: Sequence[Any], found: Sequence[Any], failures: list[Exception]) -> bool:
    """Whether any form of the answer equals any of the gold one; comparisons that failed are added
    to `failures`. The library alone would call them unequal."""
    from math_verify import verify

    for gold, answer in itertools.product(wanted, found):
        try:
            # The library's own time limit uses a signal; this process is ended instead.
            if verify(gold, answer, timeout_seconds=None, raise_on_error=True):
                return True
        except Exception as error:  # noqa: BLE001 - kept, not swallowed
            failures.append(error)
    return False


def vote_key(expressions: Sequence[Any]) -> str:
    """By what an answer votes: its first reading as text, of a long one beginning and digest."""
    text = _plain_text(expressions[0])
    if len(text) <= KEY_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[: KEY_CHARACTERS - 64]}{digest}"


def _plain_text(expression: Any) -> str:
    """An expression as text, assignments as what is assigned, as `verify` compares them."""
    from sympy import Eq, FiniteSet, Interval, Tuple

    expression = _value(expression)
    if isinstance(expression, (FiniteSet, Tuple)):
        names = {part.lhs for part in expression.args if isinstance(part, Eq)}
        # In a set names say which value is which: "x=1, y=2" is not "x=2, y=1".
        if isinstance(expression, Tuple) or len(names) <= 1:
            expression = expression.func(*map(_value, expression.args))
    if isinstance(expression, Interval) and expression.is_open:
        # The library reads "(1, 2)" as an interval and compares it as a pair.
        return f"({expression.start}, {expression.end})"
    return str(expression)


def _value(expression: Any) -> Any:
    """What an assignment assigns, 5 for "x=5" and for "x=y=5"; 50 for "50%", whose sign is a unit
    as in numbers.py; of anything else itself."""
    from math_verify.grader import get_pct_val, is_assignment_relation, take_last_relation

    if is_assignment_relation(expression):
        expression = take_last_relation(expression).rhs
    return get_pct_val(expression, expression)


def last_box(text: str) -> str | None:
    """The last \\boxed{...} whose braces close; None if there is none.

    >>> last_box("\\\\boxed{4} so \\\\boxed{x_{5}}.")
    '\\\\boxed{x_{5}}'
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0 and text[place] == "}":
            return text[start : place + 1]
    return None


def _expressions(text: str, failures: list[Exception]) -> Sequence[Any]:
    """What math-verify reads; nothing, and one more failure, where it fails."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    settings = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    plain = _plain_numbers(text)
    try:
        found: Sequence[Any] = parse(plain, settings, parsing_timeout=None, raise_on_error=True)
    except Exception as error:  # noqa: BLE001 - kept, not swallowed
        failures.append(error)
        return ()
    return found


def reply_to(question: dict[str, Any]) -> dict[str, Any]:
    """The reply, whatever the question does; not one that takes too much processor time."""
    # The signal's default action ends the process: nothing can catch it or hold it up.
    signal.setitimer(signal.ITIMER_PROF, question["cpu_seconds"])
    try:
        return compare(question["text"], question["gold"])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the next question must be answered
        return {"problem": f"{type(error).__name__} in comparing"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer questions until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable()
    import math_verify  # noqa: F401 - loaded before the first question is timed

    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(reply_to(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
