"""Laws of the choice of an engine: made once, recorded, kept by a resumed run."""

from pathlib import Path

import pytest
import torch

from fakes import tiny_model, tiny_run, tiny_train
from isoflop.config import UserError
from isoflop.model.ops import build
from isoflop.records import EngineRow, StepRow, read_rows, write_rows
from isoflop.train import engine as engine_module
from isoflop.train.engine import ENGINE_FILE, build_model, choose_engine, settle_engine
from isoflop.train.loop import train_run


def quiet(*_: object) -> None:
    """A progress callback."""


def test_a_named_way_is_not_timed():
    row = choose_engine(tiny_model(), tiny_train(experts="padded", ops="torch"), "cpu")
    assert row == EngineRow(ops="torch", kernels=None, experts="padded", timed=None)


def test_auto_takes_the_faster_way_and_records_both(monkeypatch):
    seconds = {"grouped": 0.3, "padded": 0.2}
    monkeypatch.setattr(
        engine_module, "_seconds_per_step", lambda model, config, row, device: seconds[row.experts]
    )
    row = choose_engine(tiny_model(), tiny_train(experts="auto", ops="torch"), "cpu")
    assert row.experts == "padded"
    assert row.timed == (("grouped", 0.3), ("padded", 0.2))


def test_auto_leaves_out_a_way_that_does_not_take_the_widths():
    model = tiny_model(d_expert=18)
    row = choose_engine(model, tiny_train(experts="auto", ops="torch"), "cpu")
    assert row.timed is not None
    assert [name for name, _ in row.timed] == [row.experts] == ["padded"]


def test_auto_trains_what_it_times_for_real():
    row = choose_engine(tiny_model(), tiny_train(experts="auto", ops="torch"), "cpu")
    assert row.timed is not None
    assert [name for name, _ in row.timed] == ["grouped", "padded"]
    assert all(seconds > 0 for _, seconds in row.timed)
    assert row.experts in ("grouped", "padded")


def test_a_recorded_choice_is_kept(tmp_path, monkeypatch):
    kept = EngineRow(ops="torch", kernels=None, experts="loop", timed=(("loop", 1.0),))
    write_rows(tmp_path / ENGINE_FILE, [kept])

    def never(*_: object) -> float:
        raise AssertionError("timed again")

    monkeypatch.setattr(engine_module, "_seconds_per_step", never)
    assert settle_engine(tmp_path, tiny_model(), tiny_train(experts="auto"), "cpu") == kept


def begun_with(kernels: str, folder: Path) -> None:
    row = EngineRow(ops="native", kernels=kernels, experts="grouped", timed=None)
    write_rows(folder / ENGINE_FILE, [row])


def test_a_run_begun_with_compiled_kernels_does_not_go_on_without(tmp_path, monkeypatch):
    begun_with("0123", tmp_path)
    monkeypatch.setattr(build, "_libraries", lambda: (None, "no C compiler"))
    with pytest.raises(UserError, match="compiled kernels, but ops='native': no C compiler"):
        settle_engine(tmp_path, tiny_model(), tiny_train(), "cpu")


def test_a_run_begun_with_other_kernels_does_not_go_on_with_these(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_libraries", lambda: ({}, ""))
    monkeypatch.setattr(engine_module, "kernels_digest", lambda: "4567")
    begun_with("4567", tmp_path)
    assert settle_engine(tmp_path, tiny_model(), tiny_train(), "cpu").kernels == "4567"
    begun_with("0123", tmp_path)
    with pytest.raises(UserError, match="began with kernels 0123, here they are 4567"):
        settle_engine(tmp_path, tiny_model(), tiny_train(), "cpu")


def test_a_gpu_is_no_place_for_kernels_of_the_cpu():
    with pytest.raises(UserError, match="ops='native' computes on a CPU"):
        choose_engine(tiny_model(), tiny_train(ops="native"), "cuda")
    assert choose_engine(tiny_model(), tiny_train(), "cuda").ops == "torch"


def test_a_killed_run_that_chose_by_time_goes_on_with_its_choice(tmp_path, monkeypatch):
    """The second start would choose the other way; the rows are those of a run in one go."""
    folders = {name: tmp_path / name for name in ("whole", "killed")}
    for folder in folders.values():
        folder.mkdir()

    def prefer(way: str) -> None:
        monkeypatch.setattr(
            engine_module,
            "_seconds_per_step",
            lambda model, config, row, device: 1.0 if row.experts == way else 2.0,
        )

    train = tiny_train(experts="auto", ops="torch")
    prefer("padded")
    train_run(tiny_run(folders["whole"], train), folders["whole"], quiet)

    class KilledError(Exception):
        """Stands for a kill."""

    def kill(step: int, *_: object) -> None:
        if step >= 12:
            raise KilledError

    with pytest.raises(KilledError):
        train_run(tiny_run(folders["killed"], train), folders["killed"], kill)
    prefer("grouped")
    train_run(tiny_run(folders["killed"], train), folders["killed"], quiet)
    rows = {name: (folder / "steps.jsonl").read_bytes() for name, folder in folders.items()}
    assert rows["killed"] == rows["whole"]


def test_the_model_is_computed_as_the_row_says():
    row = EngineRow(ops="torch", kernels=None, experts="padded", timed=None)
    model = build_model(tiny_model(), tiny_train(precision="bfloat16", recompute="layers"), row, 0)
    assert (model.ops.name, model.recompute) == ("torch", "layers")
    assert model.compute_dtype == torch.bfloat16


@pytest.mark.parametrize("experts", ["grouped", "padded", "loop"])
def test_every_way_gives_the_same_losses_but_for_rounding(tmp_path, experts):
    folder = tmp_path / "run"
    folder.mkdir()
    train_run(tiny_run(folder, tiny_train(experts=experts, resume_seconds=1e9)), folder, quiet)
    plain = tmp_path / "plain"
    plain.mkdir()
    train = tiny_train(experts="loop", ops="torch", resume_seconds=1e9)
    train_run(tiny_run(plain, train), plain, quiet)
    found = [row.train_loss for row in read_rows(folder / "steps.jsonl", StepRow)]
    expected = [row.train_loss for row in read_rows(plain / "steps.jsonl", StepRow)]
    assert found == pytest.approx(expected, rel=1e-3)
