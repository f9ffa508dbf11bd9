"""Test code of the programming tasks: right answers pass, wrong ones do not, types are recovered."""

import ast
import contextlib
import io
import sys
from unittest import mock

import pytest

from isoflop.evaluate.tasks.problem import BadRowError
from isoflop.evaluate.tasks.programs import (
    argument_kinds,
    humaneval_plus_program,
    humaneval_program,
    mbpp_plus_program,
    mbpp_program,
)

HUMANEVAL = {
    "prompt": "def half(x):\n",
    "canonical_solution": "    return x / 2\n",
    "entry_point": "half",
    "test": "def check(candidate):\n    assert candidate(4) == 2\n",
    "base_input": [[4]],
    "plus_input": [[1], [-3], [float("inf")]],
    "atol": 0,
}


def mbpp_row(solution: str, assertion: str, *inputs: object, atol: float = 0) -> dict[str, object]:
    name = assertion.split("assert ")[1].removeprefix("not ").split("(")[0]
    name = "f" if name in ("set", "math.isclose") else name
    return {
        "canonical_solution": solution,
        "entry_point": name,
        "assertion": assertion,
        "base_input": list(inputs),
        "plus_input": [],
        "atol": atol,
    }


def passes(source: str, tests: str) -> bool:
    """Runs only what this file holds; tests put a numpy of their own among the modules."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), mock.patch.dict(sys.modules):
            exec(source + "\n" + tests, {"__name__": "__main__"})
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("body", "plain", "plus"),
    [
        ("return x / 2", True, True),
        ("return x * 0.5 + 1e-9", False, True),
        ("return 2", True, False),
        ("return x // 2", True, False),
        ("return None", False, False),
    ],
)
def test_the_extended_tests_find_what_the_plain_ones_miss(
    body: str, plain: bool, plus: bool
) -> None:
    source = f"def half(x):\n    {body}\n"
    assert passes(source, humaneval_program(HUMANEVAL)) == plain
    only_plus = HUMANEVAL | {"test": "def check(candidate): pass"}
    assert passes(source, humaneval_plus_program(only_plus)) == plus


@pytest.mark.parametrize(("off", "passed"), [(0.9e-6, True), (1.3e-6, False)])
def test_floats_are_equal_up_to_evalplus_tolerance(off, passed):
    # 1e-6, and 1e-7 of the reference value, which is 1.
    row = HUMANEVAL | {"test": "def check(candidate): pass", "base_input": [[2]], "plus_input": []}
    program = humaneval_plus_program(row)
    assert passes(f"def half(x): return x / 2 + {off}", program) == passed


def test_any_zero_of_a_polynomial_is_right() -> None:
    row = HUMANEVAL | {
        "prompt": "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n"
        "def find_zero(xs):\n",
        "canonical_solution": "    return 1.0\n",
        "entry_point": "find_zero",
        "test": "def check(candidate): pass",
        "base_input": [[[-1, 0, 1]]],
        "plus_input": [],
        "atol": 1e-4,
    }
    assert passes("def find_zero(xs): return -1.0", humaneval_plus_program(row))
    assert not passes("def find_zero(xs): return 0.5", humaneval_plus_program(row))


def test_types_that_json_lost_are_learned_from_the_assertions() -> None:
    solution = "def f(a, b): return (type(a), [type(i) for i in a], b)"
    row = mbpp_row(solution, "assert f([(1, 2)], {3}) is not None", [[[1, 2], [3]], [4, 5]])
    program = mbpp_plus_program(row)
    assert "[[(1, 2), (3,)], {4, 5}]" in program
    assert passes(solution, program)
    kinds = argument_kinds([ast.parse("f((1, [2j])) == 3", mode="eval").body], "f")
    assert kinds[("0",)] == {tuple}
    assert kinds[("0", "*", "*")] == {complex}


def test_truth_and_order_are_asked_only_where_the_assertions_ask_for_them() -> None:
    truth = mbpp_row("def f(x): return x > 0", "assert f(1)", [1], [0])
    assert passes("def f(x): return 'yes' if x > 0 else None", mbpp_plus_program(truth))
    order = mbpp_row("def f(x): return sorted(x)", "assert set(f([1, 2])) == {1, 2}", [[2, 1]])
    assert passes("def f(x): return x", mbpp_plus_program(order))
    exact = mbpp_row("def f(x): return sorted(x)", "assert f([1, 2]) == [1, 2]", [[2, 1]])
    assert not passes("def f(x): return x", mbpp_plus_program(exact))


def test_the_hubs_rows_need_no_numpy() -> None:
    row = {
        "entry_point": "f",
        "test": "import numpy as np\nnp.testing.assert_allclose(f(1), 1.0, rtol=1e-07, atol=1e-6)\n",
    }
    assert passes("def f(x): return 1.0 + 1e-9", mbpp_plus_program(row))
    assert not passes("def f(x): return 1.1", mbpp_plus_program(row))


def test_plain_mbpp_runs_its_set_up_and_its_assertions() -> None:
    row = {"code": "", "test_setup_code": "one = 1", "test_list": ["assert f() == one"]}
    assert passes("def f(): return 1", mbpp_program(row))
    assert not passes("def f(): return 2", mbpp_program(row))


@pytest.mark.parametrize(
    "change",
    [
        {"entry_point": "a b"},
        {"base_input": [], "plus_input": []},
        {"base_input": [1]},
        {"atol": "x"},
        {"test": ""},
        {"canonical_solution": None},
    ],
)
def test_a_row_that_cannot_be_used_says_why(change: dict[str, object]) -> None:
    with pytest.raises(BadRowError):
        humaneval_plus_program(HUMANEVAL | change)
