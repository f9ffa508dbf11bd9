"""Every task by name."""

from collections.abc import Mapping

from isoflop.config import UserError
from isoflop.evaluate.tasks.code import HUMANEVAL, HUMANEVAL_PLUS, MBPP, MBPP_PLUS
from isoflop.evaluate.tasks.gsm8k import GSM8K, GSM_PLUS
from isoflop.evaluate.tasks.hellaswag import HELLASWAG
from isoflop.evaluate.tasks.math500 import MATH500
from isoflop.evaluate.tasks.probes import PROBES, PROBES_HELD_OUT, PROBES_SEEN, PROMPT_ANSWER
from isoflop.evaluate.tasks.problem import Task
from isoflop.evaluate.tasks.triviaqa import TRIVIAQA

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        GSM8K,
        GSM_PLUS,
        TRIVIAQA,
        HELLASWAG,
        HUMANEVAL,
        HUMANEVAL_PLUS,
        MBPP,
        MBPP_PLUS,
        MATH500,
        PROBES,
        PROBES_SEEN,
        PROBES_HELD_OUT,
        PROMPT_ANSWER,
    )
}
"""Task by name, in the order of the papers' table."""

OWN_TASKS: Mapping[str, str | None] = {
    PROBES.name: None,
    PROBES_SEEN.name: "seen",
    PROBES_HELD_OUT.name: "held_out",
}
"""Tasks that a study has questions for itself, with the split that each asks; None: all."""


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: there is none.
    """
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}; it must be one of {', '.join(TASKS)}")
    return TASKS[name]
