"""What is measured on every checkpoint."""

from dataclasses import dataclass
from typing import Literal

from isoflop.config import UserError
from isoflop.evaluate.tasks.names import OWN_TASKS, find_task
from isoflop.evaluate.tasks.problem import Style

ContextStart = Literal["end_of_text", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A task of `isoflop eval` that is asked of every checkpoint of a study."""

    task: str
    """See docs/reference.md, "Benchmarks"."""
    data: str
    """A file, or a folder as the hub has it."""
    shots: int | None = None
    """Worked examples before each question. None: the papers' number."""
    shots_data: str | None = None
    """Where they come from, if not from rows of `data` that are kept for prompts."""
    style: Style | None = None
    """How questions are put. None: the papers' form."""
    max_items: int | None = None
    """Problems at the last checkpoint, taken in the file's order. None: all."""
    max_items_between: int | None = 128
    """The same at the checkpoints before the last."""
    max_new_tokens: int | None = None
    """Of an answer. None: the task's."""
    generate: bool = True
    """Whether answers are generated and graded; the task loss is measured in any case."""

    def __post_init__(self) -> None:
        task = find_task(self.task)
        if self.style is not None and self.style not in task.templates:
            raise UserError(
                f"{self.task} has no style {self.style!r}; it has {', '.join(task.templates)}"
            )
        for name in ("max_items", "max_items_between", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{self.task}: {name}={value} must be at least 1, or None")
        if self.shots is not None and self.shots < 0:
            raise UserError(f"{self.task}: shots={self.shots} must be at least 0, or None")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Many samples of each question of a task: coverage and self-consistency of the last checkpoint.

    Defaults: arXiv:2508.18672, released test-time-compute code."""

    task: str
    """A task of `isoflop eval` whose answers are generated."""
    data: str | None = None
    """A file, or a folder as the hub has it. None: the study's own questions, of the probes."""
    num_samples: int = 128
    """Told for 1, 2, 4 and so on up to so many."""
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 1024
    max_items: int | None = None
    """The first so many questions of each split. None: all."""
    seed: int = 0

    def __post_init__(self) -> None:
        find_task(self.task)
        if self.data is None and self.task not in OWN_TASKS:
            raise UserError(
                f"samples of {self.task} need its file in data=; only {', '.join(OWN_TASKS)} are "
                "the study's own"
            )
        if self.num_samples < 2:
            raise UserError(f"{self.task}: num_samples={self.num_samples} must be at least 2")
        if self.temperature <= 0:
            raise UserError(
                f"{self.task}: temperature={self.temperature} must be above 0: greedy samples are "
                "all the same"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"{self.task}: top_p={self.top_p} must be above 0 and at most 1")
        if self.max_new_tokens < 1 or (self.max_items is not None and self.max_items < 1):
            raise UserError(f"{self.task}: max_new_tokens and max_items must be at least 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Items asked of each checkpoint, and how answers are generated."""

    max_items: int = 512
    """Items of each task and split at the last checkpoint, taken in the file's order."""
    max_items_between: int = 128
    """The same at the checkpoints before the last."""
    max_new_tokens: int = 64
    """Generation ends here if no end of text came."""
    batch_items: int = 128
    """Items scored together. No influence on results beyond rounding."""
    context_start: ContextStart = "end_of_text"
    """What stands before a prompt. "end_of_text": the token that precedes every document but a
    sequence's first in training; "nothing": for models whose attention stops at document ends."""
    benchmarks: tuple[Benchmark, ...] = ()
    """Asked besides the probes that the corpus brings."""
    samples: tuple[Samples, ...] = ()
    """Test-time compute: drawn of the last checkpoint, and of what GRPO made of it."""

    def __post_init__(self) -> None:
        for name in ("max_items", "max_items_between", "max_new_tokens", "batch_items"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        tasks = [one.task for one in self.benchmarks]
        if len(set(tasks)) < len(tasks):
            raise UserError(f"benchmarks must be different tasks, got {', '.join(tasks)}")
        sampled = [one.task for one in self.samples]
        if len(set(sampled)) < len(sampled):
            raise UserError(f"samples must be of different tasks, got {', '.join(sampled)}")
