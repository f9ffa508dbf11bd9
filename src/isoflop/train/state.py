"""What a killed run goes on from: weights, optimiser, step, and the rows up to it.

    <folder>/resume.safetensors   weights and both moments; step and config digest in its metadata
    <folder>/steps.jsonl          StepRow, appended as they come
    <folder>/losses.jsonl         LossRow, appended at checkpoints
    <folder>/timings.jsonl        TimingRow, appended with StepRow

The state is saved just after a row, so nothing is between rows. Rows later than
the state are dropped on resume; the run then makes the same ones again.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isoflop.config import UserError, from_dict
from isoflop.model.checkpoint import copy_into, load_tensors, save_tensors, writing_folder
from isoflop.records import LossRow, StepRow, TimingRow, flush_to_disk, row_to_line, write_rows

RowFiles = Mapping[str, type]
"""Files that grow while a run lasts, with the kind of their rows. Each kind has a `step`."""

ROW_FILES: RowFiles = {
    "steps.jsonl": StepRow,
    "losses.jsonl": LossRow,
    "timings.jsonl": TimingRow,
}
STATE_FILE = "resume.safetensors"

RANKS_STATE = "resume-ranks"
"""Folder of the states that several ranks leave, see `isoflop.train.parallel.state`."""


def save_state(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    run_digest: str,
    files: RowFiles = ROW_FILES,
) -> None:
    """Replace the folder's state by that after `step`."""
    # Rows first: after a power cut a state must not be later than its rows.
    for name in files:
        if (folder / name).exists():
            flush_to_disk(folder / name)
    metadata = {"step": str(step), "run": run_digest}
    save_tensors(folder / STATE_FILE, _tensors(model, optimizer), metadata)


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    run_digest: str,
    files: RowFiles = ROW_FILES,
) -> int:
    """Go back to the saved state and drop later rows; returns its step, 0 for a fresh run.

    Raises:
        UserError: a state of another run, or one cut short.
    """
    path = folder / STATE_FILE
    step = 0
    if path.exists():
        tensors, metadata = load_tensors(path)
        if metadata.get("run") != run_digest:
            raise UserError(
                f"{path}: state of run {metadata.get('run')}, expected {run_digest}; "
                "delete it to train from the start"
            )
        step = int(metadata["step"])
        # The moments exist only after a step; a step with zero gradient makes them.
        _make_moments(model, optimizer)
        copy_into(_tensors(model, optimizer), tensors, path)
    drop_later_rows(folder, step, files, STATE_FILE)
    return step


def forget_state(folder: Path) -> None:
    """Delete what a run goes on from, of one process and of several ranks; only once the run's folder is
    marked as complete: a kill before that would repeat the whole run."""
    (folder / STATE_FILE).unlink(missing_ok=True)
    shutil.rmtree(writing_folder(folder / STATE_FILE), ignore_errors=True)
    shutil.rmtree(folder / RANKS_STATE, ignore_errors=True)


def drop_later_rows(folder: Path, step: int, files: RowFiles, state: str) -> None:
    """Leave the rows up to `step`, to which the saved `state` belongs.

    Raises:
        UserError: its own row is missing.
    """
    for name, kind in files.items():
        rows = [row for row in _whole_rows(folder / name, kind) if row.step <= step]
        if step and name == "steps.jsonl" and (not rows or rows[-1].step != step):
            raise UserError(
                f"{folder / name}: the row of step {step}, to which {state} belongs, is "
                f"missing; delete {folder} to train again"
            )
        write_rows(folder / name, rows)


def finish_rows(folder: Path, files: RowFiles = ROW_FILES) -> None:
    """Make the rows survive a power cut; call when the run ends."""
    for name in files:
        if (folder / name).exists():
            flush_to_disk(folder / name)


def append_row(folder: Path, name: str, row: Any) -> None:
    """Add one row to a file that grows while the run lasts."""
    with (folder / name).open("a", encoding="utf-8", newline="\n") as out:
        out.write(row_to_line(row) + "\n")


class RowWriter:
    """The files of a run's rows, written by one of its processes only."""

    def __init__(self, folder: Path, writes: bool):
        self.folder = folder
        self._writes = writes

    def replace(self, name: str, rows: Sequence[Any]) -> None:
        """A whole file of rows."""
        if self._writes:
            write_rows(self.folder / name, rows)

    def append(self, name: str, row: Any) -> None:
        """One row more."""
        if self._writes:
            append_row(self.folder, name, row)

    def finish(self) -> None:
        """As `finish_rows`."""
        if self._writes:
            finish_rows(self.folder)


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights and moments under stable names."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        for key in ("exp_avg", "exp_avg_sq", "step"):
            tensors[f"{key}.{name}"] = optimizer.state[parameter][key]
    return tensors


def _make_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def _whole_rows(path: Path, kind: type) -> list[Any]:
    """The rows of a growing file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    rows: list[Any] = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(from_dict(kind, json.loads(line), f"{path}:{number}"))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from None
    return rows
