"""A generated answer graded as its task says. Code runs in the sandbox and nowhere else."""

import ast
import itertools
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

from isoflop.config import UserError
from isoflop.evaluate.sampling.samples import NOT_FINITE, UNKNOWN_TOKEN, Sample
from isoflop.evaluate.tasks.gsm8k import FUNCTION_HEAD
from isoflop.evaluate.tasks.problem import Problem, Task
from isoflop.graders import (
    Grade,
    Verdict,
    final_answer_in,
    grade,
    grade_aliases,
    grade_latex,
    grade_math,
    ungradable,
)
from isoflop.graders.exact import FINAL_ANSWER_MARK
from isoflop.sandbox import Outcome, Program

Extraction = Literal["strict", "flexible"]

LAST_LINES = 100
"""Of a function's body that may turn out to be no part of it. Chosen."""

_MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")

FUNCTION_CALL = "\nprint(simple_math_problem())\n"
"""Runs an answer that is the body of `FUNCTION_HEAD`'s function."""


@runtime_checkable
class Runner(Protocol):
    """What runs programs: `isoflop.sandbox.Sandbox`, or a test's stand-in."""

    def run(self, programs: Iterable[Program]) -> Iterator[Outcome]:
        """How each program ended, in order."""
        ...


def score_text(
    task: Task,
    problem: Problem,
    text: str,
    sandbox: Runner | None,
    *,
    extraction: Extraction = "strict",
) -> Grade:
    """Grade one generated answer, which ends before the stop string.

    Raises:
        UserError: the task runs code and there is no sandbox, or it has nothing to grade.
    """
    return score_texts(task, [(problem, text)], sandbox, extraction=extraction)[0]


def score_texts(
    task: Task,
    answers: Sequence[tuple[Problem, str]],
    sandbox: Runner | None,
    *,
    extraction: Extraction = "strict",
) -> list[Grade]:
    """As `score_text`, for many at once, in order: the sandbox's workers share the programs."""
    if task.scorer in ("program", "output"):
        return _run(task, answers, sandbox)
    return [_read(task, problem, text, extraction) for problem, text in answers]


def score_samples(
    task: Task,
    answers: Sequence[tuple[Problem, Sample]],
    sandbox: Runner | None,
    *,
    extraction: Extraction = "strict",
) -> list[Grade]:
    """As `score_texts`; a sample whose text is not what the model said is ungradable, not read: it broke
    off for want of finite logits, or holds a token that the tokenizer does not have."""
    reasons = [_unreadable(sample) for _, sample in answers]
    whole = [
        (problem, sample.text)
        for (problem, sample), reason in zip(answers, reasons, strict=True)
        if reason is None
    ]
    grades = iter(score_texts(task, whole, sandbox, extraction=extraction))
    return [next(grades) if reason is None else ungradable(reason) for reason in reasons]


def _unreadable(sample: Sample) -> str | None:
    if sample.finish == "not_finite":
        return NOT_FINITE
    return UNKNOWN_TOKEN if sample.unknown_token else None


def program_of(task: Task, problem: Problem, text: str) -> Program:
    """What is run to grade `text`. Tests stand apart: no trick in the answer reaches them."""
    if task.scorer == "output":
        return Program(source=FUNCTION_HEAD + function_body(text) + FUNCTION_CALL)
    return Program(source=problem.head + text, tests=problem.program)


def function_body(text: str) -> str:
    """The body of a function: up to the first line after it that is not indented.

    Where that is no Python, up to the last return of the body's own level that leaves it so:
    what a model writes behind its answer may be indented too.

    >>> function_body("    if a:\\n        return 1\\n    return a\\nQuestion: ...")
    '    if a:\\n        return 1\\n    return a'
    """
    lines = list(itertools.takewhile(_may_be_in_body, text.split("\n")))
    ends = range(len(lines), max(0, len(lines) - LAST_LINES), -1)
    for end in ends:
        body = "\n".join(lines[:end])
        last = _last_statement(body)
        if isinstance(last, ast.Return) or (last is not None and end == len(lines)):
            return body
    return "\n".join(lines)


def _may_be_in_body(line: str) -> bool:
    return not line.strip() or line[0] in " \t#)]}"


def _last_statement(body: str) -> ast.stmt | None:
    """Of the function with this body; None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (function,) = ast.parse(FUNCTION_HEAD + body).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return function.body[-1] if isinstance(function, ast.FunctionDef) else None


def _read(task: Task, problem: Problem, text: str, extraction: Extraction) -> Grade:
    if task.scorer == "number":
        return grade_math(text, problem.golds[0], extraction)
    if task.scorer == "latex":
        return grade_latex(text, problem.golds[0])
    if task.scorer == "aliases":
        return grade_aliases(text, problem.golds)
    if task.scorer == "exact":
        return _exact(problem, text)
    raise UserError(f"{task.name} generates nothing that could be graded ({task.scorer})")


def _exact(problem: Problem, text: str) -> Grade:
    """As `graders.grade_item` does for the probes of a study."""
    mark = final_answer_mark(problem)
    verdict = grade(text, problem.golds[0], mark=mark)
    answer = final_answer_in(text, mark)
    if verdict is Verdict.UNGRADABLE or answer is None:
        return ungradable("no final answer")
    return Grade(verdict=verdict, answer=answer, reason=None)


def final_answer_mark(problem: Problem) -> str | None:
    """What a final answer to a probe's problem follows; None: the gold answer is no worked solution."""
    gold = final_answer_in(problem.golds[0], None)
    worked = gold is not None and final_answer_in(problem.answer, FINAL_ANSWER_MARK) == gold
    return FINAL_ANSWER_MARK if worked else None


def _run(task: Task, answers: Sequence[tuple[Problem, str]], sandbox: Runner | None) -> list[Grade]:
    if sandbox is None:
        raise UserError(f"{task.name} runs what a model wrote, and only a sandbox may: give one")
    outcomes = sandbox.run(program_of(task, *answer) for answer in answers)
    return [
        _grade_run(task, problem, text, outcome)
        for (problem, text), outcome in zip(answers, outcomes, strict=True)
    ]


def _missing_module(outcome: Outcome) -> str | None:
    """The package that a program wants and the sandbox has not; None for one that never was."""
    found = _MISSING_MODULE.match(outcome.reason or "") if outcome.verdict == "error" else None
    package = found[1].partition(".")[0] if found else None
    return None if package in sys.stdlib_module_names else package


def _grade_run(task: Task, problem: Problem, text: str, outcome: Outcome) -> Grade:
    why = outcome.verdict if outcome.reason is None else f"{outcome.verdict}: {outcome.reason}"
    if outcome.verdict in ("refused", "not-carried"):
        return ungradable(why)
    missing = _missing_module(outcome)
    if missing is not None:
        return ungradable(f"needs a module outside the standard library: {missing}")
    if task.scorer == "program":
        passed = outcome.verdict == "passed"
        verdict = Verdict.CORRECT if passed else Verdict.WRONG
        return Grade(verdict=verdict, answer=text, reason=None if passed else why)
    if outcome.verdict != "passed":
        return Grade(verdict=Verdict.UNGRADABLE, answer=None, reason=why)
    return grade_math(outcome.stdout, problem.golds[0], "flexible")
