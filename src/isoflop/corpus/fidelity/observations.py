"""What three runs of one function or program say: same, different, or nothing. Pure.

first    the text before, first seed
again    the text before, another seed: what differs here is chance, not rewriting
after    the text after, first seed
"""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from isoflop.corpus.fidelity.inside import MARK, NOT_DEFINED

Verdict = Literal["same", "different", "not comparable"]

RELATIVE_TOLERANCE = 1e-9
"""Of floating-point results: another order of a sum is no other behaviour. Chosen."""

WRONG_KIND = ("TypeError", "AttributeError")
"""What a function raises whose argument is of a kind that it was not made for."""

ENDED = ["int", 0]
"""The encoded exit status of a program that ends by itself."""

Seen = dict[str, Any]
"""One report of `inside.py`."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the runs say."""

    verdict: Verdict
    reason: str | None = None
    """Why not comparable; None: it is."""
    differs_in: tuple[str, ...] = ()
    """"result", "exception", "output", "error output", "arguments", "globals", "exit status", "time": what of
    it is different."""
    example: str | None = None
    """The first call that differs, and both outcomes."""
    calls: int = 0
    compared: int = 0
    """Calls that say something: of the right kind, in time, and not random."""


def reports_in(stdout: str) -> dict[int, Seen]:
    """The reports in a program's output, by the number of their call; -1 is the program itself."""
    found: dict[int, Seen] = {}
    for line in stdout.split("\n"):
        _, mark, text = line.partition(MARK)
        if not mark:
            continue
        try:
            seen = json.loads(text)
        except ValueError:
            # The output was cut at its limit.
            continue
        found[seen["call"]] = seen
    return found


def judge_calls(
    calls: list[str], first: list[Seen | None], again: list[Seen | None], after: list[Seen | None]
) -> Judgement:
    """One function, from the reports of its calls; `calls` as text for the example."""
    left_out: dict[str, int] = {}
    differs: dict[str, str] = {}
    compared = returned = 0
    for call, one, two, other in zip(calls, first, again, after, strict=True):
        reason = _not_comparable(one, two, other)
        if reason is not None:
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        assert one is not None
        assert two is not None
        kinds_here = _differences(one, other) + _differences_beside(one, two, other)
        if one["opaque"] and not kinds_here:
            left_out["opaque result"] = left_out.get("opaque result", 0) + 1
            continue
        compared += 1
        returned += one["raised"] is None
        for kind in kinds_here:
            differs.setdefault(kind, f"{call}: {_told(one)} before, {_told(other)} after")
    if left_out.get("not deterministic"):
        return Judgement(
            verdict="not comparable", reason="not deterministic", calls=len(calls), compared=0
        )
    kinds = tuple(sorted(differs))
    if differs:
        example = differs[kinds[0]]
        return Judgement(
            verdict="different", differs_in=kinds, example=example, calls=len(calls),
            compared=compared,
        )  # fmt: skip
    if returned:
        return Judgement(verdict="same", calls=len(calls), compared=compared)
    common = max(left_out, key=lambda name: left_out[name], default="every call raised")
    reason = "every call raised" if compared else common
    return Judgement(verdict="not comparable", reason=reason, calls=len(calls), compared=compared)


def judge_program(first: Seen | None, again: Seen | None, after: Seen | None) -> Judgement:
    """A whole program: what it prints, whether it ends well, and its exit status."""
    reason = _not_comparable(first, again, after, wrong_kind=())
    if reason is None and first is not None and first["raised"] is not None:
        needs_input = first["raised"] == "EOFError"
        reason = "needs more input" if needs_input else f"stops with {first['raised']}"
    if reason is not None:
        return Judgement(verdict="not comparable", reason=reason, calls=1)
    assert first is not None
    assert again is not None
    kinds = [kind for kind in _differences(first, after) if kind != "result"]
    kinds += _differences_beside(first, again, after)
    if after is not None and not equal(_exit_status(first), _exit_status(after)):
        kinds.append("exit status")
    if kinds:
        example = f"{_told(first)} before, {_told(after)} after"
        return Judgement(
            verdict="different", differs_in=tuple(kinds), example=example, calls=1, compared=1
        )
    if not first["printed"] and not first["errors"] and equal(_exit_status(first), ENDED):
        return Judgement(verdict="not comparable", reason="prints nothing", calls=1)
    return Judgement(verdict="same", calls=1, compared=1)


def equal(one: Any, other: Any) -> bool:
    """Whether two encoded values are equal: floats within the tolerance, all else exactly.

    >>> equal(0.1 + 0.2, 0.3), equal(10**12, 10**12 + 1), equal(1, 1.0), equal(1, True)
    (True, False, False, False)
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE) or (
            one != one and other != other
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return bool(one == other)


def _not_comparable(
    one: Seen | None, two: Seen | None, other: Seen | None, wrong_kind: tuple[str, ...] = WRONG_KIND
) -> str | None:
    """Why a call says nothing about the rewriting."""
    if one is None or two is None or one["time_up"]:
        return "time-out"
    if one["absent"] or (other is not None and other["absent"]):
        return "absent package"
    if one["raised"] == NOT_DEFINED:
        return "not defined"
    if one["raised"] in wrong_kind:
        return "arguments of another kind"
    return "not deterministic" if _differences(one, two) else None


def _differences(one: Seen, other: Seen | None) -> list[str]:
    """In what two reports differ. No report after: it did not end where the first one did."""
    if other is None or other["time_up"]:
        return ["time"]
    found = []
    if one["raised"] != other["raised"]:
        found.append("exception")
    elif one["raised"] is None and not equal(one["value"], other["value"]):
        found.append("result")
    if one["printed"].rstrip() != other["printed"].rstrip():
        found.append("output")
    if not equal(one.get("arguments"), other.get("arguments")):
        found.append("arguments")
    return found


def _differences_beside(one: Seen, two: Seen, other: Seen | None) -> list[str]:
    """In what else reports differ: only what the text before does alike under both seeds, so that a time in
    a log does not hide a result."""
    if other is None or other["time_up"]:
        return []
    names = {"errors": "error output", "globals": "globals"}
    return [
        name
        for key, name in names.items()
        if equal(one.get(key), two.get(key)) and not equal(one.get(key), other.get(key))
    ]


def _exit_status(seen: Seen) -> Any:
    """What a shell would be told; a text stands for itself, as it is written to standard error."""
    value = seen["value"]
    code = value[1] if isinstance(value, list) and value[0] == "exit" else ENDED
    return ENDED if code == ["NoneType", None] else code


def _told(seen: Seen | None) -> str:
    if seen is None or seen["time_up"]:
        return "no end"
    if seen["raised"] is not None:
        return f"raises {seen['raised']}"
    printed = f", prints {seen['printed'][:80]!r}" if seen["printed"] else ""
    changed = f", leaves {json.dumps(seen['globals'])[:80]}" if seen.get("globals") else ""
    errors = f", writes {seen['errors'][:80]!r}" if seen["errors"] else ""
    return f"{json.dumps(seen['value'])[:120]}{printed}{errors}{changed}"
