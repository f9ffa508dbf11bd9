"""Test code of the programming tasks: what must run to its end for a completion to pass.

The code uses the candidate's names and nothing outside the standard library. The extended
tasks (HumanEval+, MBPP+) compare the candidate with the reference solution on every input;
the reference runs beside the tests, never beside the candidate.

JSON knows fewer types than Python: a tuple, set or complex number in MBPP+'s inputs arrives as a
list or text. The assertions of the same row are Python, so the types are learned from their
arguments (`argument_kinds`).

Sources: arXiv:2107.03374 (HumanEval), arXiv:2108.07732 (MBPP), arXiv:2305.01210 and its code
(EvalPlus: tolerance of floats, order of results that are sets, truth of match objects, the
polynomial's zero).
"""

import ast
import builtins
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from isoflop.evaluate.tasks.columns import text_of, texts_of
from isoflop.evaluate.tasks.problem import BadRowError

FLOAT_TOLERANCE = 1e-6
"""Absolute tolerance of floats where a row gives none. EvalPlus, eval/__init__.py."""

RELATIVE_TOLERANCE = 1e-7
"""Relative tolerance beside it: the default of the comparison that EvalPlus calls."""

Path = tuple[str, ...]
"""Where a value stands in the arguments: the argument's number, then "*" for each level inside."""

_ROOT_OF_POLYNOMIAL = "find_zero"
"""HumanEval/32 asks for any zero of a polynomial, so its value is tested, not the zero."""

_COMPARE = """
import copy as _copy, math as _math
inf, nan = float("inf"), float("nan")
def _is_float(value):
    inside = isinstance(value, (list, tuple)) and all(isinstance(item, float) for item in value)
    return isinstance(value, float) or inside
def _close(found, wanted, tolerance):
    if isinstance(wanted, (list, tuple)) and isinstance(found, (list, tuple)):
        pairs = zip(found, wanted)
        same_length = len(found) == len(wanted)
        return same_length and all(_close(a, b, tolerance) for a, b in pairs)
    try:
        if _math.isnan(wanted):
            return _math.isnan(found)
        return found == wanted or abs(found - wanted) <= tolerance + RELATIVE * abs(wanted)
    except TypeError:
        return found == wanted
def _same(found, wanted, tolerance):
    if found == wanted:
        return True
    tolerance = tolerance or (FLOAT if _is_float(wanted) else 0)
    return bool(tolerance) and _close(found, wanted, tolerance)
""".replace("RELATIVE", repr(RELATIVE_TOLERANCE)).replace("FLOAT", repr(FLOAT_TOLERANCE))

_MODULES_OF_ASSERTIONS = "import math, sys\n"
"""Some of MBPP+'s assertions use them without importing them."""

_STAND_IN_FOR_NUMPY = (
    _COMPARE
    + """
import sys as _sys, types as _types
def _assert_allclose(found, wanted, rtol=RELATIVE, atol=0, **others):
    assert _close(found, wanted, atol), (found, wanted)
_sys.modules["numpy"] = _types.SimpleNamespace(
    ndarray=type("ndarray", (), {}), float64=float, float32=float,
    testing=_types.SimpleNamespace(assert_allclose=_assert_allclose),
)
""".replace("RELATIVE", repr(RELATIVE_TOLERANCE))
)
"""For tests of the hub's copies, which import numpy for this comparison only."""


def humaneval_program(row: Mapping[str, Any]) -> str:
    """The row's own `check` on the candidate.

    Raises:
        BadRowError: no test, or no entry point.
    """
    return f"{_code_of(row, 'test')}\n\ncheck({_entry_point(row)})\n"


def humaneval_plus_program(row: Mapping[str, Any]) -> str:
    """The row's `check`, then the candidate against the reference on every input.

    Rows without inputs (the hub's copies) bring tests that hold them.

    Raises:
        BadRowError: neither inputs nor tests.
    """
    if row.get("base_input") is None:
        return _STAND_IN_FOR_NUMPY + humaneval_program(row)
    reference = text_of(row, "prompt") + text_of(row, "canonical_solution")
    _parsed(reference, "canonical_solution")
    inputs = _inputs(row, {})
    name = _entry_point(row)
    judge = "_same(_found, _wanted, TOLERANCE)"
    if name == _ROOT_OF_POLYNOMIAL:
        judge = "abs(_names['poly'](*_copy.deepcopy(_input), _found)) <= TOLERANCE"
    return humaneval_program(row) + _against_reference(row, reference, inputs, judge)


def mbpp_program(row: Mapping[str, Any]) -> str:
    """The row's assertions, after what they need set up.

    Raises:
        BadRowError: no assertions.
    """
    setup = ""
    if row.get("test_setup_code"):
        setup = text_of(row, "test_setup_code")
    elif row.get("test_imports"):
        setup = "\n".join(texts_of(row, "test_imports"))
    tests = "\n".join([setup, *texts_of(row, "test_list")])
    _parsed(tests, "test_list")
    return f"{_names_hiding_built_in(row.get('code'))}\n{tests}\n"


def mbpp_plus_program(row: Mapping[str, Any]) -> str:
    """The row's assertions, then the candidate against the reference on every input.

    Raises:
        BadRowError: neither assertions with inputs nor the hub's tests.
    """
    if row.get("base_input") is None:
        return _STAND_IN_FOR_NUMPY + _code_of(row, "test")
    assertions = text_of(row, "assertion")
    name = _entry_point(row)
    nodes = _parsed(assertions, "assertion").body
    tests = [node.test for node in nodes if isinstance(node, ast.Assert)]
    judge = "_same(_found, _wanted, TOLERANCE)"
    if tests and all(_is_truth_of(test, name) for test in tests):
        judge = "bool(_found) == bool(_wanted)"
    elif tests and all(_is_set_of(test, name) for test in tests):
        judge = "set(_found) == set(_wanted)"
    inputs = _inputs(row, argument_kinds(tests, name))
    reference = _code_of(row, "canonical_solution")
    head = _names_hiding_built_in(reference) + _MODULES_OF_ASSERTIONS
    return head + assertions + "\n" + _against_reference(row, reference, inputs, judge)


def argument_kinds(tests: list[ast.expr], name: str) -> dict[Path, set[type]]:
    """The types seen at each place of the arguments of `name` in Python expressions.

    >>> argument_kinds([ast.parse("f((1, 2)) == 3", mode="eval").body], "f")
    {('0',): {<class 'tuple'>}, ('0', '*'): {<class 'int'>}}
    """
    kinds: dict[Path, set[type]] = {}
    for call in (node for test in tests for node in ast.walk(test) if _is_call_of(node, name)):
        for number, argument in enumerate(call.args):  # type: ignore[attr-defined]
            try:
                value = ast.literal_eval(argument)
            except (ValueError, TypeError):  # no plain value; a set of lists
                continue
            for path, kind in _kinds_inside(value, (str(number),)):
                kinds.setdefault(path, set()).add(kind)
    return kinds


def _kinds_inside(value: Any, path: Path) -> Iterator[tuple[Path, type]]:
    yield path, type(value)
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, list | tuple | set | dict):
        for item in items:
            yield from _kinds_inside(item, (*path, "*"))


def _typed(value: Any, path: Path, kinds: dict[Path, set[type]], outer: type) -> Any:
    """A JSON value with the types that were seen at its place; deeper, those around it."""
    seen = kinds.get(path, set())
    if isinstance(value, str):
        return _number_or_text(value) if seen and seen <= {int, float, complex} else value
    if isinstance(value, dict):
        return {key: _typed(item, (*path, "*"), kinds, dict) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if set in seen:
        return _as_set(value) if value or dict not in seen else {}
    kind = tuple if tuple in seen or (not seen & {list} and outer is tuple) else list
    return kind(_typed(item, (*path, "*"), kinds, kind) for item in value)


def _as_set(value: list[Any]) -> set[Any]:
    try:
        return set(value)
    except TypeError:
        raise BadRowError("no set", "an input that should be a set holds a list") from None


def _number_or_text(text: str) -> float | complex | str:
    """A complex number, which JSON can only write as text."""
    try:
        return complex(text) if "j" in text else float(text)
    except ValueError:
        return text


def _is_call_of(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _is_truth_of(test: ast.expr, name: str) -> bool:
    """`f(...)` or `not f(...)`: its truth is asked, as of a match object."""
    return _is_call_of(test.operand if isinstance(test, ast.UnaryOp) else test, name)


def _is_set_of(test: ast.expr, name: str) -> bool:
    """`set(f(...)) == ...`: its order is not asked."""
    return (
        isinstance(test, ast.Compare)
        and _is_call_of(test.left, "set")
        and any(_is_call_of(node, name) for node in ast.walk(test.left))
    )


def _names_hiding_built_in(reference: Any) -> str:
    """Code for tests that stand apart: functions named like a built-in one are the source's.

    Which these are, the reference says: a candidate must not be able to choose.
    """
    try:
        nodes = _parsed(reference, "code").body if isinstance(reference, str) else []
    except BadRowError:
        return ""
    functions = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
    lines = [f"    {name} = __source__.{name}\n" for name in functions if name in dir(builtins)]
    return "".join(['if "__source__" in globals():\n', *lines]) if lines else ""


def _code_of(row: Mapping[str, Any], name: str) -> str:
    """The Python in a column. Tests that are none would call every model's answer wrong."""
    code = text_of(row, name)
    _parsed(code, name)
    return code


def _parsed(code: str, name: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = str(error) or type(error).__name__
        raise BadRowError("not Python", f"column {name!r}: {problem}") from None


def _entry_point(row: Mapping[str, Any]) -> str:
    name = text_of(row, "entry_point")
    if not name.isidentifier():
        raise BadRowError("not a name", "column 'entry_point'")
    return name


def _inputs(row: Mapping[str, Any], kinds: dict[Path, set[type]]) -> list[list[Any]]:
    """Arguments of every call, base inputs first."""
    base, plus = row.get("base_input"), row.get("plus_input")
    rows = [*(base if isinstance(base, list) else []), *(plus if isinstance(plus, list) else [])]
    if not rows or not all(isinstance(inputs, list) for inputs in rows):
        raise BadRowError(
            "no inputs", "columns 'base_input' and 'plus_input' must be lists of lists"
        )
    return [
        [_typed(value, (str(number),), kinds, list) for number, value in enumerate(inputs)]
        for inputs in rows
    ]


def _against_reference(
    row: Mapping[str, Any], reference: str, inputs: list[list[Any]], judge: str
) -> str:
    """Code that calls candidate and reference with copies of the same arguments."""
    tolerance = row.get("atol") or 0
    if not isinstance(tolerance, int | float):
        raise BadRowError("not a number", "column 'atol'")
    name = _entry_point(row)
    return f"""{_COMPARE}
_names = {{"__name__": "reference"}}
exec({reference!r}, _names)
for _input in {inputs!r}:
    _wanted = _names[{name!r}](*_copy.deepcopy(_input))
    _found = {name}(*_copy.deepcopy(_input))
    assert {judge.replace("TOLERANCE", repr(tolerance))}, "differs from the reference"
"""
