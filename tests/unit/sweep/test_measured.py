"""Times of finished runs, for schedules."""

import shutil

import pytest

from isoflop.cli import main
from isoflop.config import UserError
from isoflop.records import TimingRow, read_rows
from isoflop.sweep.measured import measured_seconds
from isoflop.sweep.study import read_study_map


def test_a_run_takes_at_least_its_training(finished):
    seconds = measured_seconds(finished.root)
    assert list(seconds) == ["E2-k2", "E4-k2"]
    for run in read_study_map(finished.root).runs:
        rows = list(read_rows(finished.root / run.train.path / "timings.jsonl", TimingRow))
        assert seconds[run.cell] >= rows[-1].seconds > 0


def test_a_study_without_a_finished_run_is_told(finished, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    shutil.rmtree(root / "evaluate")
    with pytest.raises(UserError, match="no finished run to measure"):
        measured_seconds(root)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--workers", "2", "--flops-per-second", "1e9"], 0, "7 runs on 2 workers"),
        (["--workers", "2"], 2, "one of --measured and --flops-per-second"),
        (["--flops-per-second", "1e9"], 2, "give --workers too"),
        (["--workers", "2", "--measured", "ROOT"], 2, "no finished run of E8-k2, E16-k2"),
    ],
)
def test_schedules_on_the_command_line(finished, words, status, told, capsys, monkeypatch):
    words = [str(finished.root) if word == "ROOT" else word for word in words]
    monkeypatch.setattr("sys.argv", ["isoflop", "plan", "demo", *words])
    assert main() == status
    said = capsys.readouterr()
    assert told in (said.err if status else said.out)
