"""What a Megatron-LM run prints, read into rows.

A training line ends with a bar and has "name: number" between bars:

    [2026-11-26 09:00:00] iteration  10/ 250 | consumed samples:  320 | elapsed time per iteration
    (ms): 812.5 | learning rate: 4.0E-05 | global batch size: 32 | lm loss: 6.1E+00 |
    load_balancing_loss: 1.0E+00 | z_loss: 1.2E-01 | grad norm: 1.5 | number of skipped ... : 0 |

and a validation line "validation loss at iteration 250 | lm loss value: 3.1E+00 | lm loss PPL: ...".
A run that was started again prints some steps twice: the later line counts. A line that was cut
short, or mixed with another rank's, is set aside with its place; nothing in it is guessed.

Source: `training_log` and `evaluate_and_print_results` of Megatron-LM, core 0.10 to 0.19.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from isoflop.config import UserError
from isoflop.records import SetAside

TRAINING = re.compile(r"\biteration\s+(\d+)\s*/\s*(\d+)\s*\|(.*)")
VALIDATION = re.compile(
    r"\b(validation|test) loss at iteration\s+(\d+)(?: on (?:validation|test) set)?\s*\|(.*)"
)

BALANCE_NAMES = ("load_balancing_loss", "seq_load_balancing_loss", "global_load_balancing_loss")
MILLISECONDS = 1000.0


@dataclass(frozen=True, kw_only=True)
class MegatronStepRow:
    """One printed step. A figure that the line does not have is None."""

    step: int
    num_steps: int
    samples: int | None
    """Sequences read so far."""
    seconds_per_step: float | None
    learning_rate: float | None
    train_loss: float | None
    """Next-token cross-entropy in nats; None where the step was skipped."""
    balance_loss: float | None
    """Mean over layers, without coefficient."""
    z_loss: float | None
    gradient_norm: float | None
    skipped_steps: int | None
    """Since the last line, for gradients that were not finite."""


@dataclass(frozen=True, kw_only=True)
class MegatronLossRow:
    """One validation or test."""

    step: int
    split: str
    """"validation" or "test"."""
    loss: float
    """Nats."""


@dataclass(frozen=True)
class MegatronLog:
    """A run's rows in the order of steps, and the lines that could not be read."""

    steps: list[MegatronStepRow]
    losses: list[MegatronLossRow]
    set_aside: list[SetAside]
    reached: int = 0
    """Number of the last training line's step, also where the rest of the line was set aside."""


def read_log(path: Path) -> MegatronLog:
    """The rows of a log file.

    Raises:
        UserError: no such file, or no line of it is Megatron-LM's.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; give the file that the run's output went to"
        ) from None
    log = parse_log(lines, str(path))
    if not (log.steps or log.losses):
        told = f"; {log.set_aside[0].where}: {log.set_aside[0].detail}" if log.set_aside else ""
        raise UserError(f"{path}: no line of a Megatron-LM training in it{told}")
    return log


def parse_log(lines: Iterable[str], where: str) -> MegatronLog:
    """The rows of a log's lines.

    >>> line = "iteration 2/ 9 | consumed samples: 8 | lm loss: 5.5E+00 | grad norm: 1.5 |"
    >>> (row,) = parse_log([line], "log").steps
    >>> row.step, row.samples, row.train_loss, row.z_loss
    (2, 8, 5.5, None)
    """
    steps: dict[int, MegatronStepRow] = {}
    losses: dict[tuple[int, str], MegatronLossRow] = {}
    set_aside = []
    reached = 0
    for number, line in enumerate(lines, start=1):
        training, validation = TRAINING.search(line), VALIDATION.search(line)
        try:
            if validation:
                split, step, rest = validation[1], int(validation[2]), validation[3]
                loss = _required(_numbers(rest), "lm loss value")
                losses[step, split] = MegatronLossRow(step=step, split=split, loss=loss)
            elif training:
                if 1 <= int(training[1]) <= int(training[2]):
                    reached = int(training[1])
                row = _step_row(int(training[1]), int(training[2]), _numbers(training[3]))
                # From here on it was trained again.
                steps = {step: kept for step, kept in steps.items() if step < row.step}
                steps[row.step] = row
        except ValueError as error:
            place = f"{where}:{number}"
            set_aside.append(SetAside(where=place, reason="unreadable line", detail=str(error)))
    in_order = [steps[step] for step in sorted(steps)]
    return MegatronLog(in_order, [losses[key] for key in sorted(losses)], set_aside, reached)


def _numbers(text: str) -> dict[str, float]:
    """The numbers between bars, by name.

    Raises:
        ValueError: the last bar is missing, a name comes twice, or what follows one is no number.
    """
    if not text.rstrip().endswith("|"):
        raise ValueError("the line is cut short: it does not end with a bar")
    found: dict[str, float] = {}
    for field in text.rstrip().rstrip("|").split("|"):
        name, colon, value = field.rpartition(":")
        name = name.strip()
        if not colon or not name:
            raise ValueError(f"{field.strip()!r} is no name with a number")
        if name in found:
            raise ValueError(f"{name!r} is there twice: two lines in one")
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"{name!r} is {value.strip()!r}, not a number") from None
    return found


def _required(numbers: dict[str, float], name: str) -> float:
    if not math.isfinite(numbers.get(name, math.nan)):
        raise ValueError(f"{name!r} is {numbers.get(name, 'missing')}")
    return numbers[name]


def _step_row(step: int, num_steps: int, numbers: dict[str, float]) -> MegatronStepRow:
    if not 1 <= step <= num_steps:
        raise ValueError(f"iteration {step} of {num_steps}")

    def of(name: str) -> float | None:
        return _required(numbers, name) if name in numbers else None

    def count(name: str) -> int | None:
        value = of(name)
        return None if value is None else int(value)

    milliseconds = of("elapsed time per iteration (ms)")
    balance = [value for name in BALANCE_NAMES if (value := of(name)) is not None]
    return MegatronStepRow(
        step=step,
        num_steps=num_steps,
        samples=count("consumed samples"),
        seconds_per_step=None if milliseconds is None else milliseconds / MILLISECONDS,
        learning_rate=of("learning rate"),
        train_loss=of("lm loss"),
        balance_loss=balance[0] if balance else None,
        z_loss=of("z_loss"),
        gradient_norm=of("grad norm"),
        skipped_steps=count("number of skipped iterations"),
    )
