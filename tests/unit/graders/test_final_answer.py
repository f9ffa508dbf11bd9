"""The table of hard cases of worked solutions: strict and flexible reading side by side."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.graders import Verdict, grade_math

CORRECT, WRONG, NONE = Verdict.CORRECT, Verdict.WRONG, Verdict.UNGRADABLE

TABLE = [
    # text, gold, strict, flexible
    ("16-3=13\n#### 18", "18", CORRECT, CORRECT),
    ("#### 1,234", "1234", CORRECT, CORRECT),
    ("#### 1", "1234", WRONG, WRONG),
    ("#### 1234.00", "1,234", CORRECT, CORRECT),
    ("#### $18", "18", CORRECT, CORRECT),
    ("#### -18", "18", WRONG, WRONG),
    ("#### 18 eggs for 2 days", "18", CORRECT, CORRECT),
    ("####18", "18", CORRECT, CORRECT),
    ("####\n18", "18", CORRECT, CORRECT),
    ("#### **18**", "18", CORRECT, CORRECT),
    ("The answer is 18.", "18", CORRECT, CORRECT),
    ("the answer is: 18", "18", CORRECT, CORRECT),
    ("THE ANSWER IS 18", "18", CORRECT, CORRECT),
    ("The answer is 9 * 2 = 18", "18", CORRECT, CORRECT),
    ("The answer is $\\boxed{18}$.", "18", CORRECT, CORRECT),
    ("Answer: 18", "18", CORRECT, CORRECT),
    ("Answer: 3/4", "0.75", CORRECT, CORRECT),
    ("Answer: 75%", "75", CORRECT, CORRECT),
    ("Answer: 5\nAnswer: 18", "18", CORRECT, CORRECT),
    ("The answer is 5. #### 18", "18", CORRECT, CORRECT),
    ("#### 5\nThe answer is 18", "18", CORRECT, CORRECT),
    ("#### 18\nSo 7 are left over.", "18", CORRECT, CORRECT),
    ("She makes 18 dollars.", "18", NONE, CORRECT),
    ("9 * 2 = 18", "18", NONE, CORRECT),
    ("18 is 9 times 2", "18", NONE, WRONG),
    ("\\boxed{18}", "18", NONE, CORRECT),
    ("So 18.\n#### ", "18", NONE, CORRECT),
    ("The answer is eighteen", "18", NONE, NONE),
    ("no idea", "18", NONE, NONE),
    ("", "18", NONE, NONE),
    ("####", "18", NONE, NONE),
    ("#### 0.33", "1/3", WRONG, WRONG),
    ("#### 1e3", "1000", CORRECT, CORRECT),
    ("#### None", "None", CORRECT, CORRECT),
    ("#### 7", "None", WRONG, WRONG),
    ("#### None\x00", "None", NONE, NONE),
    ("7", "None", NONE, NONE),
    ("#### \x00", "18", NONE, NONE),
    ("\u0130 the answer is 18", "18", CORRECT, CORRECT),
    ("#### \\frac{36.0}{2}", "36", WRONG, WRONG),
    ("#### \\frac{36.0}{2}", "18", CORRECT, CORRECT),
    ("#### \\frac{1,200}{4}", "300", CORRECT, CORRECT),
    ("#### \\frac{-36}{2}", "-18", CORRECT, CORRECT),
    ("#### \\frac{-36}{2}", "-36", WRONG, WRONG),
    ("The answer is \\frac{-1}{2}", "-1/2", CORRECT, CORRECT),
    ("#### \\frac{x + 36}{2}", "36", NONE, NONE),
    ("#### 36^2", "36", WRONG, WRONG),
    ("#### 36^2", "1296", CORRECT, CORRECT),
    ("#### 36^x", "36", NONE, NONE),
    ("#### 36^\\circ", "36", CORRECT, CORRECT),
    ("#### 36!", "36", NONE, NONE),
    ("#### 36 million", "36", WRONG, WRONG),
    ("#### 36 million", "36,000,000", CORRECT, CORRECT),
    ("#### 36 million", "36 million", CORRECT, CORRECT),
    ("So 36 million", "36", NONE, WRONG),
    ("#### 36 \\times 10^3", "36", WRONG, WRONG),
    ("#### 36 \\times 10^3", "36000", CORRECT, CORRECT),
    ("#### 36 \\times 10^{3}", "36000", CORRECT, CORRECT),
    ("#### 2 * 18", "2", WRONG, WRONG),
    ("#### 2 * 18", "36", CORRECT, CORRECT),
    ("#### 2 + 3 * 4", "14", CORRECT, CORRECT),
    ("#### 2 * (3 + 4)", "2", NONE, NONE),
    ("#### 3-4", "3", NONE, NONE),
    ("#### 3/hour", "3", CORRECT, CORRECT),
    ("#### 18 - which is all", "18", CORRECT, CORRECT),
    ("#### **18** 2-legged birds", "18", CORRECT, CORRECT),
    ("The answer is Rs.500", "500", CORRECT, CORRECT),
    ("The answer is USD500.", "500", CORRECT, CORRECT),
    ("The answer is _18_", "18", CORRECT, CORRECT),
    ("The answer is about __18__.", "18", CORRECT, CORRECT),
    ("**Answer**: 18", "18", CORRECT, CORRECT),
    ("__Answer__: 18", "18", CORRECT, CORRECT),
    ("#### 18 ####", "18", CORRECT, CORRECT),
    ("#### 18 ####\nNext 3", "18", CORRECT, CORRECT),
    ("#### 18\n####", "18", NONE, CORRECT),
    ("#### 7, where x = 9", "7", CORRECT, CORRECT),
    ("#### 7 (3 = 3)", "7", CORRECT, CORRECT),
    ("The answer is 15 = 5 x 3", "15", CORRECT, CORRECT),
    ("The answer is x = 15", "15", CORRECT, CORRECT),
    ("The answer is x + 3 = 15", "15", CORRECT, CORRECT),
    ("The answer is (3 + 2) * 3 = 15", "15", CORRECT, CORRECT),
    ("The answer is 5 eggs * 3 = $15", "15", CORRECT, CORRECT),
    ("The answer is 5x3=15", "15", CORRECT, CORRECT),
]


@pytest.mark.parametrize(("text", "gold", "strict", "flexible"), TABLE)
def test_the_table(text, gold, strict, flexible):
    assert grade_math(text, gold, "strict").verdict is strict
    assert grade_math(text, gold, "flexible").verdict is flexible


def test_equal_numbers_vote_together_and_ungradable_ones_do_not_vote():
    spellings = ("#### 1,234", "#### 1234.0", "The answer is $1,234", "#### 2468/2")
    assert {grade_math(text, "5", "strict").answer for text in spellings} == {"1234"}
    grade = grade_math("none", "5", "strict")
    assert grade.answer is None
    assert grade.reason == "no mark before a final answer"


@pytest.mark.parametrize(
    "text", ["1" * 1_000_000, "1," * 500_000, ",111" * 250_000, "#" * 1_000_000, "- " * 500_000]
)
def test_a_megabyte_takes_no_time(text):
    begun = time.process_time()
    grade_math(text, "5", "flexible")
    assert time.process_time() - begun < 2


@given(st.text(), st.text())
def test_any_text_has_a_verdict(text, gold):
    for extraction in ("strict", "flexible"):
        grade = grade_math(text, gold, extraction)
        assert (grade.answer is None) == (grade.verdict is NONE) == (grade.reason is not None)
