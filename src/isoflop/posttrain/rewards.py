"""What an answer earns. Programs run in the sandbox and nowhere else; ungradable is counted apart.

    answer             the final answer, by the task's own grader: 1 where it is right, else 0
    program_or_answer  first a program in the text, whose result is the answer, then the text's own final
                       answer: the order of arXiv:2508.18672, appendix A.2. Either is graded by the
                       task's grader; tasks whose answers are programs themselves have no such reward

A program that hangs or takes too much memory earns nothing and is not asked for another answer, so
that no text can buy a reward by hiding behind it; one that fails leaves the text to be read. A program
that the sandbox refuses to run stops everything: rewards that are silently 0 look like training.

Source of the order and of the two forms of programs: arXiv:2508.18672, released reward code. There they
run in the trainer's own process, the last line outside the time limit, and "def" in prose counts as code.
"""

import math
import queue
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isoflop.config import UserError
from isoflop.evaluate.tasks.problem import Problem, Task
from isoflop.evaluate.tasks.score import (
    Extraction,
    Runner,
    final_answer_mark,
    score_text,
    score_texts,
)
from isoflop.graders import Grade, Verdict
from isoflop.sandbox import WORKERS_DIED, Limits, Outcome, Program

CODE_TAGS = ("<llm-code>", "</llm-code>")
"""Around a program in an answer. arXiv:2508.18672, as OpenMathInstruct has them."""

FUNCTION = "simple_math_problem"
"""Name of a function that returns the answer. TinyGSM, arXiv:2312.09241."""

WALL_SHARE = 5.0
"""Real time that an answer's program may take, of its processor time. Chosen: a program computes and
does not wait; time in which it waits for a processor does not count."""

REWARD_SECONDS = 60.0
"""For a user's own reward of one answer, in real time. Chosen."""

_FUNCTION_LINE = re.compile(rf"^def {FUNCTION}\s*\(", re.MULTILINE)
_TOP_LEVEL = re.compile(r"(?:def |class |import |from |@)")

_SHOW_LAST_VALUE = """
import ast as _ast
_tree = _ast.parse(_source)
_value = None
_last = _tree.body.pop() if _tree.body and isinstance(_tree.body[-1], _ast.Expr) else None
_names = {"__name__": "__main__"}
exec(compile(_tree, "<answer>", "exec"), _names)
if _last is not None:
    _value = eval(compile(_ast.Expression(_last.value), "<answer>", "eval"), _names)
if _value is None and callable(_names.get("simple_math_problem")):
    _value = _names["simple_math_problem"]()
if _value is not None:
    print(_value)
"""
"""Runs a program and prints the value of its last line, once; or of the function that it defines."""


@dataclass(frozen=True, kw_only=True)
class Reward:
    """What one answer earns."""

    value: float
    gradable: bool
    """Whether anything could be graded; what could not earns 0 and is counted."""
    reason: str | None = None
    """Why it is not gradable."""


RewardFunction = Callable[[Sequence[tuple[Problem, str]]], list[Reward]]
"""Rewards of many (problem, text), in order."""

UserReward = Callable[[Problem, str], float]
"""A user's own reward of one text."""


def program_limits(program_seconds: float) -> Limits:
    """Of an answer's program: so much processor time, and real time in proportion, so that one that
    sleeps holds up no worker."""
    return Limits(cpu_seconds=program_seconds, wall_seconds=WALL_SHARE * program_seconds)


def answer_reward(task: Task, sandbox: Runner | None) -> RewardFunction:
    """1 for a right final answer by the task's grader, numbers read flexibly."""

    def rewards(answers: Sequence[tuple[Problem, str]]) -> list[Reward]:
        extraction: Extraction = "flexible" if task.scorer == "number" else "strict"
        grades = score_texts(task, answers, sandbox, extraction=extraction)
        return [_earned(grade) for grade in grades]

    return rewards


def program_or_answer_reward(task: Task, sandbox: Runner) -> RewardFunction:
    """1 for a right result of the text's program, or else for its right final answer.

    Raises:
        UserError: the task's answers are programs that are tested: a result is no answer to it.
    """
    if task.scorer in ("program", "output"):
        raise UserError(
            f"reward='program_or_answer' reads a program's result, but an answer to {task.name} is a "
            "program itself, which its tests grade: use reward='answer'"
        )
    read = answer_reward(task, sandbox)

    def rewards(answers: Sequence[tuple[Problem, str]]) -> list[Reward]:
        found = [programs_in(text) for _, text in answers]
        results: dict[int, Reward] = {}
        # A tagged program that gives nothing leaves the function to be asked, as in the source.
        for turn in range(max(map(len, found), default=0)):
            asked = {
                place: programs[turn]
                for place, programs in enumerate(found)
                if turn < len(programs) and place not in results
            }
            outcomes = sandbox.run(asked.values())
            for place, outcome in zip(asked, outcomes, strict=True):
                reward = _of_program(task, answers[place][0], outcome)
                if reward is not None:
                    results[place] = reward
        left = [place for place in range(len(answers)) if place not in results]
        read_rewards = read([answers[place] for place in left])
        results |= zip(left, read_rewards, strict=True)
        return [results[place] for place in range(len(answers))]

    return rewards


REWARDS: dict[str, Callable[[Task, Runner], RewardFunction]] = {
    "answer": answer_reward,
    "program_or_answer": program_or_answer_reward,
}
"""By the names of `isoflop.posttrain.config.RewardName`."""


def programs_in(text: str) -> list[Program]:
    """Those that a text holds, in the order in which they are asked for an answer.

    >>> programs_in("It was definitely 18.")
    []
    """
    begin, end = CODE_TAGS
    programs = []
    if begin in text:
        code = text.split(begin, 1)[1].split(end, 1)[0]
        programs.append(Program(source=f"_source = {code!r}\n{_SHOW_LAST_VALUE}"))
    if _FUNCTION_LINE.search(text):
        programs.append(Program(source=f"{definitions_in(text)}\nprint({FUNCTION}())\n"))
    return programs


def definitions_in(text: str) -> str:
    """The imports, functions and classes that begin a line, with their bodies; no prose.

    >>> print(definitions_in("So:\\ndef f():\\n    return 2\\nThe answer is 2."))
    def f():
        return 2
    """
    kept: list[str] = []
    inside = False
    for line in text.split("\n"):
        inside = bool(_TOP_LEVEL.match(line)) or (inside and (not line or line[0] in " \t)]}"))
        if inside:
            kept.append(line)
    return "\n".join(kept)


def _of_program(task: Task, problem: Problem, outcome: Outcome) -> Reward | None:
    """What a program's result earns; None: it gave none, so the text is read."""
    why = f"{outcome.verdict}: {outcome.reason}"
    if outcome.verdict == "refused" and outcome.reason != WORKERS_DIED:
        raise UserError(
            f"the sandbox refuses to run programs here ({outcome.reason}), and rewards need it; see "
            "`isoflop doctor --sandbox`, or use reward='answer'"
        )
    if outcome.verdict in ("time-out", "memory", "refused"):
        return Reward(value=0.0, gradable=False, reason=why)
    lines = outcome.stdout.strip().split("\n")
    if outcome.verdict != "passed" or not lines[-1].strip():
        return None
    result = lines[-1].strip()
    # A result is the whole answer: where the probes' worked solutions have a mark, it stands for them.
    mark = (final_answer_mark(problem) or "") if task.scorer == "exact" else ""
    return _earned(score_text(task, problem, mark + result, None, extraction="flexible"))


def _earned(grade: Grade) -> Reward:
    gradable = grade.verdict is not Verdict.UNGRADABLE
    value = 1.0 if grade.verdict is Verdict.CORRECT else 0.0
    return Reward(value=value, gradable=gradable, reason=None if gradable else grade.reason)


def each(reward: UserReward, *, seconds: float = REWARD_SECONDS) -> RewardFunction:
    """A user's reward of one text as one of many.

    Raises (when called):
        UserError: it raised, took longer than `seconds`, or gave no finite number; the problem is
            named. A reward that is missing must stop the run: 0 would be an answer.
    """

    def rewards(answers: Sequence[tuple[Problem, str]]) -> list[Reward]:
        return [_user_reward(reward, problem, text, seconds) for problem, text in answers]

    return rewards


def within(seconds: float, function: Callable[[], object]) -> tuple[object, BaseException | None]:
    """What the function returns, or what it raised.

    Raises:
        TimeoutError: neither after so much real time.
    """
    found: queue.SimpleQueue[tuple[object, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            found.put((function(), None))
        except BaseException as error:  # noqa: BLE001 - handed on, whatever it is
            found.put((None, error))

    # A function that hangs cannot be ended, only left behind: a daemon does not hold the process.
    threading.Thread(target=work, daemon=True).start()
    try:
        return found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None


def _user_reward(reward: UserReward, problem: Problem, text: str, seconds: float) -> Reward:
    where = f"the reward of problem {problem.id!r} for the answer {text[:60]!r}"
    try:
        value, error = within(seconds, lambda: reward(problem, text))
    except TimeoutError:
        raise UserError(f"{where} took longer than {seconds:g} s; make it faster") from None
    if error is not None:
        # In one line, SystemExit too: a run that a reward ends must not look finished.
        raise UserError(f"{where} raised {type(error).__name__}: {error}") from error
    try:
        # numpy's numbers and truth values too; no text.
        number = math.nan if isinstance(value, str | bytes) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where} is {value!r:.100}; it must be a finite number")
    return Reward(value=number, gradable=True)
