"""A line that enters no comparison is told, and a column that is nearly ours is named."""

import csv
from pathlib import Path

import pytest

from isoflop.analysis.fits.points import default_response
from isoflop.analysis.laws.catalogue import find_law
from isoflop.analysis.tables import read_table
from isoflop.config import UserError

LAB = Path("docs/example/lab-runs.csv")


def changed(path, **blanks):
    """The example with some fields of one column changed: by column, values from the top."""
    with LAB.open(newline="") as file:
        lines = list(csv.DictReader(file))
    for name, values in blanks.items():
        for line, value in zip(lines, values, strict=False):
            line[name] = value
    lines = [{name: line.get(name, "") for name in lines[0]} for line in lines]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


@pytest.mark.parametrize("name", ["active_params", "num_experts", "total_params", "top_k"])
def test_a_line_without_what_comparisons_need_is_told(tmp_path, name):
    table = read_table(changed(tmp_path / "t.csv", **{name: ["", ""]}))
    (note,) = [note for note in table.notes if "is empty at" in note]
    assert note.startswith(f"{name} is empty at {tmp_path}/t.csv:2 and 1 more: not in")


def test_a_full_table_has_no_such_note():
    assert not any("empty" in note for note in read_table(LAB).notes)


def test_lines_without_a_tokenizer_are_told(tmp_path):
    table = read_table(changed(tmp_path / "t.csv", tokenizer=["a"] * 90 + [""] * 90))
    (note,) = [note for note in table.notes if "tokenizer" in note]
    assert note == f"tokenizer is empty at {tmp_path}/t.csv:92 and 89 more: taken as a"


def test_a_fit_without_losses_says_that_tokenizers_differ(tmp_path):
    table = read_table(changed(tmp_path / "t.csv", tokenizer=["a"] * 90 + ["b"] * 90))
    with pytest.raises(UserError, match=r"losses there: none \(2 tokenizers \(a, b\): train_loss"):
        default_response(table, find_law("chinchilla"))


def test_a_column_in_other_letters_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("Cell,Tokens,active_params,train_loss\na,1000,200,2.0\n")
    with pytest.raises(
        UserError, match=r"columns cell, tokens; .*Write cell for Cell, tokens for T"
    ):
        read_table(path)


def test_an_optional_column_in_other_letters_is_a_note(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("cell,tokens,active_params,train_loss,Num_Experts\na,1000,200,2.0,8\n")
    assert "column Num_Experts is not read: write num_experts" in read_table(path).notes


def test_a_file_with_semicolons_is_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("cell;tokens;active_params;train_loss\na;1000;200;2,0\n")
    with pytest.raises(UserError, match=r"t.csv:1: .*separated by semicolons; save it with commas"):
        read_table(path)
