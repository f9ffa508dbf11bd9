"""`isoflop doctor`: its exit status tells healthy from broken from unusable; the page lists every law."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fakes_doctor import ours, save_theirs, small_config
from isoflop import cli
from isoflop.doctor.hugging_face_files import quiet_transformers
from isoflop.doctor.laws import LAWS, examine
from isoflop.doctor.report import laws_to_table, show
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.transformer import Transformer

ROOT = Path(__file__).parents[3]


def call(capsys, monkeypatch, *words: str) -> tuple[int, str, str]:
    """Status, standard output and errors of a command."""
    monkeypatch.setattr(sys, "argv", ["isoflop", "doctor", *words])
    status = cli.main()
    out, error = capsys.readouterr()
    return status, out, error


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(Transformer(small_config(), seed=3), folder)
    return folder


def test_a_healthy_model_ends_with_status_0_and_a_table_of_all_laws(
    capsys, monkeypatch, checkpoint
):
    status, out, _ = call(capsys, monkeypatch, str(checkpoint))
    assert status == 0
    assert all(law.name in out for law in LAWS)
    assert f"{len(LAWS)} pass" in out


def test_json_has_a_row_for_every_law_and_depends_on_the_seed_alone(
    capsys, monkeypatch, checkpoint
):
    first = call(capsys, monkeypatch, str(checkpoint), "--json", "--seed", "1")
    again = call(capsys, monkeypatch, str(checkpoint), "--json", "--seed", "1")
    assert first == again
    rows = json.loads(first[1])
    assert [row["law"] for row in rows] == [law.name for law in LAWS]
    assert set(rows[0]) >= {"meaning", "value", "tolerance", "verdict", "catches"}


def test_a_broken_law_ends_with_status_1_and_is_explained(capsys, monkeypatch, tmp_path):
    with quiet_transformers():
        folder = save_theirs("mixtral", tmp_path / "mixtral")
    status, out, _ = call(capsys, monkeypatch, str(folder))
    assert status == 1
    assert "layers-do-not-cancel: fail" in out
    assert "known from huggingface/transformers#28255" in out


def test_an_error_ends_with_status_1(capsys, monkeypatch, checkpoint):
    def broken(self, tokens, counted=None):
        raise RuntimeError("out of order")

    monkeypatch.setattr("isoflop.doctor.own.OwnSubject.router_losses", broken)
    status, out, _ = call(capsys, monkeypatch, str(checkpoint))
    assert status == 1
    assert "RuntimeError: out of order" in out


@pytest.mark.parametrize("words", [("nowhere",), (".", "--device", "tpu")])
def test_a_mistake_ends_with_status_2_and_one_line(capsys, monkeypatch, words):
    status, out, error = call(capsys, monkeypatch, *words)
    assert (status, out) == (2, "")
    assert error.startswith("isoflop: ")
    assert error.count("\n") == 1


def test_figures_are_whole_in_a_narrow_terminal():
    console = Console(width=80, record=True, file=io.StringIO())
    rows = examine(ours(), seed=0)
    show(rows, console)
    lines = console.export_text().splitlines()
    for law in LAWS:
        (line,) = [line for line in lines if line.strip().startswith(law.name)]
        assert "pass" in line
        assert "…" not in line.split("pass")[1].rsplit("  ", 1)[0]


def test_the_published_rows_hold_every_law_for_every_model():
    rows = json.loads((ROOT / "docs" / "results" / "doctor" / "rows.json").read_text())
    models = {row["model"] for row in rows}
    assert len(models) == 5
    for model in models:
        assert [r["law"] for r in rows if r["model"] == model] == [law.name for law in LAWS]


def test_the_reference_lists_every_law_as_it_is():
    page = (ROOT / "docs" / "reference.md").read_text()
    assert laws_to_table() in page
