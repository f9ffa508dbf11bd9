"""One finished tiny study, made once; tests that change it work on a copy."""

from pathlib import Path
from typing import NamedTuple

import pytest

from fakes import tiny_experiment
from isoflop.records import CellState
from isoflop.sweep.config import Experiment
from isoflop.sweep.run import run_study


class Finished(NamedTuple):
    """A study that was never interrupted."""

    experiment: Experiment
    root: Path
    states: list[CellState]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Finished:
    """The tiny experiment run once from start to end by two workers."""
    folder = tmp_path_factory.mktemp("finished")
    experiment = tiny_experiment(folder)
    root = folder / "runs" / "tiny"
    return Finished(experiment, root, run_study(experiment, root, num_workers=2))
