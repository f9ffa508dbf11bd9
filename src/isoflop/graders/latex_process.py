"""The process in which LaTeX answers are compared: questions in, replies out, a line of JSON each.

Started by latex.py, which ends it when it takes too long.
"""

import hashlib
import json
import logging
import resource
import sys
from collections.abc import Sequence
from typing import Any

MEMORY_BYTES = 2 << 30
"""Address space; SymPy needs 0.3 GB."""

KEY_CHARACTERS = 300
"""Of an expression's text that names it in a vote; a longer one is named by its beginning and
the digest of all of it."""


def compare(text: str, gold: str) -> dict[str, Any]:
    """The final expression of `text` and whether it equals the gold answer.

    The last box counts, as in MATH's own evaluation (Hendrycks et al. 2021, arXiv:2103.03874);
    where it alone is wrong, all boxes together may be right: "\\boxed{1} and \\boxed{2}". The
    answer is of the reading that is right, or else of the last box: texts with one answer have, as
    a rule, one verdict.
    """
    from math_verify import verify

    wanted = _expressions(f"\\boxed{{{gold}}}") or _expressions(gold)
    if not wanted:
        return {"problem": f"the gold answer {gold[:60]!r} cannot be read"}
    box = last_box(text)
    readings = [_expressions(one) for one in ((text,) if box is None else (box, text))]
    readings = [found for found in readings if found]
    if not readings:
        return {"problem": "no mathematical expression"}
    # The library's own time limit uses a signal; this process is ended instead.
    right = [found for found in readings if verify(wanted, found, timeout_seconds=None)]
    answer = vote_key(right[0] if right else readings[0])
    return {"problem": None, "answer": answer, "correct": bool(right)}


def vote_key(expressions: Sequence[Any]) -> str:
    """By what an answer votes: its first reading as text, of a long one beginning and digest."""
    text = str(expressions[0])
    if len(text) <= KEY_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[: KEY_CHARACTERS - 64]}{digest}"


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


def _expressions(text: str) -> Sequence[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    settings = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    expressions: Sequence[Any] = parse(text, settings, parsing_timeout=None)
    return expressions


def main() -> None:
    """Answer questions until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable()
    import math_verify  # noqa: F401 - loaded before the first question is timed

    print("{}", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            reply = compare(question["text"], question["gold"])
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reply = {"problem": f"{type(error).__name__} in comparing"}
        except (RecursionError, MemoryError, NotImplementedError) as error:
            reply = {"problem": f"{type(error).__name__} in comparing"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
