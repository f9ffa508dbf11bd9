"""Problems to be rewarded on: a benchmark's, a probe's, or reasoning-gym's, each with its reward."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.evaluate.sampling.samples import UNKNOWN_TOKEN
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.names import find_task
from isoflop.evaluate.tasks.own import load_own
from isoflop.evaluate.tasks.problem import ANOTHER_SPLIT, LoadedTask, Problem, Task
from isoflop.evaluate.tasks.score import Runner
from isoflop.extras import import_extra
from isoflop.posttrain.config import REASONING_GYM, ProblemSource, RewardName
from isoflop.posttrain.rewards import REWARDS, Reward, RewardFunction, within
from isoflop.posttrain.settings import MAX_REWARD
from isoflop.records import SetAside
from isoflop.tokens.tokenizer import Tokenizer

REASONING_GYM_PROBLEMS = 1000
"""Made unless the source says how many. Chosen."""

VERIFIER_SECONDS = 10.0
"""For reasoning-gym's verifier of one answer, in real time. Chosen."""


@dataclass(frozen=True, kw_only=True)
class ProblemSet:
    """Problems with what their answers earn."""

    name: str
    problems: tuple[Problem, ...]
    """Their prompts are what the model reads."""
    rewards: RewardFunction
    set_aside: tuple[SetAside, ...] = ()
    """Rows of the data that cannot be asked; those of a split that is not meant are none."""


def checked_rewards(problems: ProblemSet, answers: Sequence[tuple[Problem, str]]) -> list[Reward]:
    """What the answers earn, one finite number each.

    Raises:
        UserError: the reward raised, gave too few or too many, or a number that is not finite or
            beyond MAX_REWARD. A reward that is missing must stop the run: 0 would be an answer.
    """
    try:
        rewards = list(problems.rewards(answers))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{problems.name}: the reward raised {type(error).__name__}: {error}"
        ) from error
    if len(rewards) != len(answers):
        raise UserError(
            f"{problems.name}: the reward gave {len(rewards)} values for {len(answers)} answers"
        )
    for (problem, text), reward in zip(answers, rewards, strict=True):
        if not abs(reward.value) <= MAX_REWARD:
            raise UserError(
                f"{problems.name}: the reward of problem {problem.id!r} for the answer {text[:60]!r} "
                f"is {reward.value}; it must be a finite number within +-{MAX_REWARD:g}"
            )
    return rewards


def sampled_rewards(
    problems: ProblemSet,
    answers: Sequence[tuple[Problem, str, Sequence[int]]],
    tokenizer: Tokenizer,
) -> list[Reward]:
    """What sampled answers, with their tokens, earn. One that holds a token of no tokenizer's is
    ungradable and not read: its text is not what the model said. Raises as `checked_rewards`."""
    readable = [tokenizer.holds(tokens) for *_, tokens in answers]
    asked = [
        (problem, text)
        for (problem, text, _), known in zip(answers, readable, strict=True)
        if known
    ]
    rewards = iter(checked_rewards(problems, asked))
    unknown = Reward(value=0.0, gradable=False, reason=UNKNOWN_TOKEN)
    return [next(rewards) if known else unknown for known in readable]


def load_problems(
    source: ProblemSource,
    reward: RewardName,
    sandbox: Runner,
    own: Mapping[str, Path] | None = None,
) -> ProblemSet:
    """The source's problems.

    Args:
        own: files of a study's own questions by their source of text. None: there is no study.

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
    loaded = _loaded(source, task, own)
    left = [problem for one in loaded for problem in one.problems[source.skip_problems :]]
    problems = left[: source.max_problems]
    if not problems:
        raise UserError(
            f"{source.label}: skip_problems={source.skip_problems} leaves none of "
            f"{sum(len(one.problems) for one in loaded)} problems"
        )
    return ProblemSet(
        name=source.label,
        problems=tuple(_prompted(source, problem) for problem in problems),
        rewards=REWARDS[reward](loaded[0].task, sandbox),
        set_aside=tuple(
            row for one in loaded for row in one.set_aside if row.reason != ANOTHER_SPLIT
        ),
    )


def _loaded(
    source: ProblemSource, task: Task, own: Mapping[str, Path] | None
) -> Sequence[LoadedTask]:
    """The task's problems, in parts where they are a study's own."""
    if own is not None and source.is_own:
        if source.source is not None and source.source not in own:
            raise UserError(
                f"source={source.source!r} asks no questions; those that do are "
                f"{', '.join(own) or 'none'}"
            )
        files = list(own.values()) if source.source is None else [own[source.source]]
        return [one.loaded for one in load_own(source.task, files)]
    most = source.max_problems
    return [
        load_task(
            source.task,
            data=None if source.data is None else Path(source.data),
            style="bare" if "bare" in task.templates else None,
            shots=0,
            limit=None if most is None else source.skip_problems + most,
        )
    ]


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
        name=source.label,
        problems=problems,
        rewards=lambda answers: _gym_rewards(made, entries, answers),
    )


def _gym_rewards(
    made: Any, entries: dict[str, Any], answers: Sequence[tuple[Problem, str]]
) -> list[Reward]:
    return [_gym_reward(made, entries[problem.id], text.strip()) for problem, text in answers]


def _gym_reward(made: Any, entry: Any, answer: str) -> Reward:
    """By the package's verifier. Some raise, or take for ever, on texts that only a model writes: no answer
    may stop a run, which would stop there each time again."""
    try:
        value, error = within(
            VERIFIER_SECONDS, lambda: float(made.score_answer(answer=answer or None, entry=entry))
        )
    except TimeoutError:
        reason = f"its verifier took longer than {VERIFIER_SECONDS:g} s"
        return Reward(value=0.0, gradable=False, reason=reason)
    if error is not None and not isinstance(error, Exception):
        raise error
    if error is not None:
        reason = f"its verifier raised {type(error).__name__}: {error}"
        return Reward(value=0.0, gradable=False, reason=reason)
    assert isinstance(value, float)
    if not math.isfinite(value):
        return Reward(value=0.0, gradable=False, reason=f"its verifier gave {value}")
    return Reward(value=value, gradable=bool(answer), reason=None if answer else "no answer")
