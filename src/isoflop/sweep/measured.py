"""How long each run of a study took, start to end, as its folders tell: for planning another."""

from pathlib import Path

from isoflop.config import UserError
from isoflop.records import TimingRow, read_rows
from isoflop.sweep.study import read_study_map


def measured_seconds(root: Path) -> dict[str, float]:
    """Mean seconds of each cell's finished runs: training, and the rest around it.

    Training is told by the run's own clock, interruptions left out. What comes before and after
    it (starting, validation, evaluation) is what lies between the folders' first and last file
    times and the training; where a run was interrupted that is an overestimate.

    Raises:
        UserError: no study there, or no finished run.
    """
    study = read_study_map(root)
    found: dict[str, list[float]] = {}
    for run in study.runs:
        done = root / run.evaluate.path / "DONE"
        begun = root / run.train.path / "mixture.jsonl"
        rows = root / run.train.path / "timings.jsonl"
        if done.exists() and begun.exists() and rows.exists():
            trained = list(read_rows(rows, TimingRow))[-1].seconds
            whole = done.stat().st_mtime - begun.stat().st_mtime
            found.setdefault(run.cell, []).append(max(trained, whole))
    if not found:
        raise UserError(f"{root}: no finished run to measure; run the study, or a short one, first")
    return {cell: sum(seconds) / len(seconds) for cell, seconds in found.items()}
