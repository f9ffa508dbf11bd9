"""Our rewards through the interface by which verl calls a custom reward function.

verl calls `compute_score` for one answer at a time, from threads of its reward workers. Answers are graded
by `isoflop.posttrain.rewards`, and programs in them run in the sandbox, for as long as the run allows:
one for each process, kept.

A row of verl's data carries what grading needs (`row_of`): data_source is the task, ground_truth the
first gold answer, and extra_info the rest.
"""

import atexit
import functools
import json
from collections.abc import Mapping
from typing import Any

from isoflop.config import UserError, from_dict, to_dict
from isoflop.evaluate.tasks.names import find_task
from isoflop.evaluate.tasks.problem import Problem
from isoflop.posttrain.config import REASONING_GYM, GrpoConfig, ProblemSource, RewardName
from isoflop.posttrain.problems import ProblemSet, load_problems
from isoflop.posttrain.rewards import REWARDS, RewardFunction, program_limits
from isoflop.sandbox import Sandbox

DEFAULT_REWARD: RewardName = "program_or_answer"
"""Of rows that name none: the study's."""

DEFAULT_SECONDS = GrpoConfig.program_seconds
"""Processor time of an answer's program, where a row tells none: the study's."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> dict[str, float]:
    """What one answer earns: score, the same as acc, and gradable, 1 or 0.

    Args:
        data_source: a task of `isoflop eval`, or reasoning_gym:<data set>.
        solution_str: the answer, without special tokens.
        ground_truth: the gold answer, used where `extra_info` has no golds.
        extra_info: as `row_of` writes it; None grades by task and gold answer alone.

    Raises:
        UserError: no such task, or the sandbox refuses to run programs here. It stops the run:
            a reward that is missing is no zero.
    """
    told = dict(extra_info or {})
    if data_source.startswith(REASONING_GYM):
        made = _made(str(told["source"]))
        problem = next(one for one in made.problems if one.id == told["id"])
        (reward,) = made.rewards([(problem, solution_str)])
    else:
        problem = _problem(data_source, ground_truth, told)
        seconds = float(told.get("program_seconds") or DEFAULT_SECONDS)
        graded = _rewards(data_source, str(told.get("reward") or DEFAULT_REWARD), seconds)
        (reward,) = graded([(problem, solution_str)])
    return {"score": reward.value, "acc": reward.value, "gradable": float(reward.gradable)}


def row_of(
    problem: Problem, source: ProblemSource, config: GrpoConfig, *, index: int, split: str
) -> dict[str, Any]:
    """One row of verl's data: data_source, prompt, ability, reward_model, extra_info.

    Args:
        config: of the run, whose reward and time for programs go with every row.
        index: its place among the problems of its file.
        split: "train" or "validation".
    """
    made = source.task.startswith(REASONING_GYM)
    return {
        "data_source": source.task,
        "prompt": [{"role": "user", "content": problem.prompt}],
        "ability": source.label,
        "reward_model": {"style": "rule", "ground_truth": _ground_truth(problem)},
        "extra_info": {
            "split": split,
            "index": index,
            "id": problem.id,
            "reward": config.reward,
            "program_seconds": config.program_seconds,
            "answer": problem.answer,
            "golds": list(problem.golds),
            "program": problem.program or "",
            "head": problem.head,
            # The package's own verifier needs the entry, which it makes again from these.
            "source": json.dumps(to_dict(source)) if made else "",
        },
    }


def _ground_truth(problem: Problem) -> str:
    return problem.golds[0] if problem.golds else problem.answer


def _problem(task: str, ground_truth: str, told: Mapping[str, Any]) -> Problem:
    golds = told.get("golds")
    # verl hands lists over as arrays, whose truth is not their length.
    known = (ground_truth,) if golds is None or len(golds) == 0 else tuple(map(str, golds))
    return Problem(
        id=str(told.get("id", "")),
        task=task,
        prompt="",
        answer=str(told.get("answer") or ground_truth),
        golds=known,
        choices=None,
        program=str(told.get("program") or "") or None,
        head=str(told.get("head") or ""),
    )


@functools.cache
def _sandbox(seconds: float) -> Sandbox:
    """This process's sandbox for programs of so much time; its workers end with the process."""
    sandbox = Sandbox(limits=program_limits(seconds))
    atexit.register(sandbox.close)
    return sandbox


@functools.cache
def _rewards(task: str, reward: str, seconds: float) -> RewardFunction:
    if reward not in REWARDS:
        raise UserError(f"reward={reward!r} must be one of {', '.join(REWARDS)}")
    return REWARDS[reward](find_task(task), _sandbox(seconds))


@functools.cache
def _made(source: str) -> ProblemSet:
    """reasoning-gym's problems, made again."""
    found = from_dict(ProblemSource, json.loads(source), "extra_info.source")
    return load_problems(found, DEFAULT_REWARD, _sandbox(DEFAULT_SECONDS))
