"""MATH answers: equal expressions are equal, and nothing a model writes can stall the grader."""

import os
import signal
import threading
import time

import pytest

from isoflop.graders import Verdict, grade_latex, latex, latex_process

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
    ("\\boxed{5\x00}", "5", NONE),
    ("\\boxed{5\ud800}", "5", NONE),
    ("\ud800\x00 so \\boxed{5}", "5", CORRECT),
    ("\\boxed{5}", "\udfff", NONE),
    ("\\boxed{5}", "5\x00", NONE),
    ("\\boxed{5}", "{" * 100, NONE),
    ("\\boxed{5}", "1" * 100_000, NONE),
    ("\\boxed{5}", "", NONE),
    ("\\boxed{}", "5", NONE),
    ("\\boxed{5}", "\\frac{1}{0}", NONE),
    ("\\boxed{\\frac{1}{0}}", "5", WRONG),
    ("\\boxed{\\$1,234.50}", "1234.5", CORRECT),
    ("\\boxed{1\\,234}", "1234", CORRECT),
    ("\\boxed{10000}", "10,\\!000", CORRECT),
    ("\\boxed{2 1/2}", "2.5", CORRECT),
    ("\\boxed{102_4}", "102_{3}", WRONG),
    ("\\boxed{102_{3}}", "102_3", CORRECT),
    ("\\boxed{103_{3}}", "102_3", WRONG),
    ("The answer is $102_4$.", "102_3", WRONG),
    ("\\boxed{0102_3}", "102_3", CORRECT),
    ("\\boxed{102}", "102_3", CORRECT),
    ("\\boxed{-2 1/2}", "-2.5", CORRECT),
    ("\\boxed{2\\frac12}", "2.5", CORRECT),
    ("\\boxed{5\\%}", "5", CORRECT),
    ("\\boxed{0.333333}", "\\frac13", CORRECT),
    ("\\boxed{0.33}", "\\frac13", WRONG),
    ("\\frac" * 1500, "5", NONE),
    ("final answer " * 700, "5", NONE),
    ("$ " * 4000, "5", NONE),
    ("\\boxed{x=5}", "5", CORRECT),
    ("\\boxed{5=x}", "5", WRONG),
    ("\\boxed{x+1=6}", "5", WRONG),
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


VOTES = [
    # spellings of one vote, the gold answer that all of them are
    (("x=5", "5", "x=y=5", "y=5", "5\\%"), "5"),
    (("x=\\frac12", "0.5", "x=0.5"), "1/2"),
    (("x=2 \\text{ or } x=3", "2,3", "x=3, x=2", "x=2,3"), "2,3"),
    (("(x=2, y=3)", "(2,3)", "(x,y)=(2,3)"), "(2,3)"),
    (("y=2x+3", "2x+3"), "2x+3"),
    (("x\\in[1,2]", "[1,2]"), "[1,2]"),
]


@pytest.mark.parametrize(("spellings", "gold"), VOTES)
def test_an_assignment_votes_with_what_it_assigns(spellings, gold):
    grades = [grade_latex(f"\\boxed{{{text}}}", gold) for text in spellings]
    assert {grade.verdict for grade in grades} == {CORRECT}
    assert len({grade.answer for grade in grades}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("5=x", "5"), ("x+1=6", "6"), ("x=2, y=3", "x=3, y=2"), ("(x=2, y=3)", "(x=3, y=2)")],
)
def test_what_is_no_assignment_votes_by_itself(one, other):
    answers = [grade_latex(f"\\boxed{{{text}}}", "7").answer for text in (one, other)]
    assert None not in answers
    assert answers[0] != answers[1]


def test_an_endless_comparison_is_ended_and_the_next_one_graded(monkeypatch):
    grade_latex("\\boxed{1}", "1")
    monkeypatch.setattr(latex, "CPU_SECONDS", 1.0)
    grade = grade_latex("\\boxed{2^{10^{10}}}", "5")
    assert grade.verdict is NONE
    assert grade.reason == "comparing took over 1 s of processor time"
    monkeypatch.undo()
    assert grade_latex("\\boxed{5}", "5").verdict is CORRECT


def comparer() -> int:
    """The process that compares."""
    assert grade_latex("\\boxed{1}", "1").verdict is CORRECT
    assert latex._COMPARER._process is not None
    return latex._COMPARER._process.pid


def test_a_comparison_that_waits_for_a_processor_is_not_ended(monkeypatch):
    process = comparer()
    monkeypatch.setattr(latex, "CPU_SECONDS", 0.5)
    os.kill(process, signal.SIGSTOP)
    threading.Timer(1.5, os.kill, (process, signal.SIGCONT)).start()
    begun = time.monotonic()
    assert grade_latex("\\boxed{5}", "5").verdict is CORRECT
    assert time.monotonic() - begun > 1.0


def test_a_comparison_that_never_answers_is_ended(monkeypatch):
    os.kill(comparer(), signal.SIGSTOP)
    monkeypatch.setattr(latex, "WALL_SECONDS", 0.5)
    assert grade_latex("\\boxed{5}", "5").reason == "comparing took over 0.5 s of real time"
    monkeypatch.undo()
    assert grade_latex("\\boxed{5}", "5").verdict is CORRECT


def test_the_signal_that_ended_a_comparison_is_named():
    process = comparer()
    os.kill(process, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (process, signal.SIGSEGV)).start()
    threading.Timer(0.6, os.kill, (process, signal.SIGCONT)).start()
    assert grade_latex("\\boxed{5}", "5").reason == "SIGSEGV ended the comparison"


def test_an_interrupted_question_leaves_no_reply_to_the_next(monkeypatch):
    comparer()
    monkeypatch.setattr(latex.select, "select", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        grade_latex("\\boxed{6}", "6")
    monkeypatch.undo()
    assert grade_latex("\\boxed{5}", "5").answer == "5"


class Strange(BaseException):
    """No exception that a library should raise."""


@pytest.mark.parametrize("error", [MemoryError, RecursionError, Strange, NotImplementedError])
def test_every_failure_is_told_by_name(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(latex_process, "compare", fail)
    reply = latex_process.reply_to({"text": "", "gold": "", "cpu_seconds": 1000.0})
    assert reply == {"problem": f"{error.__name__} in comparing"}


def test_what_the_library_cannot_compare_is_not_wrong(monkeypatch):
    import math_verify

    monkeypatch.setattr(math_verify.grader, "sympy_expr_eq", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        latex_process.compare("\\boxed{6}", "5")
    assert latex_process.compare("\\boxed{5}", "5")["correct"]
