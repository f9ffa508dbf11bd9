"""Read a table of runs, whatever it is: our study's folder, a file, or a tracker's export."""

from pathlib import Path

from isoflop.analysis.study import read_study
from isoflop.analysis.table import table
from isoflop.analysis.tables.check import check_table
from isoflop.analysis.tables.files import RawTable, raw_table, read_file
from isoflop.analysis.tables.run_table import RunTable
from isoflop.analysis.tables.trackers import (
    is_tensorboard,
    is_wandb,
    read_tensorboard,
    read_wandb,
)
from isoflop.config import UserError


def read_table(path: Path) -> RunTable:
    """The checked table at `path`.

    A folder of ours (ledger.jsonl), a CSV, TSV, JSON, JSON lines or Parquet file with the columns
    of docs/reference.md, offline runs of Weights & Biases (a folder or one .wandb file), or a
    folder of TensorBoard event files.

    Raises:
        UserError: nothing readable there, or a line that cannot be used, with place and remedy.
    """
    return check_table(read_raw(path))


def read_raw(path: Path) -> RawTable:
    """The lines at `path` as they stand, before any check."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if (path / "ledger.jsonl").is_file():
        return _read_study(path)
    if is_wandb(path):
        return read_wandb(path)
    if is_tensorboard(path):
        return read_tensorboard(path)
    if path.is_dir():
        raise UserError(
            f"{path}: neither a study's folder (ledger.jsonl), nor offline runs of Weights & Biases "
            "(*.wandb), nor TensorBoard's events (events.out.tfevents.*)"
        )
    return read_file(path)


def _read_study(folder: Path) -> RawTable:
    study = read_study(folder)
    names, lines = table(study.rows, study.stages)
    return raw_table(
        study.name,
        [dict(zip(names, line, strict=True)) for line in lines],
        (f"{folder / 'ledger.jsonl'}, {line[names.index('run')]}" for line in lines),
    )
