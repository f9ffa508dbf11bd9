"""What a finished or half-finished study left in its folder, read into one value.

experiment.json  the config as text                       required
ledger.jsonl     CheckpointRow, all figures a checkpoint   required
stages.jsonl     StageRow, samples and GRPO                may be missing
cells.jsonl      CellState, where each run stands          required
corpus.jsonl     SourceRow                                 may be missing
funnel.jsonl     FunnelRow                                 may be missing
mixture.jsonl    MixtureRow                                may be missing
env.json         what it was made with                     may be missing
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isoflop.analysis.families import Cell, final_cells
from isoflop.analysis.table import sort_rows
from isoflop.analysis.task_kinds import Kind, named_kind, probe_kinds
from isoflop.config import UserError
from isoflop.records import (
    CellState,
    CheckpointRow,
    FunnelRow,
    MixtureRow,
    Row,
    SourceRow,
    read_json,
    read_rows,
)
from isoflop.stage_records import StageRow

STATED_FACTS = "memory"
"""The phone book's usual name: a table without a config has no other word for it."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that a report is made from. Only `rows` and `states` are needed."""

    name: str
    rows: tuple[CheckpointRow, ...]
    """All checkpoints of all runs' pre-training, in any order."""
    states: tuple[CellState, ...]
    """Every planned run. A run that is not "done" is named in the report."""
    config: Any = None
    """The experiment's config as plain values (config.to_dict); None if unknown."""
    corpus: tuple[SourceRow, ...] = ()
    funnel: tuple[FunnelRow, ...] = ()
    mixture: tuple[MixtureRow, ...] = ()
    stages: tuple[StageRow, ...] = ()
    """Samples of last checkpoints, and what was measured after GRPO."""
    environment: dict[str, Any] = field(default_factory=dict)
    """As folders.environment gives it; {} if not recorded."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Cells with a final checkpoint, by total parameters."""
        return final_cells(self.rows)

    @property
    def sorted_rows(self) -> tuple[CheckpointRow, ...]:
        """Rows in the order of the table."""
        return tuple(sort_rows(self.rows))

    @property
    def unfinished(self) -> tuple[CellState, ...]:
        """Runs that failed or never ended."""
        return tuple(state for state in self.states if state.state != "done")

    @property
    def memory_tasks(self) -> frozenset[str]:
        """Probes that ask for stated facts, of which nothing can be held out; no benchmark is one."""
        probes = probe_kinds(self.config).items()
        return frozenset({STATED_FACTS, *(name for name, kind in probes if kind == "memory")})

    def task_kind(self, task: str) -> Kind | None:
        """Whether a task is of memory or of reasoning; None where nothing tells."""
        return probe_kinds(self.config).get(task) or named_kind(task)


def read_study(folder: Path) -> Study:
    """Read an experiment's folder.

    Raises:
        UserError: no such folder, no study in it, or a line that does not fit.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that `isoflop run` wrote")
    for name in ("experiment.json", "ledger.jsonl", "cells.jsonl"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: no {name}, so this is not the folder of an experiment; "
                "give the folder that `isoflop run` wrote"
            )
    again = "run the study again"
    config = read_json(folder / "experiment.json", missing=again, remedy=again)
    environment_path = folder / "env.json"
    environment: Any = {}
    if environment_path.is_file():
        environment = read_json(environment_path, missing=again, remedy=again)
        if not isinstance(environment, dict):
            raise UserError(f"{environment_path}: expected a JSON object of names and values")
    rows = tuple(read_rows(folder / "ledger.jsonl", CheckpointRow))
    return Study(
        name=rows[0].experiment if rows else folder.resolve().name,
        rows=rows,
        states=tuple(read_rows(folder / "cells.jsonl", CellState)),
        config=config,
        corpus=_optional(folder / "corpus.jsonl", SourceRow),
        funnel=_optional(folder / "funnel.jsonl", FunnelRow),
        mixture=_optional(folder / "mixture.jsonl", MixtureRow),
        stages=_optional(folder / "stages.jsonl", StageRow),
        environment=environment,
    )


def _optional(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    return tuple(read_rows(path, kind)) if path.is_file() else ()
