"""What earns a reward and what does not: hard cases in a table, and nothing silently zero."""

import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from isoflop.config import UserError
from isoflop.evaluate.tasks.names import find_task
from isoflop.evaluate.tasks.problem import Problem
from isoflop.posttrain import problems as problems_module
from isoflop.posttrain.config import ProblemSource
from isoflop.posttrain.problems import ProblemSet, checked_rewards, load_problems
from isoflop.posttrain.rewards import (
    Reward,
    answer_reward,
    definitions_in,
    each,
    program_or_answer_reward,
    programs_in,
)
from isoflop.sandbox import WORKERS_DIED, Limits, Outcome, Sandbox


def problem(gold: str = "18", task: str = "gsm8k") -> Problem:
    return Problem(
        id="p1",
        task=task,
        prompt="How many?\n\n",
        answer=gold,
        golds=(gold,),
        choices=None,
        program=None,
    )


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1, limits=Limits(cpu_seconds=1.0, wall_seconds=5.0)) as opened:
        yield opened


FUNCTION = "def simple_math_problem() -> int:\n    eggs = 16 - 3 - 4\n    return eggs * 2\n"

TEXTS = [
    ("so 9 * 2 = 18\n#### 18", 1.0, True),
    ("The answer is 17.", 0.0, True),
    ("It was definitely 18.", 1.0, True),  # "def" in prose is no code.
    ("no number here", 0.0, False),
    ("", 0.0, False),
    ("<llm-code>\n9 * 2\n</llm-code>", 1.0, True),
    ("<llm-code>\nx = 9\nx * 2\n</llm-code> so it is 5", 1.0, True),  # The program decides.
    ("<llm-code>\nprint(9 * 2)\n</llm-code>", 1.0, True),  # Printed once, no None after it.
    ("<llm-code>\n1 / 0\n</llm-code>\nThe answer is 18.", 1.0, True),  # It failed: the text.
    ("<llm-code>\nx = (\n</llm-code>\nThe answer is 18.", 1.0, True),
    ("<llm-code>\nwhile True: pass\n</llm-code>\nThe answer is 18.", 0.0, False),  # It hung.
    ("<llm-code>\n9 * 2", 1.0, True),  # Cut off before the closing tag.
    (FUNCTION, 1.0, True),  # Begins with def.
    ("Here it is:\n" + FUNCTION + "That gives 5.", 1.0, True),
    (
        "import math\nprose\ndef half(x):\n    return x / 2\n"
        + FUNCTION.replace("eggs * 2", "math.floor(half(eggs) * 4)"),
        1.0,
        True,
    ),
    ("def simple_math_problem():\n    return 17\n18", 0.0, True),
    ("def other():\n    return 18\n", 1.0, True),  # No such function: the text's last number.
    ("<llm-code>\n1/0\n</llm-code>\n" + FUNCTION, 1.0, True),  # Nothing shown: the function.
    ("<llm-code>\n</llm-code>\n" + FUNCTION, 1.0, True),
    ("<llm-code>\n" + FUNCTION + "</llm-code>\nSo 2.", 1.0, True),  # Defined in the tag.
    ("<llm-code>\n17\n</llm-code>\n" + FUNCTION, 0.0, True),  # What the tag shows counts.
    ("\ud800 18", 1.0, True),
    ("<llm-code>\n'\x00'\n18\n</llm-code>", 1.0, True),
]


@pytest.mark.parametrize(("text", "value", "gradable"), TEXTS)
def test_programs_come_first_and_then_the_text(sandbox, text, value, gradable):
    (reward,) = program_or_answer_reward(find_task("gsm8k"), sandbox)([(problem(), text)])
    assert (reward.value, reward.gradable) == (value, gradable), reward.reason
    assert gradable or reward.reason


def test_many_at_once_stand_in_their_order(sandbox):
    rewards = program_or_answer_reward(find_task("gsm8k"), sandbox)
    found = rewards([(problem(), text) for text, *_ in TEXTS])
    assert [one.value for one in found] == [value for _, value, _ in TEXTS]
    assert rewards([]) == []


def test_a_program_cannot_reach_the_gold_answer_nor_the_trainer(
    sandbox, tmp_path, monkeypatch, request
):
    """Each would earn the reward if it got out."""
    (tmp_path / "secret").write_text("18")
    monkeypatch.setenv("ISOFLOP_GOLD", "18")
    server = socket.create_server(("127.0.0.1", 0))
    request.addfinalizer(server.close)
    port = server.getsockname()[1]
    reach = [
        f"open({str(tmp_path / 'secret')!r}).read()",
        "__import__('os').environ['ISOFLOP_GOLD']",
        f"18 if __import__('socket').create_connection(('127.0.0.1', {port}), 2) else 0",
        f"18 if __import__('os').kill({os.getpid()}, 0) is None else 0",
    ]
    texts = [f"<llm-code>\n{line}\n</llm-code>" for line in reach]
    texts += [
        "<llm-code>\nclass A:\n    def __eq__(self, o): return True\nA()\n</llm-code>",
        "<llm-code>\nimport os\nos._exit(0)\n</llm-code>",
    ]
    for reward in program_or_answer_reward(find_task("gsm8k"), sandbox)(
        [(problem(), text) for text in texts]
    ):
        assert reward.value == 0.0


def test_latex_answers_are_compared_as_mathematics(sandbox):
    pytest.importorskip("math_verify")
    rewards = program_or_answer_reward(find_task("math500"), sandbox)
    asked = [
        (problem(r"\frac{1}{2}", "math500"), r"so $\boxed{0.5}$"),
        (problem(r"\frac{1}{2}", "math500"), "<llm-code>\n1 / 2\n</llm-code>"),
        (problem(r"\frac{1}{2}", "math500"), r"$\boxed{2}$"),
    ]
    assert [one.value for one in rewards(asked)] == [1.0, 1.0, 0.0]


class Refusing:
    """A sandbox that has no verdict on any program."""

    def __init__(self, reason):
        self.reason = reason

    def run(self, programs):
        for _ in programs:
            yield Outcome(verdict="refused", reason=self.reason, stdout="", cpu_seconds=0.0)


def test_a_refused_program_stops_everything():
    rewards = program_or_answer_reward(find_task("gsm8k"), Refusing("no namespaces"))
    with pytest.raises(UserError, match=r"refuses to run programs here \(no namespaces\)"):
        rewards([(problem(), FUNCTION)])


def test_a_program_whose_workers_died_is_ungradable_and_stops_nothing():
    rewards = program_or_answer_reward(find_task("gsm8k"), Refusing(WORKERS_DIED))
    (reward,) = rewards([(problem(), FUNCTION)])
    assert (reward.value, reward.gradable) == (0.0, False)


def test_definitions_without_prose():
    text = (
        "I think\nimport math\nso then\n"
        + FUNCTION
        + "\nand\nx = 3\n@cache\ndef g(\n    a,\n):\n    pass"
    )
    assert definitions_in(text) == (
        "import math\n" + FUNCTION + "\n@cache\ndef g(\n    a,\n):\n    pass"
    )
    assert programs_in("a definition: def simple_math_problem is") == []


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda problem, text: float("nan"), "is nan; it must be a finite number"),
        (lambda problem, text: None, "is None; it must be a finite number"),
        (lambda problem, text: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda problem, text: time.sleep(5), "took longer than 0.1 s"),
    ],
)
def test_a_users_reward_that_is_missing_stops_the_run(reward, message):
    rewards = each(reward, seconds=0.1)
    with pytest.raises(UserError, match="reward of problem 'p1' for the answer 'so'") as caught:
        rewards([(problem(), "so")])
    assert message in str(caught.value)


def test_a_users_reward_counts_as_it_is():
    rewards = each(lambda problem, text: len(text) > 1)
    assert [one.value for one in rewards([(problem(), "ab"), (problem(), "a")])] == [1.0, 0.0]


def test_reasoning_gym_makes_and_verifies_problems(sandbox):
    pytest.importorskip("reasoning_gym")
    source = ProblemSource(task="reasoning_gym:chain_sum", max_problems=5, seed=3)
    found = load_problems(source, "answer", sandbox)
    again = load_problems(source, "answer", sandbox)
    assert [one.prompt for one in found.problems] == [one.prompt for one in again.problems]
    assert all(one.prompt.endswith("\n\n") for one in found.problems)
    right = [(one, one.golds[0]) for one in found.problems]
    wrong = [(one, "x") for one in found.problems]
    assert [one.value for one in found.rewards(right)] == [1.0] * 5
    assert max(one.value for one in found.rewards(wrong)) < 1.0
    (silent,) = found.rewards([(found.problems[0], " \n")])
    assert (silent.value, silent.gradable) == (0.0, False)
    with pytest.raises(UserError, match="reasoning_gym:no_such_set"):
        load_problems(ProblemSource(task="reasoning_gym:no_such_set"), "answer", sandbox)


class OddVerifier:
    """As reasoning-gym's are, on texts for which they were not written."""

    def score_answer(self, answer, entry):
        if answer == "hang":
            threading.Event().wait()
        return {"raise": lambda: 1 / 0, "nan": lambda: float("nan")}.get(answer, lambda: 1.0)()


def test_no_answer_can_stop_a_run_through_a_verifier(monkeypatch):
    """It would stop there each time again; what cannot be verified earns nothing and is counted."""
    monkeypatch.setattr(problems_module, "VERIFIER_SECONDS", 0.2)
    answers = ("raise", "nan", "hang", "3")
    found = [problems_module._gym_reward(OddVerifier(), {}, answer) for answer in answers]
    assert [(one.value, one.gradable) for one in found] == [(0.0, False)] * 3 + [(1.0, True)]
    assert [one.reason for one in found] == [
        "its verifier raised ZeroDivisionError: division by zero",
        "its verifier gave nan",
        "its verifier took longer than 0.2 s",
        None,
    ]


def test_answers_by_the_probes_own_rule(exact):
    first = exact.problems[0]
    assert [one.value for one in exact.rewards([(first, "0"), (first, "1"), (first, "")])] == [
        1.0,
        0.0,
        0.0,
    ]


def test_tasks_without_answers_and_prompts_without_questions_are_refused(sandbox, problem_file):
    for source, message in (
        (ProblemSource(task="hellaswag"), "generates no answers"),
        (ProblemSource(task="gsm9k"), "no task"),
        (
            ProblemSource(task="probes", data=str(problem_file), prompt="x"),
            "must contain {question}",
        ),
    ):
        with pytest.raises(UserError, match=message.replace("{", r"\{").replace("}", r"\}")):
            load_problems(source, "answer", sandbox)


def test_the_answer_reward_reads_numbers_flexibly():
    rewards = answer_reward(find_task("gsm8k"), None)
    assert rewards([(problem(), "it is 18 eggs")])[0].value == 1.0


@pytest.mark.parametrize(
    ("value", "expected"), [(True, 1.0), (np.float32(0.5), 0.5), (np.bool_(1), 1.0), (3, 3.0)]
)
def test_a_users_reward_may_be_any_number(value, expected):
    (reward,) = each(lambda problem, text: value)([(problem(), "x")])
    assert reward.value == expected


@pytest.mark.parametrize("value", [10**400, float("nan"), None, "1", b"1", [1]])
def test_what_is_no_finite_number_stops_the_run(value):
    with pytest.raises(UserError, match="must be a finite number"):
        each(lambda problem, text: value)([(problem(), "x")])


def test_a_reward_that_ends_the_process_does_not_look_like_a_finished_run():
    with pytest.raises(UserError, match="raised SystemExit: 0"):
        each(lambda problem, text: sys.exit(0))([(problem(), "x")])


def test_a_reward_that_hangs_holds_no_process():
    program = (
        "import time\n"
        "from isoflop.posttrain.rewards import each\n"
        "from isoflop.evaluate.tasks.problem import Problem\n"
        "p = Problem(id='1', task='t', prompt='', answer='', golds=(), choices=None, program=None)\n"
        "each(lambda problem, text: time.sleep(600), seconds=0.1)([(p, 'x')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "took longer than 0.1 s" in done.stderr


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (lambda answers: [], "gave 0 values for 1 answers"),
        (
            lambda answers: [Reward(value=float("nan"), gradable=True)],
            "is nan; it must be a finite",
        ),
        (lambda answers: [Reward(value=1e300, gradable=True)], "a finite number within"),
        (lambda answers: 1 / 0, "the reward raised ZeroDivisionError"),
    ],
)
def test_every_reward_function_is_checked(rewards, message):
    problems = ProblemSet(name="mine", problems=(problem(),), rewards=rewards)
    with pytest.raises(UserError, match=message):
        checked_rewards(problems, [(problem(), "x")])
