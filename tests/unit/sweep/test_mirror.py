"""Laws of the mirrors: what a tracker shows is what the rows say."""

import json
import time
from pathlib import Path

import pytest

from isoflop.config import UserError
from isoflop.records import LossRow, StepRow, read_rows
from isoflop.sweep.mirror import Mirror, open_mirror
from isoflop.sweep.study import read_study_map


class Page:
    """A tracker's page that keeps what it is told."""

    def __init__(self):
        self.told: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def add(self, step: int, figures: dict[str, float]) -> None:
        self.told.append((step, figures))

    def close(self) -> None:
        self.closed = True


@pytest.mark.filterwarnings("default")  # Of the tracker's own packages.
def test_tensorboard_reads_back_the_rows(finished, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study = read_study_map(finished.root)
    mirror = open_mirror("tensorboard", finished.root)
    mirror.poll(study)
    mirror.poll(study)
    mirror.close()
    for run in study.runs:
        folder = finished.root / "tensorboard" / run.name
        shown = EventAccumulator(str(folder)).Reload()
        rows = list(read_rows(finished.root / run.train.path / "steps.jsonl", StepRow))
        losses = list(read_rows(finished.root / run.train.path / "losses.jsonl", LossRow))
        for name, expected in {
            "train/loss": [(row.step, row.train_loss) for row in rows],
            "train/gradient_norm": [(row.step, row.gradient_norm) for row in rows],
            "router/max_expert_load": [
                (row.step, max(row.expert_load[0]) * len(row.expert_load[0])) for row in rows
            ],
            "loss/notes/validation": [
                (row.step, row.loss)
                for row in losses
                if (row.source, row.split) == ("notes", "validation")
            ],
        }.items():
            found = [(event.step, event.value) for event in shown.Scalars(name)]
            assert [step for step, _ in found] == [step for step, _ in expected]
            # Event files hold float32.
            assert [v for _, v in found] == pytest.approx([v for _, v in expected], rel=1e-6)


@pytest.mark.filterwarnings("default")
def test_wandb_offline_leaves_a_run_folder_a_run(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    study = read_study_map(finished.root)
    mirror = open_mirror("wandb", finished.root)
    mirror.poll(study)
    mirror.close()
    for run in study.runs:
        (file,) = (finished.root / "wandb" / run.name).rglob(f"run-{run.name}.wandb")
        # Its own process writes the last run's file just after the run is finished.
        deadline = time.monotonic() + 20
        while b"train/loss" not in file.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("kind", ["", "Tensorboard", "mlflow"])
def test_an_unknown_mirror_is_refused(tmp_path, kind):
    with pytest.raises(UserError, match="must be one of tensorboard, wandb"):
        open_mirror(kind, tmp_path)


def test_a_mirror_whose_package_is_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("isoflop.sweep.mirror.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'isoflop\[wandb\]'"):
        open_mirror("wandb", tmp_path)


@pytest.fixture
def growing(finished, tmp_path, monkeypatch) -> tuple[Mirror, Page, Path, list[bytes]]:
    """A mirror on a study whose first run has no rows yet, its page, the file, and the rows."""
    page = Page()
    monkeypatch.setattr(
        "isoflop.sweep.mirror._tensorboard_writer", lambda place, project, name: page
    )
    run = read_study_map(finished.root).runs[0]
    lines = (finished.root / run.train.path / "steps.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / run.train.path).mkdir(parents=True)
    return open_mirror("tensorboard", tmp_path), page, tmp_path / run.train.path, lines


def test_each_row_is_shown_once_when_its_line_is_whole(finished, growing):
    mirror, page, folder, lines = growing
    study = read_study_map(finished.root)
    mirror.poll(study)
    assert page.told == []
    with (folder / "steps.jsonl").open("ab", buffering=0) as file:
        for number, line in enumerate(lines):
            file.write(line[:20])
            mirror.poll(study)
            assert len(page.told) == number
            file.write(line[20:])
            mirror.poll(study)
            assert len(page.told) == number + 1
    assert [step for step, _ in page.told] == [json.loads(line)["step"] for line in lines]
    mirror.close()
    assert page.closed


def test_a_file_that_a_resumed_run_made_shorter_is_read_again(finished, growing):
    mirror, page, folder, lines = growing
    study = read_study_map(finished.root)
    (folder / "steps.jsonl").write_bytes(b"".join(lines))
    mirror.poll(study)
    (folder / "steps.jsonl").write_bytes(b"".join(lines[:2]))
    mirror.poll(study)
    assert page.told[len(lines) :] == page.told[:2]
