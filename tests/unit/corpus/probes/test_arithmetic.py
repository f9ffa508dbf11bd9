"""Solutions are true, held-out problems are new, and every problem exists once."""

import math
import random
import re
from collections import Counter
from itertools import product

import pytest

from isoflop.config import UserError, override
from isoflop.corpus import ArithmeticProbe
from isoflop.corpus.probes.arithmetic import arithmetic, problem_of, solve, spell

SMALL = {"num_problems": 600, "num_validation": 50, "num_items": 60}
PROBES = [
    ArithmeticProbe(**SMALL),
    ArithmeticProbe(**SMALL, form="values", operations="+-*", modulus=23, max_steps=6),
    ArithmeticProbe(**SMALL, variable_names="random", statement_order="shuffled"),
    ArithmeticProbe(**SMALL, min_steps=24, max_steps=24),
    ArithmeticProbe(**SMALL, form="running_sums", operations="+"),
]


def evaluate(prompt: str, modulus: int) -> tuple[dict[str, int], str]:
    """Values of a prompt's variables and the one asked for, by Python's own arithmetic."""
    *statements, question = prompt.split(";")
    formulas = dict(statement.split("=") for statement in statements)

    def value(name: str) -> int:
        terms = {letter: value(letter) for letter in re.findall("[a-z]", formulas[name])}
        return int(eval(formulas[name], {}, terms)) % modulus

    return {name: value(name) for name in formulas}, question.removesuffix("?")


@pytest.mark.parametrize("probe", PROBES)
def test_every_solution_is_true(probe):
    texts = arithmetic(probe, 1)
    for item in texts.items:
        if probe.form == "running_sums":
            terms = [int(digit) for digit in item.prompt.removesuffix("=")]
            sums = [sum(terms[: i + 2]) % probe.modulus for i in range(len(terms) - 1)]
            assert item.answer == item.final_answer == "".join(map(str, sums))
            continue
        values, asked = evaluate(item.prompt, probe.modulus)
        worked, _, final = item.answer.partition("#")
        assert final == item.final_answer == str(values[asked])
        steps = [step.split("=") for step in worked.split(";")]
        assert {step[0]: int(step[-1]) for step in steps} == values
        for _, *parts in steps:
            assert len({eval(part) % probe.modulus for part in parts}) == 1


@pytest.mark.parametrize("probe", PROBES)
def test_held_out_problems_are_in_no_training_document(probe):
    texts = arithmetic(probe, 2)
    train = [document.text for document in texts.train]
    held_out = [item for item in texts.items if item.split == "held_out"]
    seen = [item for item in texts.items if item.split == "seen"]
    assert (len(train), len(texts.validation)) == (probe.num_problems, probe.num_validation)
    assert len(held_out) == len(seen) == probe.num_items
    assert len(set(train)) == len(train)
    assert all(item.prompt + item.answer in train for item in seen)
    for item in held_out:
        assert not [text for text in train if text.startswith(item.prompt)]
    labels = [document.id.split("-", 2)[2] for document in texts.train + texts.validation]
    labels += [item.id.split("-", 2)[2] for item in held_out]
    assert len(set(labels)) == len(labels)
    assert all(document.text.isascii() for document in texts.train)


def test_other_names_or_another_order_are_no_new_problem():
    probe = ArithmeticProbe(
        modulus=3, min_steps=2, max_steps=2, num_problems=30, num_validation=8, num_items=10
    )
    probe = override(override(probe, "variable_names=random"), "statement_order=shuffled")
    assert probe.num_possible == 48

    def bare(prompt: str) -> tuple[str, ...]:
        """A prompt's chain without its names: operations in the order in which they apply."""
        *statements, question = prompt.split(";")
        formulas = dict(statement.split("=") for statement in statements)
        chain, name = [], question[0]
        while formulas[name][0].isalpha():
            chain.append(formulas[name][1:])
            name = formulas[name][0]
        return (formulas[name], *reversed(chain))

    texts = arithmetic(probe, 0)
    train = {bare(document.text.partition("?")[0] + "?") for document in texts.train}
    asked = {bare(item.prompt) for item in texts.items if item.split == "held_out"}
    assert len(train) == 30
    assert len(asked) == 10
    assert not train & asked


@pytest.mark.parametrize("operations", ["+", "+*", "+-*"])
def test_numbers_and_problems_are_one_to_one(operations):
    probe = ArithmeticProbe(
        modulus=3, operations=operations, num_problems=1, num_validation=1, num_items=1
    )
    terms = [(sign, constant) for sign in operations for constant in (1, 2)]
    for steps in (2, 3):
        count = probe.num_possible_of(steps)
        problems = {problem_of(probe, (steps, place)) for place in range(count)}
        every = product(range(3), product(terms, repeat=steps))
        assert {(problem.start, problem.steps) for problem in problems} == set(every)
        assert len(problems) == count


def test_all_problems_that_exist_can_be_asked_for_and_not_one_more():
    probe = ArithmeticProbe(
        modulus=2, min_steps=1, max_steps=3, num_problems=20, num_validation=4, num_items=4
    )
    assert probe.num_possible == 28 == 2 * (2 + 4 + 8)
    texts = arithmetic(probe, 0)
    everything = {d.text for d in texts.train + texts.validation}
    everything |= {i.prompt + i.answer for i in texts.items}
    assert len(everything) == 28
    with pytest.raises(UserError, match="= 29 different problems, but only 28 exist"):
        override(probe, "num_problems=21")


def test_questions_do_not_depend_on_how_many_problems_are_trained_on():
    def held_out(num_problems: int) -> list[str]:
        texts = arithmetic(override(PROBES[2], f"num_problems={num_problems}"), 5)
        return [item.prompt for item in texts.items if item.split == "held_out"]

    assert held_out(100) == held_out(5000)


def test_final_answers_are_uniform_for_a_prime_modulus():
    probe = ArithmeticProbe(modulus=5, min_steps=2, max_steps=2, **(SMALL | {"num_problems": 100}))
    answers = Counter(
        solve(problem_of(probe, (2, place)), 5)[-1] for place in range(probe.num_possible)
    )
    assert set(answers.values()) == {probe.num_possible // 5}


def test_information_is_that_of_the_tables():
    for operations in ("+", "+-*"):
        probe = ArithmeticProbe(operations=operations, modulus=5, **SMALL)
        entries = {(sign, a, b) for sign in operations for a in range(5) for b in range(1, 5)}
        tables = 5 ** len(entries)
        assert probe.information_bits == pytest.approx(math.log2(tables))


def test_forms_are_pinned():
    expected = {
        "substituted": "a=5;b=a+2;c=b*3;c?a=5;b=5+2=0;c=0*3=0#0",
        "values": "a=5;b=a+2;c=b*3;c?a=5;b=0;c=0#0",
    }
    for form, text in expected.items():
        probe = ArithmeticProbe(form=form, **SMALL)
        code = next(
            (2, place)
            for place in range(probe.num_possible_of(2))
            if problem_of(probe, (2, place)).start == 5
            and problem_of(probe, (2, place)).steps == (("+", 2), ("*", 3))
        )
        spelled = spell(probe, code, random.Random(0))
        assert spelled.prompt + spelled.answer == text
    running = arithmetic(PROBES[-1], 0)
    assert [document.text for document in running.train[:3]] == ["3012=346", "6200=111", "334=63"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["max_steps=25"], "<= 24"),
        (["min_steps=5"], "min_steps=5"),
        (["operations=/"], "operations='/' must be some of"),
        (["operations=++"], "repeats one"),
        (["modulus=1"], "modulus=1 must be at least 2"),
        (["form=running_sums"], "needs operations='\\+'"),
        (["modulus=11", "operations=+", "form=running_sums"], "modulus <= 10"),
        (["operations=+", "variable_names=random", "form=running_sums"], "no variables"),
    ],
)
def test_impossible_problems_are_refused(changes, message):
    probe = ArithmeticProbe(**SMALL)
    *before, last = changes
    for change in before:
        probe = override(probe, change)
    with pytest.raises(UserError, match=message):
        override(probe, last)
