"""A page on which the answers of a run can be read: what was asked, said and earned, step by step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from isoflop.posttrain.left_out import LEFT_OUT_FILE, left_out_lines
from isoflop.posttrain.rows import GrpoStepRow, GrpoValidationRow, LeftOutRow, RolloutRow
from isoflop.records import read_rows, write_text
from isoflop.tokens.tokenizer import Tokenizer

PAGE_FILE = "rollouts.html"

STEPS_SHOWN = 5
"""Steps whose answers stand on the page, evenly spaced, the first and the last among them."""

PROBLEMS_SHOWN = 8
"""Problems of a step: those whose answers earned differently first. Chosen for a page of some hundred
kilobytes; all answers stand in answers/."""

TEXT_CHARACTERS = 2000
"""Of an answer that are shown."""


@dataclass(frozen=True)
class ShownProblem:
    """One problem with its answers."""

    problem: str
    prompt: str
    answers: tuple[RolloutRow, ...]


@dataclass(frozen=True)
class ShownStep:
    """One step with some of its problems."""

    row: GrpoStepRow
    problems: tuple[ShownProblem, ...]


def write_page(folder: Path, tokenizer: Tokenizer) -> Path:
    """Write the page of a finished run; returns its path."""
    steps = list(read_rows(folder / "steps.jsonl", GrpoStepRow))
    validation = list(read_rows(folder / "validation.jsonl", GrpoValidationRow))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("isoflop.posttrain", "."), autoescape=True, trim_blocks=True
    )
    template = environment.get_template("rollouts.html.j2")
    text = template.render(
        title=folder.name,
        steps=steps,
        validation=validation,
        left_out=left_out_lines(read_rows(folder / LEFT_OUT_FILE, LeftOutRow)),
        shown=list(_shown(folder, steps, tokenizer)),
        characters=TEXT_CHARACTERS,
    )
    write_text(folder / PAGE_FILE, text)
    return folder / PAGE_FILE


def _shown(folder: Path, steps: Sequence[GrpoStepRow], tokenizer: Tokenizer) -> Iterator[ShownStep]:
    for place in spread_over(len(steps), STEPS_SHOWN):
        row = steps[place]
        answers = read_rows(folder / "answers" / f"step-{row.step:08d}.jsonl", RolloutRow)
        by_problem: dict[str, list[RolloutRow]] = {}
        for answer in answers:
            by_problem.setdefault(answer.problem, []).append(answer)
        # Groups without a signal teach nothing: those with one are what a reader wants to see.
        ordered = sorted(by_problem.values(), key=lambda many: len({a.reward for a in many}) == 1)
        yield ShownStep(
            row,
            tuple(
                ShownProblem(many[0].problem, tokenizer.decode(many[0].prompt_tokens), tuple(many))
                for many in ordered[:PROBLEMS_SHOWN]
            ),
        )


def spread_over(count: int, wanted: int) -> list[int]:
    """Places from the first to the last of `count`, evenly spaced, at most `wanted`.

    >>> spread_over(105, 5), spread_over(2, 5)
    ([0, 26, 52, 78, 104], [0, 1])
    """
    if count <= wanted:
        return list(range(count))
    return [round(place * (count - 1) / (wanted - 1)) for place in range(wanted)]
