"""What a law is, and the verdict on one measurement.

A law measures one number on a model and says what it must be. Four verdicts:
pass and fail; "not applicable" where the law has no meaning for the model; and
"error" where the model's own code raised, which is never a pass.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from isoflop.doctor.subject import NotApplicableError, Subject

Verdict = Literal["pass", "fail", "not applicable", "error"]

MODEL_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a model's own code raises when a law asks something that it cannot do. Errors of files and
of memory are not among them: they say nothing of the model."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number taken on a model, and what it must be."""

    value: float
    expected: float
    note: str | None = None
    """What helps to read the number; None: it speaks for itself."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """A statement about a model that one number decides."""

    name: str
    meaning: str
    """The statement in a reader's words."""
    unit: str
    """Of the measured value."""
    tolerance: float
    """Largest difference between value and expected that passes."""
    catches: str
    """The public bug that this law would have caught, and where it is told."""
    trains: bool
    """Whether it needs gradients of all weights: for a large model it then runs on a small one of
    the same class."""
    check: Callable[[Subject, int], Measurement]
    """Takes the model and a seed for the probing input."""


@dataclass(frozen=True, kw_only=True)
class LawRow:
    """A law's verdict on one model."""

    model: str
    law: str
    meaning: str
    value: float | None
    """None: not measured, or no finite number."""
    expected: float | None
    tolerance: float
    unit: str
    verdict: Verdict
    reason: str | None
    """Why a law does not apply or could not be measured, or what helps to read the number."""
    catches: str


def judge(law: Law, subject: Subject, seed: int) -> LawRow:
    """Measure one law on one model; an error of the model's code is a verdict of its own."""
    try:
        with _deterministic():
            measured = law.check(subject, seed)
    except NotApplicableError as error:
        return _row(law, subject, None, "not applicable", str(error))
    except MODEL_ERRORS as error:
        text = " ".join(str(error).split())[:ERROR_CHARACTERS]
        return _row(law, subject, None, "error", f"{type(error).__name__}: {text}")
    if not math.isfinite(measured.value):
        reason = f"measured {measured.value}; {measured.note or 'no finite number'}"
        return _row(law, subject, None, "fail", reason)
    keeps = abs(measured.value - measured.expected) <= law.tolerance
    return _row(law, subject, measured, "pass" if keeps else "fail", measured.note)


@contextmanager
def _deterministic() -> Iterator[None]:
    """PyTorch adds in one order where it can: laws of equal bits judge the model, not the threads.

    Without it the gradient of gpt_oss's expert biases, an accumulating index_put, differs in its
    last bits from step to step on a CPU (docs/log.md, 2026-11-23).
    """
    mode = torch.get_deterministic_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
        warnings.filterwarnings("ignore", message="Deterministic behavior was enabled")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)


ERROR_CHARACTERS = 300
"""Of a model's error message that a row keeps; chosen so that it can still be read."""


def _row(
    law: Law, subject: Subject, measured: Measurement | None, verdict: Verdict, reason: str | None
) -> LawRow:
    reasons = [subject.stands_for, reason] if law.trains else [reason]
    return LawRow(
        model=subject.name,
        law=law.name,
        meaning=law.meaning,
        value=None if measured is None else measured.value,
        expected=None if measured is None else measured.expected,
        tolerance=law.tolerance,
        unit=law.unit,
        verdict=verdict,
        reason="; ".join(part for part in reasons if part) or None,
        catches=law.catches,
    )
