"""Did a rewriting of Python keep the behaviour? Both texts are run in the sandbox on the same calls.

A module's functions are matched by name, by words, or by parameters; each pair is called with the same
seeded arguments, and results, exceptions, output and changed arguments are compared. A module with
statements of its own is also run as a script. Each side runs in a process of its own; the text before
runs twice, with two seeds, so that chance is not taken for a change.

Not compared: methods (no object to call them on), coroutines, files, network, time, and the words of
exceptions.
"""

import ast
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from isoflop.corpus.fidelity.arguments import Call, calls_for
from isoflop.corpus.fidelity.functions import Match, functions_of, match_functions
from isoflop.corpus.fidelity.observations import (
    Judgement,
    Seen,
    Verdict,
    judge_calls,
    judge_program,
    reports_in,
)
from isoflop.corpus.fidelity.result import FidelityRow, FunctionFidelity
from isoflop.corpus.fidelity.values import words_of
from isoflop.corpus.rewrite.python_source import tree_of
from isoflop.corpus.rows import TextRow
from isoflop.sandbox import Limits, Outcome, Program, Sandbox

MOST_FUNCTIONS = 40
"""Of one module that are called. Chosen."""

LIMITS = Limits(
    cpu_seconds=8.0, wall_seconds=20.0, memory_bytes=512 * 2**20, output_bytes=16 * 2**20
)
"""Of one process. Chosen: forty functions with sixteen calls take a tenth of a second."""

SCRIPT_INPUT = "7\n3\n12\n5\n2\n10\n4\n1\n8\n6\n" * 3
"""What a script reads when it asks. Whole numbers satisfy most; what wants words is not comparable."""

SEEDS = (0, 1)

NO_SOURCE = "does not compile"

_OWN_IMPORT = re.compile(r"^from isoflop\.[^(\n]*(?:\([^)]*\))?\n", re.MULTILINE)
"""In the sandbox both files are one."""

_DEFINITIONS = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign,
    ast.AnnAssign,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A text and what it was rewritten to."""

    before: TextRow
    after: TextRow


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is run for one pair."""

    pair: Pair
    matches: tuple[Match, ...]
    calls: tuple[tuple[int, Call], ...]
    """Number of the match, and the call."""
    is_script: bool
    programs: tuple[Program, ...]
    """Three for the functions, three for the script; either may be missing."""


def compare_code(
    pairs: Iterable[Pair], sandbox: Sandbox, *, seed: int = 0
) -> Iterator[FidelityRow]:
    """One row a pair, in order. Memory: as many pairs as the sandbox runs ahead.

    The sandbox should have this module's `LIMITS`.
    """
    plans: deque[_Plan] = deque()

    def programs() -> Iterator[Program]:
        for pair in pairs:
            plan = _plan(pair, seed)
            plans.append(plan)
            # A pair with nothing to run still needs its turn.
            yield from plan.programs or (Program(source=""),)

    outcomes = sandbox.run(programs())
    for first in outcomes:
        plan = plans.popleft()
        rest = [next(outcomes) for _ in plan.programs[1:]]
        yield _row(plan, [first, *rest] if plan.programs else [])


def _plan(pair: Pair, seed: int) -> _Plan:
    before, after = tree_of(pair.before.text), tree_of(pair.after.text)
    if before is None or after is None:
        return _Plan(pair=pair, matches=(), calls=(), is_script=False, programs=())
    matches = match_functions(functions_of(before), functions_of(after))
    calls = [
        (number, call)
        for number, match in enumerate(matches[:MOST_FUNCTIONS])
        if match.after is not None and not _is_coroutine(match)
        for call in calls_for(match.before, match.after, seed=seed)
    ]
    beside = {
        "absent": sorted(_imported(before) | _imported(after)),
        "globals": sorted(_globals(before) & _globals(after)),
    }
    programs: list[Program] = []
    if calls:
        programs += _three(pair, "module", beside, matches, calls)
    is_script = any(
        not isinstance(node, _DEFINITIONS) and not _is_text(node) for node in before.body
    )
    if is_script:
        programs += _three(pair, "__main__", beside, matches, [])
    return _Plan(
        pair=pair,
        matches=tuple(matches),
        calls=tuple(calls),
        is_script=is_script,
        programs=tuple(programs),
    )


def _three(
    pair: Pair,
    name: str,
    beside: dict[str, list[str]],
    matches: list[Match],
    calls: list[tuple[int, Call]],
) -> list[Program]:
    """Before with both seeds, after with the first."""
    sides = []
    for text, seed, is_after in (
        (pair.before.text, SEEDS[0], False),
        (pair.before.text, SEEDS[1], False),
        (pair.after.text, SEEDS[0], True),
    ):
        asked = [
            {
                "function": _name(matches[number], is_after=is_after),
                "positional": call.positional,
                "keywords": call.keywords,
            }
            for number, call in calls
        ]
        job = {
            "source": text,
            "name": name,
            "calls": asked,
            "seed": seed,
            "stdin": SCRIPT_INPUT,
            **beside,
        }
        source = f"{_inside()}\n\nmain({json.dumps(json.dumps(job))})\n"
        sides.append(Program(source=source))
    return sides


def _row(plan: _Plan, outcomes: list[Outcome]) -> FidelityRow:
    seen = [reports_in(outcome.stdout) for outcome in outcomes]
    functions = _functions(plan, seen[:3]) if plan.calls else _uncalled(plan)
    program = None
    if plan.is_script:
        program = judge_program(*(reports.get(-1) for reports in seen[-3:]))
    judged = [function.judgement for function in functions]
    judged += [] if program is None else [program]
    verdict, reason = _verdict(plan, judged)
    pairs = [(m.before.name, m.after.name) for m in plan.matches if m.renamed and m.after]
    return FidelityRow(
        before_id=plan.pair.before.id,
        after_id=plan.pair.after.id,
        where=plan.pair.before.where,
        compared_as="code",
        verdict=verdict,
        reason=reason,
        functions=tuple(functions),
        program=program,
        renamed=tuple(f"{old} -> {new}" for old, new in pairs if not old.startswith("_")),
        missing=tuple(m.before.name for m in plan.matches if m.after is None and m.before.public),
    )


def _verdict(plan: _Plan, judged: list[Judgement]) -> tuple[Verdict, str | None]:
    verdicts = [judgement.verdict for judgement in judged]
    if "different" in verdicts:
        return "different", None
    if "same" in verdicts:
        return "same", None
    if judged:
        return "not comparable", judged[0].reason
    if tree_of(plan.pair.after.text) is None or tree_of(plan.pair.before.text) is None:
        return "not comparable", NO_SOURCE
    return "not comparable", "nothing to call or run"


def _functions(plan: _Plan, seen: list[dict[int, Seen]]) -> list[FunctionFidelity]:
    """Every function with what its calls say."""
    problem = _module_problem(*(reports.get(-1) for reports in seen))
    found = []
    for number, match in enumerate(plan.matches):
        places = [place for place, (owner, _) in enumerate(plan.calls) if owner == number]
        if not places:
            judgement = Judgement(verdict="not comparable", reason=_why_uncalled(match, number))
        elif problem is not None:
            judgement = problem
        else:
            words = [_call_text(match, plan.calls[place][1]) for place in places]
            sides = [[reports.get(place) for place in places] for reports in seen]
            judgement = judge_calls(words, *sides)
        found.append(_function(match, judgement))
    return found


def _uncalled(plan: _Plan) -> list[FunctionFidelity]:
    return [
        _function(m, Judgement(verdict="not comparable", reason=_why_uncalled(m, number)))
        for number, m in enumerate(plan.matches)
    ]


def _function(match: Match, judgement: Judgement) -> FunctionFidelity:
    after = match.after
    return FunctionFidelity(
        name=match.before.name,
        after=None if after is None else after.name,
        how=match.how,
        same_tree=after is not None and match.before.tree_text() == after.tree_text(),
        judgement=judgement,
    )


def _module_problem(first: Seen | None, again: Seen | None, after: Seen | None) -> Judgement | None:
    """What is known where a module's own statements do not end, or fail only after. Where they fail
    before already, what they defined until then is compared."""
    if first is None or again is None or first["time_up"]:
        return Judgement(verdict="not comparable", reason="the module does not end")
    if after is None or after["time_up"]:
        return Judgement(
            verdict="different", differs_in=("time",), example="the module: no end after"
        )
    if first["raised"] is None and after["raised"] is not None:
        if after["absent"]:
            return Judgement(verdict="not comparable", reason="absent package")
        example = f"the module raises {after['raised']} after"
        return Judgement(verdict="different", differs_in=("exception",), example=example)
    return None


def _why_uncalled(match: Match, number: int) -> str:
    if match.after is None:
        return "no counterpart"
    return "a coroutine" if number < MOST_FUNCTIONS else "too many functions"


def _is_coroutine(match: Match) -> bool:
    return isinstance(match.before.node, ast.AsyncFunctionDef)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _name(match: Match, *, is_after: bool) -> str:
    assert match.after is not None
    return match.after.name if is_after else match.before.name


def _call_text(match: Match, call: Call) -> str:
    given = [*call.positional, *(f"{name}={value}" for name, value in call.keywords)]
    return f"{match.before.name}({', '.join(given)})"


def _imported(tree: ast.Module) -> set[str]:
    """Top-level packages that the source imports and would not do without."""
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def _globals(tree: ast.Module) -> set[str]:
    """Words of the module's own public names for values, which a call may change."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    names.update(*(node.names for node in ast.walk(tree) if isinstance(node, ast.Global)))
    return {words_of(name) for name in names if not name.startswith("_")}


@cache
def _inside() -> str:
    files = [Path(__file__).parent / name for name in ("values.py", "inside.py")]
    return _OWN_IMPORT.sub("", "\n\n".join(file.read_text(encoding="utf-8") for file in files))
