"""One typed table of runs: columns of numbers or text, one line a checkpoint or measurement.

Shapes in this file:
    lines   lines of the table, in the order of the file

A number that was not measured is NaN inside an array and None everywhere else, never 0.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from isoflop.analysis.tables.columns import ANSWER_SETTINGS, SAMPLED, SCORE_FIELDS, column_of
from isoflop.config import UserError

Numbers = Float[np.ndarray, " lines"]
Cell = float | str | None


@dataclass(frozen=True, kw_only=True)
class RunTable:
    """A checked table: `isoflop.analysis.tables.read_table` makes it."""

    name: str
    numbers: dict[str, Numbers]
    """Counts, numbers, shares and flags (0 or 1); NaN where not measured."""
    texts: dict[str, tuple[str | None, ...]]
    places: tuple[str, ...]
    """Where each line stands: file and line."""
    notes: tuple[str, ...] = ()
    """What a reader must know of this table: what was derived, marked or left out."""
    unknown: tuple[str, ...] = field(default=())
    """Columns of the file that nothing here reads."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, text first."""
        return (*self.texts, *self.numbers)

    def number(self, name: str) -> Numbers:
        """A column of numbers.

        Raises:
            UserError: the table has no such column; names those it has.
        """
        if name not in self.numbers:
            raise UserError(
                f"{self.name}: no column {name!r}; it has {', '.join(sorted(self.numbers))}"
            )
        return self.numbers[name]

    def text(self, name: str) -> tuple[str | None, ...]:
        """A column of text; all None where the table lacks it."""
        return self.texts.get(name, (None,) * len(self))

    def has(self, *names: str) -> bool:
        """Whether every named column has at least one value."""
        return not self.missing(*names)

    def missing(self, *names: str) -> tuple[str, ...]:
        """Those of the named columns that the table lacks or that hold nothing."""
        return tuple(
            name
            for name in names
            if not (
                (name in self.numbers and bool(np.isfinite(self.numbers[name]).any()))
                or any(value is not None for value in self.texts.get(name, ()))
            )
        )

    def where(self, mask: Bool[np.ndarray, " lines"]) -> "RunTable":
        """The lines where `mask` holds."""
        chosen = [int(place) for place in np.flatnonzero(mask)]
        return replace(
            self,
            numbers={name: values[mask] for name, values in self.numbers.items()},
            texts={name: tuple(v[i] for i in chosen) for name, v in self.texts.items()},
            places=tuple(self.places[i] for i in chosen),
        )

    def equal(self, name: str, value: str) -> Bool[np.ndarray, " lines"]:
        """Where a column of text has this value."""
        return np.array([found == value for found in self.text(name)], dtype=bool)

    @property
    def final(self) -> "RunTable":
        """Last checkpoints of pre-training only, one line a run: see `one_setting`."""
        return self.final_settings.one_setting()

    @property
    def final_settings(self) -> "RunTable":
        """Last checkpoints of pre-training under every setting they were measured at."""
        chosen = self.where(self.equal("stage", "pretrained"))
        return chosen.where(chosen.number("final") == 1)

    @property
    def pretrained(self) -> "RunTable":
        """Lines measured after pre-training and before anything else, one a checkpoint."""
        return self.where(self.equal("stage", "pretrained")).one_setting()

    def one_setting(self, each: str | None = None) -> "RunTable":
        """One line a checkpoint: measurements of one checkpoint are no seeds. The line with blank
        settings of answering (worked examples, temperature, k) stays, else that of the least.

        Args:
            each: A setting of which every value stays.
        """
        names = [name for name in ANSWER_SETTINGS if name in self.numbers and name != each]
        if not names:
            return self
        later = [*self._later_settings, self.number("tokens").tolist()]
        if each is not None and each in self.numbers:
            later.append(self.number(each).tolist())
        keys = [f"{run}|{rest}" for run, *rest in zip(self.run_keys, *later, strict=True)]
        settings = [
            # Blank sorts before any value.
            [-math.inf if math.isnan(value) else value for value in values]
            for values in np.stack([self.number(name) for name in names], axis=1).tolist()
        ]
        keep = np.zeros(len(self), dtype=bool)
        for places in group_lines(keys).values():
            keep[min(places, key=lambda place: settings[place])] = True
        return self.where(keep)

    @property
    def sampled(self) -> "RunTable":
        """Lines with a score of several samples a question."""
        names = [name for name in self.numbers if SAMPLED.fullmatch(name.rpartition(".")[2])]
        known = np.zeros(len(self), dtype=bool)
        for name in names:
            known |= np.isfinite(self.numbers[name])
        return self.where(known)

    @property
    def _later_settings(self) -> tuple[Sequence[Cell], ...]:
        """What tells stages after pre-training apart, as far as the table has it."""
        names = ("stage", "grpo_step", "grpo_learning_rate", "grpo_corpus")
        return tuple(
            self.texts[name] if name in self.texts else self.numbers[name].tolist()
            for name in names
            if name in self.columns
        )

    @property
    def run_keys(self) -> tuple[str, ...]:
        """What tells the run of each line apart: a run's name may stand in several cells."""
        seeds = np.nan_to_num(self.numbers.get("seed", np.zeros(len(self)))).tolist()
        parts = zip(self.text("experiment"), self.cells, self.runs, seeds, strict=True)
        return tuple(json.dumps(part) for part in parts)

    @property
    def tasks(self) -> tuple[tuple[str, str | None], ...]:
        """Every (task, split) with a score; split None where the table names none."""
        found = set()
        for name in self.numbers:
            parts = name.split(".")
            scored = parts[-1] in SCORE_FIELDS or SAMPLED.fullmatch(parts[-1])
            if len(parts) in (2, 3) and scored and column_of(name) is not None:
                found.add((parts[0], parts[1] if len(parts) == 3 else None))
        return tuple(sorted(found, key=lambda pair: (pair[0], pair[1] or "")))

    @property
    def losses(self) -> tuple[str, ...]:
        """Columns of language-model loss in nats, validation before training."""
        named = [n for n in self.numbers if n.endswith(".validation.loss")]
        fixed = [n for n in ("validation_loss", "train_loss") if self.has(n)]
        return (*sorted(named), *fixed)

    @property
    def runs(self) -> tuple[str, ...]:
        """The run of each line."""
        return tuple(run or "" for run in self.text("run"))

    @property
    def cells(self) -> tuple[str, ...]:
        """The cell of each line."""
        return tuple(cell or "" for cell in self.text("cell"))

    def line(self, index: int) -> dict[str, Cell]:
        """One line by column; None where not measured."""
        texts: dict[str, Cell] = {name: values[index] for name, values in self.texts.items()}
        found = {name: float(values[index]) for name, values in self.numbers.items()}
        return {**texts, **{n: None if math.isnan(v) else v for n, v in found.items()}}


def score_column(task: str, split: str | None, field_name: str) -> str:
    """Name of a score's column."""
    return ".".join(part for part in (task, split, field_name) if part is not None)


def group_lines(keys: Sequence[str]) -> dict[str, list[int]]:
    """Places of the lines of each key, keys in order of appearance."""
    found: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return found
