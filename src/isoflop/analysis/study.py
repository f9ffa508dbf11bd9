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

MEMORY_PROBES = ("PhoneBookProbe",)
"""Kinds of source whose task is to recall stated facts (isoflop.corpus.config)."""


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
        """Tasks that ask for stated facts: the memory probes of the config, and "memory"."""
        return frozenset({"memory", *_names_of_kind(self.config, MEMORY_PROBES)})


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


def _names_of_kind(config: Any, kinds: tuple[str, ...]) -> set[str]:
    """Names of all parts of a config, at any depth, whose "kind" is one of `kinds`."""
    if isinstance(config, list):
        return set().union(*(_names_of_kind(item, kinds) for item in config))
    if not isinstance(config, dict):
        return set()
    found = set().union(*(_names_of_kind(item, kinds) for item in config.values()))
    if config.get("kind") in kinds and isinstance(config.get("name"), str):
        found.add(config["name"])
    return found
