"""GSM8K's and MATH's own files: every problem loads, its gold answer earns the reward, another does not."""

import os
from pathlib import Path

import pytest

from isoflop.posttrain.config import ProblemSource
from isoflop.posttrain.problems import load_problems
from isoflop.sandbox import Limits, Sandbox

ANSWERS = {"gsm8k": "So.\nThe answer is {}.", "math500": "So it is $\\boxed{{{}}}$."}

FILES = {"gsm8k": ("gsm8k_train.jsonl.gz", 7473), "math500": ("math500.jsonl.gz", 500)}


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("ISOFLOP_DATA")
    if not folder:
        pytest.skip("ISOFLOP_DATA does not name the folder with the benchmarks' files")
    return Path(folder)


@pytest.mark.data
@pytest.mark.parametrize("task", FILES)
def test_gold_answers_earn_1_and_others_0(data, task):
    name, count = FILES[task]
    source = ProblemSource(task=task, data=str(data / name))
    with Sandbox(workers=1, limits=Limits(cpu_seconds=2.0)) as sandbox:
        found = load_problems(source, "program_or_answer", sandbox)
        assert len(found.problems) + len(found.set_aside) == count
        asked = found.problems[:300]
        assert all(one.prompt.endswith("\n\n") for one in asked)
        texts = {
            "gold": (lambda one: ANSWERS[task].format(one.golds[0]), 1.0, True),
            "program": (
                lambda one: f"<llm-code>\nanswer = {one.golds[0]!r}\nanswer\n</llm-code>",
                1.0,
                True,
            ),
            "wrong": (lambda one: "The answer is 918273645.", 0.0, True),
            "nothing": (lambda one: "I do not know", 0.0, False),
            "hangs": (lambda one: "<llm-code>\nwhile True: pass\n</llm-code>", 0.0, False),
        }
        for kind, (make, value, gradable) in texts.items():
            some = asked[:2] if kind == "hangs" else asked
            if kind == "program":
                some = [one for one in asked if one.golds[0].isdecimal()][:40]
                assert len(some) == 40
            rewards = found.rewards([(one, make(one)) for one in some])
            wrong = [
                (one.id, one.golds, reward)
                for one, reward in zip(some, rewards, strict=True)
                if (reward.value, reward.gradable) != (value, gradable)
            ]
            assert not wrong, (kind, wrong[:3])
