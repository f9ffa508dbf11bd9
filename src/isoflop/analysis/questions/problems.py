"""Which run solved which problem, from a study's answers or a table with a line a problem.

A table of problems has the columns cell, seed, problem and correct (true or false); more columns
may stand beside them.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from isoflop.analysis.tables.check import EMPTY, FLAGS
from isoflop.analysis.tables.files import read_file
from isoflop.config import UserError
from isoflop.records import AnswerRow, read_json, read_rows

COLUMNS = ("cell", "seed", "problem", "correct")


class Solved(NamedTuple):
    """Whether each run solved each problem that all runs were asked."""

    solved: Bool[np.ndarray, "runs problems"]
    cells: tuple[str, ...]
    """The cell of each run."""
    left_out: int
    """Problems that not every run was asked."""


def solved_in_file(path: Path) -> Solved:
    """The problems of a CSV, JSON, JSON lines or Parquet file.

    Raises:
        UserError: a column is missing or a value is neither true nor false.
    """
    raw = read_file(path)
    found: dict[tuple[str, str], dict[str, bool]] = {}
    for line, place in zip(raw.lines, raw.places, strict=True):
        missing = [name for name in COLUMNS if name not in line]
        if missing:
            raise UserError(f"{place}: lacks {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
        if line["correct"] in EMPTY:
            continue
        flag = FLAGS.get(str(line["correct"]).strip().lower())
        if flag is None:
            raise UserError(f"{place}: correct is {line['correct']!r}; it must be true or false")
        run = (str(line["cell"]), str(line["seed"]))
        found.setdefault(run, {})[str(line["problem"])] = flag == 1
    return _joined(found, path)


def solved_in_study(folder: Path, task: str, split: str) -> Solved:
    """The answers of a study's last checkpoints to one task and split.

    Raises:
        UserError: no study there, or no answers to that task.
    """
    again = "run the study again"
    study = read_json(folder / "study.json", missing="no study's folder", remedy=again)
    found: dict[tuple[str, str], dict[str, bool]] = {}
    for run in study["runs"]:
        path = folder / run["evaluate"]["path"] / "answers.jsonl"
        if not path.is_file():
            continue
        rows = [r for r in read_rows(path, AnswerRow) if (r.task, r.split) == (task, split)]
        last = max((row.step for row in rows), default=0)
        answers = {row.item: row.correct is True for row in rows if row.step == last}
        if answers:
            found[run["cell"], json.dumps(run["seed"])] = answers
    return _joined(found, folder)


def _joined(found: dict[tuple[str, str], dict[str, bool]], path: Path) -> Solved:
    if not found:
        raise UserError(f"{path}: no answers to compare")
    everyone = set.intersection(*(set(answers) for answers in found.values()))
    anyone = set.union(*(set(answers) for answers in found.values()))
    if not everyone:
        raise UserError(f"{path}: no problem was asked of all {len(found)} runs")
    problems = sorted(everyone)
    runs = sorted(found)
    return Solved(
        solved=np.array([[found[run][problem] for problem in problems] for run in runs]),
        cells=tuple(cell for cell, _ in runs),
        left_out=len(anyone) - len(everyone),
    )
