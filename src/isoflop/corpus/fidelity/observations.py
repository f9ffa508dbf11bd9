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

Seen = dict[str, Any]
"""One report of `inside.py`."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the runs say."""

    verdict: Verdict
    reason: str | None = None
    """Why not comparable; None: it is."""
    differs_in: tuple[str, ...] = ()
    """"result", "exception", "output", "arguments": what of it is different."""
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
        compared += 1
        returned += one["raised"] is None
        for kind in _differences(one, other):
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
    """A whole program: what it prints and whether it ends well."""
    reason = _not_comparable(first, again, after, wrong_kind=())
    if reason is None and first is not None and first["raised"] is not None:
        needs_input = first["raised"] == "EOFError"
        reason = "needs more input" if needs_input else f"stops with {first['raised']}"
    if reason is None and first is not None and not first["printed"]:
        reason = "prints nothing"
    if reason is not None:
        return Judgement(verdict="not comparable", reason=reason, calls=1)
    assert first is not None
    kinds = tuple(kind for kind in _differences(first, after) if kind != "result")
    if not kinds:
        return Judgement(verdict="same", calls=1, compared=1)
    example = f"{_told(first)} before, {_told(after)} after"
    return Judgement(verdict="different", differs_in=kinds, example=example, calls=1, compared=1)


def equal(one: Any, other: Any) -> bool:
    """Whether two encoded values are equal, numbers within the tolerance."""
    if _is_number(one) and _is_number(other):
        return (
            one == other
            or math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE)
            or (one != one and other != other)
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _told(seen: Seen | None) -> str:
    if seen is None or seen["time_up"]:
        return "no end"
    if seen["raised"] is not None:
        return f"raises {seen['raised']}"
    printed = f", prints {seen['printed'][:80]!r}" if seen["printed"] else ""
    return f"{json.dumps(seen['value'])[:120]}{printed}"
