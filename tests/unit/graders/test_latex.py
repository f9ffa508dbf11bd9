"""MATH answers: equal expressions are equal, and nothing a model writes can stall the grader."""

import time

import pytest

from isoflop.graders import Verdict, grade_latex, latex

pytest.importorskip("math_verify")

CORRECT, WRONG, NONE = Verdict.CORRECT, Verdict.WRONG, Verdict.UNGRADABLE

TABLE = [
    # text, gold, verdict
    ("so \\boxed{\\frac{1}{2}}", "0.5", CORRECT),
    ("\\boxed{0.5}", "\\frac12", CORRECT),
    ("\\boxed{1/2}", "\\dfrac{1}{2}", CORRECT),
    ("\\boxed{10{,}000}", "10000", CORRECT),
    ("\\boxed{3\\sqrt{2}}", "\\sqrt{18}", CORRECT),
    ("\\boxed{(1, 2)}", "(1,2)", CORRECT),
    ("\\boxed{(2, 1)}", "(1,2)", WRONG),
    ("\\boxed{x^2 + 2x + 1}", "(x+1)^2", CORRECT),
    ("\\boxed{\\{1, 2\\}}", "\\{2,1\\}", CORRECT),
    ("\\boxed{[0, 1)}", "[0,1)", CORRECT),
    ("\\boxed{[0, 1]}", "[0,1)", WRONG),
    ("\\boxed{\\pi/2}", "\\frac{\\pi}{2}", CORRECT),
    ("\\boxed{90^\\circ}", "90", CORRECT),
    ("\\boxed{5 \\text{ cm}}", "5", CORRECT),
    ("\\boxed{4} then \\boxed{5}", "5", CORRECT),
    ("\\boxed{4} and \\boxed{5}", "4, 5", CORRECT),
    ("\\boxed{4} and \\boxed{", "4", CORRECT),
    ("The answer is $7$.", "7", CORRECT),
    ("\\boxed{6}", "7", WRONG),
    ("no formula here", "7", NONE),
    ("", "7", NONE),
    ("{" * 500, "7", NONE),
    ("\\boxed{" + "\\frac{1}{" * 40 + "2" + "}" * 40 + "}", "7", NONE),
    ("1" * 1_000_000, "7", NONE),
    ("\x00\ud800", "7", NONE),
    ("\\boxed{" + "(" * 25 + "x" + ")" * 25 + "}", "x", CORRECT),
]


@pytest.mark.parametrize(("text", "gold", "verdict"), TABLE)
def test_the_table(text, gold, verdict):
    assert grade_latex(text, gold).verdict is verdict


def test_equal_numbers_vote_together():
    spellings = ("\\boxed{0.5}", "\\boxed{\\frac{1}{2}}", "\\boxed{2/4}")
    assert {grade_latex(text, "3").answer for text in spellings} == {"1/2"}


def test_answers_that_vote_together_have_one_verdict():
    texts = ("\\boxed{4} and \\boxed{5}", "\\boxed{5}", "\\boxed{4, 5}")
    both, last, together = (grade_latex(text, "4, 5") for text in texts)
    assert both.answer == together.answer != last.answer
    assert [one.verdict for one in (both, last, together)] == [CORRECT, WRONG, CORRECT]


def test_long_answers_that_differ_at_their_end_do_not_vote_together():
    long = "+".join(f"x_{{{number}}}" for number in range(100))
    one, other = (grade_latex(f"\\boxed{{{long}+{end}}}", "3").answer for end in ("y", "z"))
    assert one is not None
    assert one != other
    assert len(one) == 300


def test_an_endless_comparison_is_ended_and_the_next_one_graded(monkeypatch):
    grade_latex("\\boxed{1}", "1")
    monkeypatch.setattr(latex, "SECONDS", 1.0)
    begun = time.monotonic()
    grade = grade_latex("\\boxed{2^{10^{10}}}", "5")
    assert time.monotonic() - begun < 30
    assert grade.verdict is NONE
    assert grade.reason is not None
    assert "took over" in grade.reason
    monkeypatch.setattr(latex, "SECONDS", 60.0)
    assert grade_latex("\\boxed{5}", "5").verdict is CORRECT
