"""Laws of a whole study: idempotent, resumable after any death, one failure stops nothing."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from isoflop.config import UserError
from isoflop.folders import locked
from isoflop.records import CheckpointRow, ScoreRow, read_rows
from isoflop.sweep import pool
from isoflop.sweep.mirror import Mirror
from isoflop.sweep.run import default_workers, report_study, run_study
from isoflop.sweep.study import read_study_map

EXPERIMENT_FILE = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
from fakes import tiny_experiment

def experiment():
    both = tiny_experiment(Path({folder!r}))
    return replace(both, cells=both.cells[:1])
"""


def table_without_times(root: Path) -> str:
    """The bytes of table.csv but for its last two columns."""
    text = (root / "table.csv").read_text()
    assert text.splitlines()[0].endswith(",tokens_per_second,seconds")
    return "\n".join(line.rsplit(",", 2)[0] for line in text.splitlines())


def results(root: Path) -> dict[str, bytes]:
    """Every byte of a study that must not depend on interruptions."""
    names = ("steps.jsonl", "losses.jsonl", "mixture.jsonl", "scores.jsonl", "answers.jsonl")
    files = [file for name in names for file in root.rglob(name)]
    files += root.rglob("model.safetensors")
    found = {str(file.relative_to(root)): file.read_bytes() for file in files}
    return {**found, "table.csv": table_without_times(root).encode()}


def of_first_cell(found: dict[str, bytes]) -> dict[str, bytes]:
    """What `results` finds where E2 is the only cell."""
    table = [line for line in found["table.csv"].splitlines() if b"E4-k2" not in line]
    kept = {name: content for name, content in found.items() if "E4-k2" not in name}
    return {**kept, "table.csv": b"\n".join(table)}


def test_a_study_ends_with_a_report_and_a_table(finished):
    assert [state.state for state in finished.states] == ["done", "done"]
    for name in ("report.html", "table.csv", "ledger.jsonl", "cells.jsonl", "env.json"):
        assert (finished.root / name).stat().st_size > 0
    rows = list(csv.DictReader(io.StringIO((finished.root / "table.csv").read_text())))
    assert [(row["cell"], row["step"]) for row in rows] == [
        ("E2-k2", "10"),
        ("E2-k2", "20"),
        ("E4-k2", "10"),
        ("E4-k2", "20"),
    ]


def test_the_ledger_joins_every_figure(finished):
    rows = list(read_rows(finished.root / "ledger.jsonl", CheckpointRow))
    assert [row.final for row in rows] == [False, True, False, True]
    for row in rows:
        assert {(loss.source, loss.split) for loss in row.losses} == {
            (source, split)
            for source in ("memory", "reasoning", "notes")
            for split in ("train", "validation")
        }
        assert {(score.task, score.split) for score in row.scores} == {
            (task, split) for task in ("memory", "reasoning") for split in ("seen", "held_out")
        }
        assert row.max_expert_load >= 1
        assert row.tpp == row.tokens / row.total_params
    study = read_study_map(finished.root)
    scores = finished.root / study.runs[1].evaluate.path / "scores.jsonl"
    assert list(rows[3].scores) == [s for s in read_rows(scores, ScoreRow) if s.step == 20]


def test_a_second_call_does_nothing_but_the_report(finished):
    def times() -> dict[Path, int]:
        stages = ("corpus", "tokenizer", "tokens", "train", "evaluate")
        files = (file for stage in stages for file in (finished.root / stage).rglob("*"))
        return {file: file.stat().st_mtime_ns for file in files if file.name != ".lock"}

    before, content = times(), results(finished.root)
    states = run_study(finished.experiment, finished.root)
    assert states == finished.states
    assert times() == before
    assert results(finished.root) == content


def test_two_studies_on_one_folder_are_refused(finished, monkeypatch):
    monkeypatch.setattr("isoflop.folders.LOCK_PATIENCE_SECONDS", 0.0)
    with (
        locked(finished.root),
        pytest.raises(UserError, match="another process works in this folder"),
    ):
        run_study(finished.experiment, finished.root)


def test_an_unknown_mirror_is_refused_before_any_work(finished, tmp_path):
    with pytest.raises(UserError, match="mirror 'paper' must be one of tensorboard, wandb"):
        run_study(finished.experiment, tmp_path / "out", mirrors=("paper",))
    assert not (tmp_path / "out" / "corpus").exists()


def test_a_failed_run_is_recorded_stops_no_other_and_is_tried_again(finished, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    broken, other = read_study_map(root).runs
    for stage in (broken.train, broken.evaluate, other.evaluate):
        shutil.rmtree(root / stage.path)
    # A file where a folder must be: the run fails when it keeps its first checkpoint.
    (root / broken.train.path).mkdir()
    (root / broken.train.path / "checkpoints").write_text("")
    states = {state.cell: state for state in run_study(finished.experiment, root, num_workers=1)}
    assert (states["E2-k2"].state, states["E4-k2"].state) == ("failed", "done")
    assert "checkpoints" in states["E2-k2"].reason
    assert "\n" not in states["E2-k2"].reason
    assert "E2-k2" not in (root / "table.csv").read_text()
    assert "E2-k2" in (root / "report.html").read_text()
    (root / broken.train.path / "checkpoints").unlink()
    assert [s.state for s in run_study(finished.experiment, root)] == ["done", "done"]
    assert results(root) == results(finished.root)


class Command:
    """`isoflop run` on the tiny experiment's first cell in a process group of its own."""

    def __init__(self, folder: Path, texts: Path):
        tests = str(Path(__file__).parents[2])
        self.file = folder / "tiny.py"
        self.file.write_text(EXPERIMENT_FILE.format(tests=tests, folder=str(texts)))
        self.root = folder / "runs" / "tiny"
        self._out = str(folder / "runs")

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "isoflop", "run", str(self.file), "--out", self._out]
        return subprocess.Popen(
            [*command, "--workers", "2"],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def workers(self) -> list[int]:
        """Processes that work on a run of this study."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # It has ended.
            if b"isoflop.sweep.worker" in words and str(self.root).encode() in words:
                found.append(int(folder.name))
        return found

    def wait_until(self, happened, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + 120
        while not happened():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def has(self, pattern: str) -> bool:
        return any(self.root.glob(pattern))

    def workers_end(self) -> None:
        deadline = time.monotonic() + 5
        while self.workers():
            assert time.monotonic() < deadline, "a worker lives on without its parent"
            time.sleep(0.05)


@pytest.fixture
def interruptible():
    """Ctrl-C reaches processes started here, also where tests run in a shell's background, which
    ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_study_killed_again_and_again_leaves_the_same_bytes(finished, tmp_path):
    """The whole tree while preparing; the parent alone in training; Ctrl-C in evaluation."""
    texts = Path(finished.experiment.corpus.sources[2].path).parent
    command = Command(tmp_path, texts)

    with command.start() as process:
        command.wait_until(lambda: command.has("corpus/reasoning-*/train.jsonl"), process)
        os.killpg(process.pid, signal.SIGKILL)
    assert not command.has("tokens/*/DONE")

    with command.start() as process:
        command.wait_until(lambda: command.has("train/*/resume.safetensors"), process)
        process.kill()
    command.workers_end()

    with command.start() as process:
        command.wait_until(lambda: command.has("evaluate/*/parts/*"), process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "isoflop: interrupted; run the same command again to go on"
    assert "Traceback" not in errors
    assert "" not in errors.splitlines()
    assert not command.workers()

    with command.start() as process:
        said, errors = process.communicate()
    assert (process.returncode, "Traceback" in errors) == (0, False)
    assert said.splitlines() == [str(command.root / n) for n in ("report.html", "table.csv")]
    # The other cell has no part in this one's bytes.
    assert results(command.root) == of_first_cell(results(finished.root))


@pytest.mark.parametrize(
    ("present", "asked", "expected"),
    [
        (0, None, ()),
        (2, None, ("0", "1")),
        (2, "1", ("1",)),
        (2, "", ()),
        (4, "3, GPU-5", ("3", "GPU-5")),
        (0, "0", ()),
    ],
)
def test_workers_share_the_gpus_that_are_allowed(tmp_path, monkeypatch, present, asked, expected):
    for number in range(present):
        (tmp_path / f"0000:0{number}").mkdir()
    monkeypatch.setattr(pool, "GPU_FOLDERS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if asked is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    assert pool.visible_gpus() == expected
    assert default_workers() == (len(expected) or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("name", ["steps.jsonl", "losses.jsonl"])
def test_rows_missing_from_a_finished_run_are_told(finished, tmp_path, name):
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    path = root / read_study_map(root).runs[0].train.path / name
    path.write_text(path.read_text().split("\n")[0] + "\n")
    with pytest.raises(UserError, match=f"{name}: rows up to step .* are missing .* run again"):
        report_study(root)


def test_a_failing_mirror_is_switched_off_and_the_study_goes_on(finished, tmp_path, monkeypatch):
    class Failing(Mirror):
        def poll(self, study):
            raise UserError("wandb: no login")

    monkeypatch.setattr("isoflop.sweep.run.open_mirror", Failing)
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    said = io.StringIO()
    states = run_study(
        finished.experiment, root, mirrors=("wandb",), console=Console(file=said, width=200)
    )
    assert {state.state for state in states} == {"done"}
    assert "mirror switched off: wandb: no login" in said.getvalue()


def test_the_report_names_the_command_and_one_environment(finished, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    (root / "command.json").write_text('["isoflop", "run", "mine.py"]')
    report_study(root)
    environment = json.loads((root / "env.json").read_text())
    assert environment["command"] == ["isoflop", "run", "mine.py"]
    assert environment["differs_between_runs"] == {}
    assert "isoflop run mine.py" in (root / "report.html").read_text()
