"""Reasoning probe: arithmetic in several steps with worked solutions, on unseen problems.

A problem has a number, so that problems that differ in nothing but names or
order are one problem: the split is made on numbers, and texts are spelled after it.

Source: iGSM, "Physics of Language Models" 2.1 (arXiv:2407.20311), reduced to one chain.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_lowercase

from isoflop.corpus.config import ArithmeticProbe
from isoflop.corpus.probes.texts import (
    HELD_OUT,
    SEEN,
    ProbeTexts,
    draw_distinct,
    spread_evenly,
)
from isoflop.corpus.seeds import generator
from isoflop.graders.exact import FINAL_ANSWER_MARK
from isoflop.records import Document, EvaluationItem

Code = tuple[int, int]
"""A problem's number: its steps, and its place among the problems of so many steps."""


@dataclass(frozen=True)
class Problem:
    """A start and the operations that change it, each with its constant."""

    start: int
    steps: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Spelled:
    """One problem as text; prompt + answer is a document."""

    code: Code
    prompt: str
    answer: str
    final_answer: str


def arithmetic(probe: ArithmeticProbe, seed: int) -> ProbeTexts:
    """Training problems, validation problems and questions, of which no held-out one is trained on.

    Steps are spread evenly over min_steps..max_steps as far as so many problems exist.
    """
    held_out: dict[Code, None] = {}
    groups: dict[str, list[Spelled]] = {}
    # Questions are drawn first: they do not depend on how many problems are trained on.
    sizes = {HELD_OUT: probe.num_items, "validation": probe.num_validation}
    for group, size in (*sizes.items(), ("train", probe.num_problems)):
        draws = generator(seed, "arithmetic problems", probe.name, group)
        codes = _draw(probe, size, held_out, draws)
        held_out.update(dict.fromkeys(codes))
        spelling = generator(seed, "arithmetic spelling", probe.name, group)
        groups[group] = [spell(probe, code, spelling) for code in codes]
    # Training problems are drawn in random order, so the first are as good as any.
    asked = [(SEEN, spelled) for spelled in groups["train"][: probe.num_items]]
    asked += [(HELD_OUT, spelled) for spelled in groups[HELD_OUT]]
    return ProbeTexts(
        train=_documents(probe, "train", groups["train"]),
        validation=_documents(probe, "validation", groups["validation"]),
        items=[_item(probe, split, spelled) for split, spelled in asked],
    )


def spell(probe: ArithmeticProbe, code: Code, draws: random.Random) -> Spelled:
    """Problem, worked solution and final answer as text, in the probe's form."""
    problem = problem_of(probe, code)
    values = solve(problem, probe.modulus)
    if probe.form == "running_sums":
        terms = [problem.start, *(constant for _, constant in problem.steps)]
        answer = "".join(str(value) for value in values[1:])
        return Spelled(code, "".join(map(str, terms)) + "=", answer, answer)
    letters = list(ascii_lowercase)
    if probe.variable_names == "random":
        draws.shuffle(letters)
    names = letters[: len(values)]
    given, worked = [f"{names[0]}={problem.start}"], [f"{names[0]}={problem.start}"]
    for position, (sign, constant) in enumerate(problem.steps):
        name, before, value = names[position + 1], values[position], values[position + 1]
        given.append(f"{name}={names[position]}{sign}{constant}")
        step = f"{before}{sign}{constant}=" if probe.form == "substituted" else ""
        worked.append(f"{name}={step}{value}")
    if probe.statement_order == "shuffled":
        draws.shuffle(given)
    final = str(values[-1])
    prompt = ";".join([*given, f"{names[-1]}?"])
    return Spelled(code, prompt, ";".join(worked) + FINAL_ANSWER_MARK + final, final)


def problem_of(probe: ArithmeticProbe, code: Code) -> Problem:
    """The problem of a number: one for each number, and each of the probe's problems once."""
    steps, rest = code
    rest, start = divmod(rest, probe.modulus)
    chosen = []
    for _ in range(steps):
        rest, sign = divmod(rest, len(probe.operations))
        rest, constant = divmod(rest, len(probe.constants))
        chosen.append((probe.operations[sign], probe.constants[constant]))
    return Problem(start, tuple(chosen))


def solve(problem: Problem, modulus: int) -> list[int]:
    """The start and the value after each step."""
    values = [problem.start]
    for sign, constant in problem.steps:
        before = values[-1]
        after = {"+": before + constant, "-": before - constant, "*": before * constant}[sign]
        values.append(after % modulus)
    return values


def _draw(
    probe: ArithmeticProbe, count: int, excluded: Iterable[Code], draws: random.Random
) -> list[Code]:
    """`count` different problems outside `excluded`, in random order."""
    taken: dict[int, set[int]] = {s: set() for s in range(probe.min_steps, probe.max_steps + 1)}
    for steps, place in excluded:
        taken[steps].add(place)
    free = [probe.num_possible_of(steps) - len(places) for steps, places in taken.items()]
    codes = [
        (steps, place)
        for (steps, places), size in zip(taken.items(), spread_evenly(count, free), strict=True)
        for place in draw_distinct(probe.num_possible_of(steps), size, places, draws)
    ]
    draws.shuffle(codes)
    return codes


def _documents(probe: ArithmeticProbe, kind: str, group: list[Spelled]) -> list[Document]:
    return [
        Document(id=f"{probe.name}-{kind}-{_label(spelled)}", text=spelled.prompt + spelled.answer)
        for spelled in group
    ]


def _item(probe: ArithmeticProbe, split: str, spelled: Spelled) -> EvaluationItem:
    return EvaluationItem(
        id=f"{probe.name}-{split}-{_label(spelled)}",
        task=probe.name,
        split=split,
        prompt=spelled.prompt,
        answer=spelled.answer,
        final_answer=spelled.final_answer,
    )


def _label(spelled: Spelled) -> str:
    """Steps and number of the problem."""
    return "{}-steps-{}".format(*spelled.code)
