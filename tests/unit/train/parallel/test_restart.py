"""Ranks killed at any moment go on with the same bytes, also as fewer ranks; damage is told."""

import json
import random
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from fakes import tiny_model, tiny_run, tiny_train
from fakes_ranks import (
    Kill,
    error_file,
    finish_ranks,
    run_ranks,
    start_ranks,
    train_rank,
    train_slow_rank,
    train_without_space,
)
from isoflop.config import UserError
from isoflop.design.layout import Layout
from isoflop.records import StepRow, read_rows
from isoflop.train.computation import OneProcess
from isoflop.train.loop import train_run
from isoflop.train.parallel.mesh import joined
from isoflop.train.parallel.state import MANIFEST
from isoflop.train.state import RANKS_STATE, forget_state

MODEL = tiny_model(num_experts=8, num_heads=4, num_key_value_heads=2)
TRAIN = tiny_train()
"""Twenty steps; a state is saved after every row."""
TWO = Layout(ranks=2, shard=2, expert_parallel=2)
FOUR = Layout(ranks=4, shard=2, expert_parallel=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run that all tests spread and kill."""
    return tiny_run(tmp_path_factory.mktemp("shards"), TRAIN, MODEL)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> Path:
    """The run of two ranks, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_ranks(TWO, train_rank, run, folder)
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """Every byte that must not depend on interruptions."""
    files = [folder / name for name in ("mixture.jsonl", "steps.jsonl", "losses.jsonl")]
    files += sorted((folder / "checkpoints").rglob("*.*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def losses(folder: Path) -> list[float]:
    return [row.train_loss for row in read_rows(folder / "steps.jsonl", StepRow)]


def killed(layout: Layout, run, folder: Path, kill: Kill) -> None:
    """Start the ranks; one is killed, and the others notice at once."""
    statuses = finish_ranks(start_ranks(layout, train_rank, run, folder, kill))
    assert statuses[kill.rank] == -signal.SIGKILL
    others = [status for rank, status in enumerate(statuses) if rank != kill.rank]
    assert others == [1] * len(others)


ROWS = (3, 6, 9, 10, 12, 15, 18)
RANDOM = random.Random(8)
KILLS = [
    Kill(RANDOM.randrange(2), RANDOM.choice(ROWS), place)
    for place in ("row", "row", "row", "state", "state")
]


@pytest.mark.parametrize("kill", KILLS, ids=lambda k: f"rank{k.rank}-step{k.step}-{k.place}")
def test_a_killed_rank_costs_nothing_but_time(run, whole, tmp_path, kill):
    killed(TWO, run, tmp_path, kill)
    assert (tmp_path / RANKS_STATE).exists()
    run_ranks(TWO, train_rank, run, tmp_path)
    assert results(tmp_path) == results(whole)
    forget_state(tmp_path)
    assert not (tmp_path / RANKS_STATE).exists()


@pytest.fixture(scope="module")
def stopped(run, tmp_path_factory) -> Path:
    """A run of four ranks, killed after step 12 or so."""
    folder = tmp_path_factory.mktemp("stopped")
    killed(FOUR, run, folder, Kill(3, 12))
    return folder


@pytest.mark.parametrize("layout", [TWO, Layout(ranks=2), Layout(ranks=1)], ids=Layout.text)
def test_a_state_of_four_ranks_is_read_by_fewer(run, whole, stopped, tmp_path, layout):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    (state,) = (folder / RANKS_STATE).glob(f"*/{MANIFEST}")
    assert json.loads(state.read_text())["step"] >= 9
    run_ranks(layout, train_rank, run, folder)
    assert losses(folder) == pytest.approx(losses(whole), abs=2e-5)


TENSOR = Layout(ranks=4, shard=2, tensor_parallel=2)


def test_a_state_in_parts_is_read_whole_and_a_whole_one_in_parts(run, whole, stopped, tmp_path):
    parts, again = tmp_path / "parts", tmp_path / "again"
    shutil.copytree(stopped, parts)
    # Experts spread over ranks wrote it; heads and widths are spread now, and killed once more.
    killed(TENSOR, run, parts, Kill(2, 15))
    (state,) = (parts / RANKS_STATE).glob(f"*/{MANIFEST}")
    assert json.loads(state.read_text())["layout"] == TENSOR.text()
    shutil.copytree(parts, again)
    run_ranks(TWO, train_rank, run, parts)
    assert losses(parts) == pytest.approx(losses(whole), abs=2e-5)
    run_ranks(TENSOR, train_rank, run, again)
    assert losses(again) == pytest.approx(losses(whole), abs=2e-5)


def flipped(path: Path) -> None:
    """64 bytes in the middle of a file, as a sick disk leaves them."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(255 - one for one in data[middle : middle + 64])
    path.write_bytes(data)


def changed(manifest: Path, **fields: object) -> None:
    """Other fields in state.json; None: the field is missing."""
    data = json.loads(manifest.read_text()) | fields
    manifest.write_text(json.dumps({key: one for key, one in data.items() if one is not None}))


DAMAGES = {
    "missing": (lambda state, part: part.unlink(), "PART: is missing; the state is damaged"),
    "torn": (
        lambda state, part: part.write_bytes(part.read_bytes()[:100]),
        "PART: has 100 bytes instead of",
    ),
    "flipped": (lambda state, part: flipped(part), "PART: is not as it was written; the state is"),
    "flipped metadata": (
        lambda state, part: flipped(state / ".metadata"),
        "STATE/.metadata: is not as it was written; the state is damaged",
    ),
    "metadata of zeros": (
        lambda state, part: (state / ".metadata").write_bytes(
            bytes((state / ".metadata").stat().st_size)
        ),
        "STATE/.metadata: is not as it was written; the state is damaged",
    ),
    "a list": (
        lambda state, part: (state / MANIFEST).write_text("[]"),
        "STATE/state.json: expected StateManifest, got []; delete it",
    ),
    "no files": (
        lambda state, part: changed(state / MANIFEST, files=None),
        "STATE/state.json: StateManifest lacks the field 'files'; delete it",
    ),
    "another step": (
        lambda state, part: changed(state / MANIFEST, step=3),
        "STATE/state.json: step=3 is not the folder's; delete it",
    ),
    "of another run": (
        lambda state, part: changed(state / MANIFEST, run="ffffffff"),
        "state of run ffffffff, expected 0123abcd; delete it",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_told(run, stopped, tmp_path, damage):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    part = sorted((folder / RANKS_STATE).glob("*/*.distcp"))[1]
    make, told = DAMAGES[damage]
    make(part.parent, part)
    assert finish_ranks(start_ranks(Layout(ranks=1), train_rank, run, folder)) == [1]
    told = told.replace("PART", str(part)).replace("STATE", str(part.parent))
    found = (folder / error_file(0)).read_text()
    assert f"UserError: {told}" in found or told in found.splitlines()[-1]


def test_a_state_from_before_there_were_checksums_is_read(run, whole, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    (manifest,) = (folder / RANKS_STATE).glob(f"*/{MANIFEST}")
    assert set(json.loads(manifest.read_text())["sha256"]) == {
        file.name for file in manifest.parent.iterdir() if file != manifest
    }
    changed(manifest, sha256=None)
    run_ranks(Layout(ranks=1), train_rank, run, folder)
    assert losses(folder) == pytest.approx(losses(whole), abs=2e-5)


def test_a_node_without_space_is_told_with_its_rank_and_the_run_goes_on(run, whole, tmp_path):
    statuses = finish_ranks(start_ranks(TWO, train_without_space, run, tmp_path, 1, 4096))
    assert statuses == [1, 1]
    told = (tmp_path / error_file(0)).read_text()
    assert re.search(
        r"UserError: .*step-\d+: rank 1: no space left, or a limit .*; the state could not be written",
        told,
    )
    assert "free space and run again" in told
    run_ranks(TWO, train_rank, run, tmp_path)
    assert results(tmp_path) == results(whole)


def test_a_rank_that_hangs_is_given_up_and_the_run_goes_on(run, whole, tmp_path):
    statuses = finish_ranks(start_ranks(TWO, train_slow_rank, run, tmp_path, 8.0))
    assert statuses == [1, 1]
    assert re.search(r"imed out|imeout", (tmp_path / error_file(0)).read_text())
    run_ranks(TWO, train_rank, run, tmp_path)
    assert results(tmp_path) == results(whole)


@pytest.mark.parametrize("started", [None, "2"])
def test_ranks_that_are_not_the_layouts_are_told(started, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if started:
        monkeypatch.setenv("WORLD_SIZE", started)
    wanted = f"{started or 'no'} ranks were started, but the layout is of 4 ranks"
    with pytest.raises(UserError, match=wanted), joined(FOUR, torch.device("cpu")):
        pass


def test_one_process_and_ranks_do_not_take_each_others_states(run, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    torch.set_num_threads(1)
    with pytest.raises(UserError, match=r"begun by several ranks; go on with --ranks"):
        train_run(run, folder, lambda *_: None)
    assert OneProcess(run.model, run.train, 0, "cpu", folder).ranks.parts == 1
