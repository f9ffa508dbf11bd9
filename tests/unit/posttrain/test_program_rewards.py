"""A program's result is graded by the task's own grader, and a program has a bounded time."""

import time

import pytest

from isoflop.config import UserError
from isoflop.evaluate.tasks.names import TASKS, find_task
from isoflop.evaluate.tasks.problem import Problem
from isoflop.posttrain import verl_reward
from isoflop.posttrain.config import GrpoConfig, ProblemSource
from isoflop.posttrain.rewards import answer_reward, program_limits, program_or_answer_reward
from isoflop.posttrain.run import _sandbox
from isoflop.sandbox import Sandbox


def problem(task: str, *golds: str, answer: str = "") -> Problem:
    return Problem(
        id="1",
        task=task,
        prompt="?",
        answer=answer or golds[0],
        golds=golds,
        choices=None,
        program=None,
    )


def showing(value: object) -> str:
    return f"<llm-code>\n{value!r}\n</llm-code>"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1, limits=program_limits(1.0)) as opened:
        yield opened


HARD = [
    ("gsm8k", problem("gsm8k", "18"), [("18.0", 1.0), ("17", 0.0)]),
    ("triviaqa", problem("triviaqa", "New York", "The Big Apple"), [
        ("New York", 1.0), ("the big apple", 1.0), ("Boston 1", 0.0)]),
    ("triviaqa", problem("triviaqa", "Apollo 11", "Eleven"), [("eleven", 1.0), ("11", 0.0)]),
    ("probes", problem("probes", "6", answer="a=3;b=2*a=6;#6"), [("6", 1.0), ("7", 0.0)]),
    ("probes", problem("probes", "9 C"), [("9 C", 1.0), ("9", 0.0)]),
]  # fmt: skip


@pytest.mark.parametrize(("task", "asked", "results"), HARD)
def test_a_result_earns_what_the_tasks_grader_says_of_it(sandbox, task, asked, results):
    rewards = program_or_answer_reward(find_task(task), sandbox)
    found = rewards([(asked, showing(result)) for result, _ in results])
    assert [(one.value, one.gradable) for one in found] == [(value, True) for _, value in results]


def test_for_every_task_a_shown_result_earns_what_the_text_of_it_earns(sandbox):
    """The program adds nothing to the grader: the same words, printed or written."""
    for name, task in TASKS.items():
        if task.scorer not in ("number", "aliases", "exact"):
            continue
        asked = problem(name, "12")
        for result in ("12", "13", "twelve"):
            (shown,) = program_or_answer_reward(task, sandbox)([(asked, showing(result))])
            (written,) = answer_reward(task, None)([(asked, result)])
            assert (shown.value, shown.gradable) == (written.value, written.gradable), name


@pytest.mark.parametrize("name", ["humaneval", "humaneval_plus", "mbpp", "mbpp_plus"])
def test_tasks_whose_answers_are_programs_have_no_reward_for_a_result(sandbox, name):
    with pytest.raises(UserError, match=f"answer to {name} is a program itself.*reward='answer'"):
        program_or_answer_reward(find_task(name), sandbox)
    answer_reward(find_task(name), sandbox)


@pytest.mark.parametrize("seconds", [0.2, 3.0, 200.0, 3600.0])
def test_real_time_follows_processor_time_for_runs_and_for_verl(seconds):
    config = GrpoConfig(train=ProblemSource(task="gsm8k"), program_seconds=seconds)
    for sandbox in (_sandbox(config), verl_reward._sandbox(seconds)):
        assert sandbox.limits.cpu_seconds == seconds
        assert sandbox.limits.wall_seconds == pytest.approx(5 * seconds)


def test_a_program_that_sleeps_holds_up_no_worker():
    text = "<llm-code>\nimport time\ntime.sleep(60)\n</llm-code>"
    with Sandbox(workers=1, limits=program_limits(0.3)) as opened:
        begun = time.monotonic()
        rewards = program_or_answer_reward(find_task("gsm8k"), opened)
        (reward,) = rewards([(problem("gsm8k", "18"), text)])
    assert (reward.value, reward.gradable) == (0.0, False)
    assert time.monotonic() - begun < 30
