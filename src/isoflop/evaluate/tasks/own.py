"""A study's own questions as problems: the probes' items, kept apart by task and split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isoflop.config import UserError
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.names import OWN_TASKS
from isoflop.evaluate.tasks.problem import LoadedTask
from isoflop.records import EvaluationItem, read_rows

TASK_OF_SPLIT = {split: name for name, split in OWN_TASKS.items() if split is not None}


@dataclass(frozen=True, kw_only=True)
class OwnQuestions:
    """The questions of one task and split, as the study's table names them."""

    task: str
    split: str
    loaded: LoadedTask


def load_own(name: str, files: Sequence[Path], limit: int | None = None) -> list[OwnQuestions]:
    """The questions of a task of OWN_TASKS from files of EvaluationItem, in the files' order.

    Args:
        limit: the first so many of each task and split.

    Raises:
        UserError: no file, a broken line, or no question of the asked split.
    """
    wanted = OWN_TASKS[name]
    found = []
    for file in files:
        held = dict.fromkeys((row.task, row.split) for row in read_rows(file, EvaluationItem))
        for task, split in held:
            if wanted in (None, split):
                loaded = load_task(TASK_OF_SPLIT[split], data=file, limit=limit)
                found.append(OwnQuestions(task=task, split=split, loaded=loaded))
    if not found:
        places = ", ".join(map(str, files)) or "no source of the corpus asks any"
        raise UserError(f"{name}: no questions of the study's own ({places})")
    return found
