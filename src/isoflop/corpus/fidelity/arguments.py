"""Arguments on which two functions are compared: typed, seeded, and near the code's own constants."""

import ast
from dataclasses import dataclass
from random import Random

from isoflop.corpus.fidelity.functions import Function
from isoflop.corpus.fidelity.kinds import ANY_KINDS, kinds_of
from isoflop.corpus.seeds import generator

CALLS = 16
"""Calls of one function. Chosen."""

OFF_TYPE_SHARE = 0.1
"""Of arguments drawn from any kind, whatever was guessed. Chosen."""

LIST_ITEMS = 6
"""Longest list. Short ones are enough for most branches, and end soon in exponential code."""

MOST_INTEGER = 60
"""Of freely drawn whole numbers: recursive code without a memory ends. Chosen."""

_WORDS = (
    "", "a", "abc", "Hello World", "racecar", "the quick brown fox", "A1b2 C3", "  spaced  ", "12321",
    "aabbcc", "hello", "Python", "UPPER", "x,y,z", "(a[b]{c})", "2024-01-31", "été", "mississippi", "0", "-7",
)  # fmt: skip
_DIGITS = ("0", "1", "7", "12", "100", "-3", "2.5")
_INTEGERS = (0, 1, 2, 3, 5, -1, 10, 7, 12, 100)
_FLOATS = (0.0, 1.0, 0.5, -2.5, 3.14, 10.0, 100.25)


@dataclass(frozen=True, kw_only=True)
class Call:
    """Arguments as Python literals."""

    positional: tuple[str, ...]
    keywords: tuple[tuple[str, str], ...] = ()


def calls_for(before: Function, after: Function, *, seed: int) -> list[Call]:
    """Calls that both functions are given; the same for the same functions and seed.

    A parameter's kind comes from the function before, or, where that has no annotation, from the one
    after: rewriting adds annotations. Equal calls are made once.
    """
    pool = _constants(before)
    calls: dict[Call, None] = {}
    kinds = _kinds(before, after)
    for number in range(CALLS):
        draw = generator(seed, "arguments", before.name, number)
        given = _number_given(before, draw, number)
        # In each call one argument is special: by turns an edge, and one of the code's constants.
        special = (number // 2) % max(1, given)
        values = pool if number % 2 else _edges(number // 2 // max(1, given))
        positional = [
            repr(_value(kind, draw, values if place == special else {}))
            for place, kind in enumerate(_chosen(kinds[:given], draw, number))
        ]
        if before.takes_more:
            positional += [repr(_value("int", draw, {})) for _ in range(draw.randrange(3))]
        named = [p for p in before.parameters if p.by_name and p.default is None]
        keywords = tuple((p.name, repr(_value(kinds_of(before, p)[0], draw, {}))) for p in named)
        calls[Call(positional=tuple(positional), keywords=keywords)] = None
    return list(calls)


def _kinds(before: Function, after: Function) -> list[tuple[str, ...]]:
    there = [parameter for parameter in after.parameters if not parameter.by_name]
    kinds = []
    for place, parameter in enumerate(p for p in before.parameters if not p.by_name):
        better = there[place] if place < len(there) else None
        if parameter.annotation is None and better is not None and better.annotation is not None:
            kinds.append(kinds_of(after, better))
        else:
            kinds.append(kinds_of(before, parameter))
    return kinds


def _number_given(function: Function, draw: Random, number: int) -> int:
    """All arguments, or in every fourth call only some of those that have a default."""
    if number % 4 or function.required == function.most:
        return function.most
    return draw.randint(function.required, function.most)


def _chosen(kinds: list[tuple[str, ...]], draw: Random, number: int) -> list[str]:
    chosen = []
    for likely in kinds:
        if number and draw.random() < OFF_TYPE_SHARE:
            chosen.append(draw.choice(ANY_KINDS))
        else:
            # The likeliest kind in half of the calls.
            chosen.append(likely[0] if draw.random() < 0.5 else draw.choice(likely))
    return chosen


def _value(kind: str, draw: Random, pool: dict[str, list[object]]) -> object:
    if kind in pool:
        return draw.choice(pool[kind])
    if kind == "int":
        free = draw.randint(-MOST_INTEGER // 6, MOST_INTEGER)
        return free if draw.random() < 0.5 else draw.choice(_INTEGERS)
    if kind == "float":
        return round(draw.uniform(-10, 100), 2) if draw.random() < 0.5 else draw.choice(_FLOATS)
    if kind == "bool":
        return draw.random() < 0.5
    if kind == "none":
        return None
    if kind == "digits":
        return draw.choice(_DIGITS)
    if kind == "bytes":
        return draw.choice(_WORDS).encode()
    if kind == "str":
        return draw.choice(_WORDS)
    return _container(kind, draw, pool)


def _container(kind: str, draw: Random, pool: dict[str, list[object]]) -> object:
    length = draw.randint(0, LIST_ITEMS)
    if kind == "list[list]":
        width = draw.randint(1, 3)
        side = draw.randint(1, 3)
        return [[_value("int", draw, pool) for _ in range(width)] for _ in range(side)]
    if kind == "dict":
        return {draw.choice(_WORDS): _value("int", draw, pool) for _ in range(length)}
    inner = kind[5:-1] if kind.startswith("list[") else "int"
    items = [_value(inner, draw, pool) for _ in range(length)]
    if kind == "tuple":
        return tuple(items)
    return set(items) if kind == "set" else items


def _edges(turn: int) -> dict[str, list[object]]:
    """One edge of each simple kind, another one each turn."""
    edges = {"int": _INTEGERS, "float": _FLOATS, "str": _WORDS, "digits": _DIGITS}
    return {kind: [values[turn % len(values)]] for kind, values in edges.items()}


def _constants(function: Function) -> dict[str, list[object]]:
    """Whole numbers and texts in the body, and numbers beside them: where branches turn."""
    pool: dict[str, list[object]] = {}
    for node in ast.walk(function.node):
        if not isinstance(node, ast.Constant):
            continue
        value = node.value
        if type(value) is int and abs(value) <= 10_000:
            pool.setdefault("int", []).extend((value, value + 1, value - 1))
        elif type(value) is str and 0 < len(value) <= 20:
            pool.setdefault("str", []).append(value)
    return pool
