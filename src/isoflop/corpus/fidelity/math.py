"""Did a rewriting of a mathematical page keep its answer and its formulas?

The final answers are compared by the project's graders where both texts mark one (boxed, or after ####
or "the answer is"). Formulas are counted: how many of the page's are nowhere in the new text.
"""

import re
from collections import Counter

from isoflop.corpus.fidelity.code import Pair
from isoflop.corpus.fidelity.observations import Verdict
from isoflop.corpus.fidelity.result import FidelityRow
from isoflop.graders import Verdict as Grade
from isoflop.graders import canonical_number, grade_latex, grade_math
from isoflop.graders.final_answer import MARKS, STATEMENT_CHARACTERS

_BOXED = re.compile(r"\\boxed\s*\{")
_MARK = re.compile("|".join(re.escape(mark) for mark in MARKS), re.IGNORECASE)
MOST_FORMULA_CHARACTERS = 5_000
"""Longer ones are two dollar signs far apart."""

_INSIDE = f".{{1,{MOST_FORMULA_CHARACTERS}}}?"
_FORMULA = re.compile(
    rf"\$\${_INSIDE}\$\$|\\\[{_INSIDE}\\\]|\\\({_INSIDE}\\\)"
    rf"|\\begin\{{(?P<name>[a-z]+\*?)\}}{_INSIDE}\\end\{{(?P=name)\}}|\$[^$\n]+\$",
    re.S,
)
_LINK = re.compile(r"\[\\\[link\\\]\]")
"""How OpenStax writes a link, which is no displayed formula."""

_EXPRESSION = re.compile(r"[\\^=_(){}]|[A-Za-z]\s*[-+*/]|[-+*/]\s*[A-Za-z]")

_SPACE = re.compile(r"\s+")

MOST_MARKED_CHARACTERS = 30
"""Of an answer after a mark: a number with a unit. Longer lines are headings and sentences. Chosen."""


def compare_page(pair: Pair) -> FidelityRow:
    """One page before and after."""
    before, after = final_answer(pair.before.text), final_answer(pair.after.text)
    there = formulas_in(pair.before.text)
    left = formulas_in(pair.after.text)
    verdict, reason = _verdict(before, after)
    return FidelityRow(
        before_id=pair.before.id,
        after_id=pair.after.id,
        where=pair.before.where,
        compared_as="math",
        verdict=verdict,
        reason=reason,
        formulas=sum(there.values()),
        formulas_lost=sum(number for formula, number in there.items() if formula not in left),
    )


def final_answer(text: str) -> str | None:
    r"""What the text marks as its final answer: the last box, else the number after the last mark.

    Without a box only numbers count: "####" also begins headings, and "the answer is" sentences.

    >>> final_answer(r"So \boxed{\frac{1}{2}}."), final_answer("#### 820"), final_answer("It is 5.")
    ('\\frac{1}{2}', '820', None)
    """
    boxes = [match.end() for match in _BOXED.finditer(text)]
    if boxes:
        return _inside_braces(text, boxes[-1])
    ends = [match.end() for match in _MARK.finditer(text)]
    if not ends:
        return None
    line = text[ends[-1] :][:STATEMENT_CHARACTERS].strip().split("\n", 1)[0].strip(" :*$.")
    is_short = len(line) <= MOST_MARKED_CHARACTERS
    return line if is_short and canonical_number(line) is not None else None


def formulas_in(text: str) -> Counter[str]:
    """Every formula, white space aside, with how often it stands."""
    found = (match[0] for match in _FORMULA.finditer(_LINK.sub(" ", text)))
    return Counter(
        _SPACE.sub("", formula) for formula in found if len(formula) <= MOST_FORMULA_CHARACTERS
    )


def _verdict(before: str | None, after: str | None) -> tuple[Verdict, str | None]:
    if before is None:
        return "not comparable", "no final answer before"
    if after is None:
        return "not comparable", "no final answer after"
    if _is_number(before) and _is_number(after):
        grade = grade_math(f"#### {after}", before, "strict")
    else:
        grade = grade_latex(rf"\boxed{{{after}}}", before)
    if grade.verdict is Grade.UNGRADABLE:
        return "not comparable", grade.reason
    return ("same", None) if grade.verdict is Grade.CORRECT else ("different", None)


def _is_number(answer: str) -> bool:
    """Whether an answer is one number, perhaps with a unit, and no expression."""
    return canonical_number(answer) is not None and _EXPRESSION.search(answer) is None


def _inside_braces(text: str, start: int) -> str | None:
    depth = 1
    for place in range(start, min(len(text), start + STATEMENT_CHARACTERS)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return text[start:place].strip() or None
    return None
