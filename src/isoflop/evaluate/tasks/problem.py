"""What a task is, and one of its problems: the values in which reading, asking and scoring meet.

    Item      what one row of a benchmark's file says, whatever the file's columns are called
    Task      how items become problems and how answers are scored; one value a benchmark
    Problem   one item as it is asked: prompt with shots, gold answer, what the grader needs
    Hub       where the Hugging Face hub has the data

No torch and no files here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from isoflop.config import UserError
from isoflop.evaluate.sampling.config import Sampling
from isoflop.records import SetAside

Scorer = Literal["number", "latex", "aliases", "choice", "program", "output", "exact", "none"]
"""How an answer is graded.

"number": the final number of a worked solution; "latex": MATH, through math-verify; "aliases":
any of several spellings; "choice": the likeliest of the choices, nothing is generated; "program":
the answer is code that must pass the problem's tests; "output": the answer is code whose printed
number is graded; "exact": letter by letter, as the probes; "none": only the task loss is measured.
"""

Style = Literal["few_shot", "chain_of_thought", "code", "bare"]
"""How a question is put. "few_shot" is the papers' form; with no shots it is zero-shot. "bare" is the
question alone, as GRPO's prompts begin."""

Split = Literal["test", "shots"]
"""What a row may be used for: to be asked, or to stand as a worked example before a question."""


ANOTHER_SPLIT = "another split"
"""Reason of rows that are sound, but not of the part of the data that is asked."""


class BadRowError(ValueError):
    """One row that cannot be asked; the loader sets it aside with its reason."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Item:
    """What one row says."""

    id: str | None
    """The data set's own name of the row; None: the loader names it after its place."""
    question: str
    """What the prompt asks, in the form the task's templates expect."""
    answer: str
    """The gold answer as it should be written: a whole solution where there is one."""
    golds: tuple[str, ...]
    """What the grader compares with: a number, a LaTeX answer, aliases."""
    choices: tuple[str, ...] | None = None
    """Answers to choose from; `answer` is one of them."""
    program: str | None = None
    """Tests to run after a completion."""
    head: str = ""
    """Code that stands before a completion when it is run."""
    sources: tuple[str, ...] = ()
    """What the question was made from, as texts or names: items that share one are no shots."""
    split: Split = "test"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One item as it is asked. `prompt` is preamble, shots and question, in this order."""

    id: str
    task: str
    prompt: str
    answer: str
    """Gold continuation of the prompt, for the task loss."""
    golds: tuple[str, ...]
    choices: tuple[str, ...] | None
    """Continuations to choose from, in the data set's order; None for a task that generates."""
    program: str | None
    """Tests to run after a completion; None where nothing is run."""
    head: str = ""
    """Code that stands before a completion when it is run."""
    preamble: str = ""
    """What `prompt` begins with whatever the number of shots."""
    shots: tuple[str, ...] = ()
    """The worked examples in `prompt`, each with the blank lines after it."""

    def __post_init__(self) -> None:
        if not self.prompt.startswith(self.preamble + "".join(self.shots)):
            raise UserError(f"problem {self.id!r}: the prompt must begin with preamble and shots")
        if self.choices is not None and self.answer not in self.choices:
            raise UserError(f"problem {self.id!r}: the answer is none of the choices")

    @property
    def question(self) -> str:
        """The prompt without preamble and shots."""
        return self.prompt[len(self.preamble) + sum(map(len, self.shots)) :]

    @property
    def gold_choice(self) -> int | None:
        """Place of the right one among the choices, from 0."""
        return None if self.choices is None else self.choices.index(self.answer)

    def with_last_shots(self, number: int) -> "Problem":
        """The same problem with its last `number` shots: the first are cut first."""
        kept = self.shots[len(self.shots) - number :] if number else ()
        return replace(self, prompt=self.preamble + "".join(kept) + self.question, shots=kept)


@dataclass(frozen=True, kw_only=True)
class Template:
    """How an item becomes text."""

    ask: str = "{question}"
    """The prompt of one question; {question} stands for the item's."""
    lead: str = ""
    """What stands between prompt and answer: it belongs to the answer, as in training text."""
    end: str = ""
    """What ends the answer of a shot, e.g. a stop string."""
    between: str = "\n\n"
    """What follows a shot."""
    preamble: str = ""
    """An instruction before everything."""
    rewrite: Callable[[Item], Item] | None = None
    """Changes the item first, e.g. its solution into a program. May raise BadRowError."""
    scorer: Scorer | None = None
    """In place of the task's scorer."""
    sampling: Sampling | None = None
    """In place of the task's decoding."""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Where the Hugging Face hub has a data set."""

    path: str
    """Owner and name."""
    config: str | None
    split: str
    """The items that are asked."""
    shots_path: str | None = None
    """Data set of the shots, where it is another."""
    shots_config: str | None = None
    shots_split: str | None = None
    """None: the hub has no split whose rows may be shots."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark: data, prompt, scorer, metrics, version."""

    name: str
    version: int
    """Rises with every change that can change a score."""
    source: str
    """Where the protocol is described."""
    parse: Callable[[Mapping[str, Any]], Item]
    """One row of the file, in any of the known column layouts. Raises BadRowError."""
    templates: Mapping[Style, Template]
    """The styles it can be asked in, the default first."""
    num_shots: int
    """Default number of worked examples."""
    scorer: Scorer
    sampling: Sampling
    """Default decoding."""
    metrics: tuple[str, ...]
    """Names of the figures in a score row that this task fills."""
    hub: Hub | None = None
    """None: a file must be given."""
    shot_ids: tuple[str, ...] = ()
    """Rows that are shots if the shots' file has them, in this order; else the first rows."""

    @property
    def default_style(self) -> Style:
        """The first of its templates."""
        return next(iter(self.templates))


@dataclass(frozen=True, kw_only=True)
class LoadedTask:
    """A task with its problems, ready to be asked."""

    task: Task
    """With the scorer and the decoding of the chosen style."""
    style: Style
    num_shots: int
    problems: tuple[Problem, ...]
    set_aside: tuple[SetAside, ...]
    """Rows that cannot be asked."""
    data: str
    """What was read, for people."""
    data_digest: str
    """Sixteen hex digits of the problems as they are asked."""

    @property
    def set_aside_counts(self) -> dict[str, int]:
        """Rows that cannot be asked, by reason."""
        counts: dict[str, int] = {}
        for row in self.set_aside:
            counts[row.reason] = counts.get(row.reason, 0) + 1
        return dict(sorted(counts.items()))
