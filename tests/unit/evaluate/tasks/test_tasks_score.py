"""Generated answers: each scorer reaches its grader, and code only ever the sandbox."""

import contextlib
import io
from dataclasses import replace

import pytest

from isoflop.config import UserError
from isoflop.evaluate.tasks.names import TASKS
from isoflop.evaluate.tasks.problem import Problem
from isoflop.evaluate.tasks.score import program_of, score_text, score_texts
from isoflop.graders import Verdict
from isoflop.sandbox import Outcome, Program


class PaperSandbox:
    """Runs nothing: notes the programs and answers with a prepared outcome."""

    def __init__(self, verdict="passed", stdout=""):
        self.outcome = Outcome(verdict=verdict, reason=None, stdout=stdout, cpu_seconds=0.0)
        self.programs: list[Program] = []

    def run(self, programs):
        for program in programs:
            self.programs.append(program)
            yield self.outcome


def problem(gold: str = "18", **others) -> Problem:
    fields = {
        "id": "1", "task": "test", "prompt": "q", "answer": gold, "golds": (gold,),
        "choices": None, "program": None,
    }  # fmt: skip
    return Problem(**{**fields, **others})


@pytest.mark.parametrize(
    ("task", "gold", "right", "wrong"),
    [
        ("gsm8k", "18", "9 * 2 = 18\n#### 18", "#### 19"),
        ("triviaqa", "Mark Twain", " mark twain", " Twain, M."),
        ("probes", "tower", " tower", "tow"),
    ],
)
def test_each_scorer_tells_right_from_wrong(task, gold, right, wrong):
    assert score_text(TASKS[task], problem(gold), right, None).verdict is Verdict.CORRECT
    assert score_text(TASKS[task], problem(gold), wrong, None).verdict is Verdict.WRONG


def test_code_is_never_run_without_a_sandbox():
    for name in ("humaneval", "mbpp", "mbpp_plus"):
        with pytest.raises(UserError, match="only a sandbox may"):
            score_text(TASKS[name], problem(program="assert f()"), "def f(): ...", None)


def test_a_completion_is_run_after_its_prompt_and_its_tests_stand_apart():
    asked = problem(program="assert f() == 1", head="def f():\n")
    program = program_of(TASKS["humaneval"], asked, "    return 1\n")
    assert program == Program(source="def f():\n    return 1\n", tests="assert f() == 1")


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("passed", Verdict.CORRECT),
        ("failed", Verdict.WRONG),
        ("error", Verdict.WRONG),
        ("time-out", Verdict.WRONG),
        ("memory", Verdict.WRONG),
        ("refused", Verdict.UNGRADABLE),
        ("not-carried", Verdict.UNGRADABLE),
    ],
)
def test_verdicts_of_the_sandbox(verdict, expected):
    asked = problem(program="assert f()")
    assert score_text(TASKS["mbpp"], asked, "x", PaperSandbox(verdict)).verdict is expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [("numpy", Verdict.UNGRADABLE), ("scipy.stats", Verdict.UNGRADABLE), ("os.no", Verdict.WRONG)],
)
def test_an_answer_that_needs_a_package_is_counted_apart_from_a_wrong_one(module, expected):
    sandbox = PaperSandbox("error")
    reason = f"ModuleNotFoundError: No module named '{module}' (line 1)"
    sandbox.outcome = replace(sandbox.outcome, reason=reason)
    grade = score_text(TASKS["mbpp"], problem(program="assert f()"), "x", sandbox)
    assert grade.verdict is expected
    assert module.split(".")[0] in grade.reason


def test_a_program_that_prints_the_number_is_right():
    task = replace(TASKS["gsm8k"], scorer="output")
    sandbox = PaperSandbox(stdout="18\n")
    text = "    a = 9 * 2\n    return a\nQuestion: a second one\n    return 7"
    assert score_text(task, problem(), text, sandbox).verdict is Verdict.CORRECT
    assert "second" not in sandbox.programs[0].source
    assert sandbox.programs[0].source.count("return") == 1
    assert score_text(task, problem("19"), text, sandbox).verdict is Verdict.WRONG
    failed = score_text(task, problem(), text, PaperSandbox("error"))
    assert (failed.verdict, failed.answer) == (Verdict.UNGRADABLE, None)


@pytest.mark.parametrize(
    ("body", "behind"),
    [
        ("    a = 9 * 2\n    return a", "\nQuestion: b\n    return 7"),
        ("    if 1 > 2:\n        return 7\n    return 18", "\nAnswer"),
        ("    def half(a):\n        return a / 2\n\n    return half(36)", "\n\nQuestion"),
        ("    returned = 9\n    return returned * 2", "\nprint(7)"),
        ("    return (\n        9\n        * 2\n    )", "\n```"),
        ("    for a in range(19):\n        if a == 18:\n            return a", "\ndef f(): ..."),
        ("    a = 18\n    return a", "\n    And this is the answer."),
        ("    a = 18\n# The answer:\n    return a", "\nQuestion: b"),
    ],
)
def test_the_whole_body_of_a_function_is_run_and_nothing_behind_it(body, behind):
    task = replace(TASKS["gsm8k"], scorer="output")
    source = program_of(task, problem(), body + behind).source
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(source, {"__name__": "__main__"})
    assert float(printed.getvalue()) == 18


def test_many_answers_keep_their_order():
    answers = [(problem(str(number)), f"#### {number % 2}") for number in range(4)]
    verdicts = [one.verdict.correct for one in score_texts(TASKS["gsm8k"], answers, None)]
    assert verdicts == [True, True, False, False]


def test_a_task_that_generates_nothing_has_nothing_to_grade():
    with pytest.raises(UserError, match="nothing that could be graded"):
        score_text(TASKS["hellaswag"], problem(), "a", None)


HOSTILE = {
    "nothing": "",
    "null bytes": "\x00#### \x00",
    "a lone surrogate": "#### \ud800",
    "many digits": "#### " + "9" * 1_000_000,
    "nested braces": "\\boxed{" * 20_000,
    "nested brackets": "(" * 100_000 + "1",
    "for regular expressions": "#### " + "1," * 50_000 + "x",
    "a fraction of nothing": "#### 1/0",
}


@pytest.mark.parametrize("task", ["gsm8k", "triviaqa", "probes"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_output_crashes_a_scorer_or_is_right(task, text):
    for extraction in ("strict", "flexible"):
        found = score_text(TASKS[task], problem(), text, None, extraction=extraction)
        assert found.verdict is not Verdict.CORRECT
        assert (found.answer is None) == (found.verdict is Verdict.UNGRADABLE)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_output_is_lost_on_its_way_to_the_sandbox(text):
    sandbox = PaperSandbox("error")
    found = score_text(TASKS["mbpp"], problem(program="assert f()"), text, sandbox)
    assert found.verdict is Verdict.WRONG
    assert sandbox.programs == [Program(source=text, tests="assert f()")]
