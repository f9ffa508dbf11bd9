"""Problems to be rewarded on: a benchmark's, a probe's, or reasoning-gym's, each with its reward."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.names import find_task
from isoflop.evaluate.tasks.problem import Problem
from isoflop.evaluate.tasks.score import Runner
from isoflop.extras import import_extra
from isoflop.posttrain.config import ProblemSource, RewardName
from isoflop.posttrain.rewards import (
    Reward,
    RewardFunction,
    answer_reward,
    program_or_answer_reward,
)

REASONING_GYM = "reasoning_gym:"
"""Begins the name of a source whose problems the package reasoning-gym makes and verifies."""

REASONING_GYM_PROBLEMS = 1000
"""Made unless the source says how many. Chosen."""


@dataclass(frozen=True, kw_only=True)
class ProblemSet:
    """Problems with what their answers earn."""

    name: str
    problems: tuple[Problem, ...]
    """Their prompts are what the model reads."""
    rewards: RewardFunction
    num_set_aside: int
    """Rows that cannot be asked."""


def load_problems(source: ProblemSource, reward: RewardName, sandbox: Runner) -> ProblemSet:
    """The source's problems.

    Raises:
        UserError: no such task, unusable data, a task without verifiable answers, an extra missing.
    """
    if "{question}" not in source.prompt:
        raise UserError(f"prompt={source.prompt!r} must contain {{question}}")
    if source.task.startswith(REASONING_GYM):
        return _reasoning_gym(source)
    task = find_task(source.task)
    if task.scorer in ("choice", "none"):
        raise UserError(f"{source.task} generates no answers that could earn a reward")
    loaded = load_task(
        source.task,
        data=None if source.data is None else Path(source.data),
        style="bare" if "bare" in task.templates else None,
        shots=0,
        limit=source.max_problems,
    )
    makers = {"answer": answer_reward, "program_or_answer": program_or_answer_reward}
    return ProblemSet(
        name=source.task,
        problems=tuple(_prompted(source, problem) for problem in loaded.problems),
        rewards=makers[reward](loaded.task, sandbox),
        num_set_aside=len(loaded.set_aside),
    )


def _prompted(source: ProblemSource, problem: Problem) -> Problem:
    return replace(problem, prompt=source.prompt.replace("{question}", problem.prompt))


def _reasoning_gym(source: ProblemSource) -> ProblemSet:
    """Made by the package, and verified by it."""
    gym = import_extra("reasoning_gym", "rl", source.task)
    name = source.task.removeprefix(REASONING_GYM)
    size = source.max_problems or REASONING_GYM_PROBLEMS
    try:
        made = gym.create_dataset(name, size=size, seed=source.seed)
    except ValueError as error:
        raise UserError(f"{source.task}: {error}") from None
    entries = {f"{name}-{source.seed}-{place}": made[place] for place in range(size)}
    problems = tuple(
        Problem(
            id=key,
            task=source.task,
            prompt=source.prompt.replace("{question}", str(entry["question"])),
            answer=str(entry["answer"]),
            golds=(str(entry["answer"]),),
            choices=None,
            program=None,
        )
        for key, entry in entries.items()
    )
    return ProblemSet(
        name=source.task,
        problems=problems,
        rewards=lambda answers: _gym_rewards(made, entries, answers),
        num_set_aside=0,
    )


def _gym_rewards(
    made: Any, entries: dict[str, Any], answers: Sequence[tuple[Problem, str]]
) -> list[Reward]:
    rewards = []
    for problem, text in answers:
        answer = text.strip()
        value = float(made.score_answer(answer=answer or None, entry=entries[problem.id]))
        reason = None if answer else "no answer"
        rewards.append(Reward(value=value, gradable=bool(answer), reason=reason))
    return rewards
