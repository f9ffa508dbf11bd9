"""What cannot mean anything is refused with its place and a remedy; what must be known is marked."""

import csv
import json
import math

import pytest

from isoflop.analysis.tables import read_table
from isoflop.config import UserError

HEAD = ("cell", "seed", "tokens", "total_params", "active_params", "train_loss", "gsm8k.accuracy")
GOOD = ("E8-k2", 0, 1000, 500, 200, 2.5, 0.25)


def write(path, lines, head=HEAD):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *lines])
    return path


def changed(**values):
    return tuple(
        values.get(name.replace(".", "_"), old) for name, old in zip(HEAD, GOOD, strict=True)
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (changed(train_loss=0), r"bad.csv:2: train_loss is 0; it must be above 0"),
        (changed(train_loss=-1), r"bad.csv:2: train_loss is -1; it must be above 0"),
        (
            changed(train_loss="low"),
            r"bad.csv:2: train_loss is 'low'; it must be a number, or empty",
        ),
        (
            changed(gsm8k_accuracy=25),
            r"bad.csv:2: .*must be a share, 0 to 1; divide percentages by",
        ),
        (changed(tokens=0), r"tokens is 0; it must be a whole number from 1 on"),
        (changed(tokens=10.5), r"tokens is 10.5; it must be a whole number"),
        (changed(active_params=900), r"bad.csv:2: active_params is 900, above total_params 500"),
        (("E8", 0, 1000), r"bad.csv:2: 3 fields where the first line names 7"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path, line, words):
    with pytest.raises(UserError, match=words):
        read_table(write(tmp_path / "bad.csv", [line]))


def test_two_architectures_under_one_name_are_refused(tmp_path):
    """Their seeds would be averaged."""
    path = tmp_path / "two.csv"
    head = "cell,seed,tokens,num_experts,top_k,total_params,active_params,train_loss\n"
    path.write_text(f"{head}a,0,1000,4,2,100,50,2.0\na,1,1000,8,2,200,50,2.1\n")
    with pytest.raises(UserError, match=r"csv:3: num_experts of cell a is 8, and 4 in .*csv:2"):
        read_table(path)
    # A shape that some lines leave out is no other shape.
    path.write_text(f"{head}a,0,1000,4,2,100,50,2.0\na,1,1000,,2,,50,2.1\n")
    assert read_table(path).cells == ("a", "a")


def test_missing_columns_are_all_named_with_those_there(tmp_path):
    path = write(tmp_path / "t.csv", [("a", 1)], ("cell", "train_loss"))
    with pytest.raises(UserError, match=r"lacks the columns tokens, active_params; it has cell"):
        read_table(path)
    path = write(tmp_path / "t.csv", [GOOD[:5]], HEAD[:5])
    with pytest.raises(UserError, match="no column holds a loss or a score"):
        read_table(path)


def test_nan_and_infinity_are_not_measured_and_said(tmp_path):
    lines = [changed(train_loss="nan"), changed(seed=1, train_loss="inf"), changed(seed=2)]
    table = read_table(write(tmp_path / "t.csv", lines))
    assert [math.isnan(v) for v in table.number("train_loss")] == [True, True, False]
    (note,) = [n for n in table.notes if "NaN" in n]
    assert "t.csv:2 and 1 more" in note
    assert table.line(0)["train_loss"] is None


def test_equal_lines_count_once_and_different_ones_are_refused(tmp_path):
    table = read_table(write(tmp_path / "t.csv", [GOOD, GOOD]))
    assert len(table) == 1
    assert any("given twice" in note for note in table.notes)
    with pytest.raises(UserError, match=r"t.csv:3: the same cell, seed, tokens .* as .*t.csv:2"):
        read_table(write(tmp_path / "t.csv", [GOOD, changed(train_loss=2.6)]))


def test_without_seeds_one_run_a_cell_is_allowed_and_said(tmp_path):
    head = tuple(name for name in HEAD if name != "seed")
    line = tuple(v for name, v in zip(HEAD, GOOD, strict=True) if name != "seed")
    table = read_table(write(tmp_path / "t.csv", [line], head))
    assert any("no seed" in note for note in table.notes)
    with pytest.raises(UserError, match="number the seeds"):
        read_table(write(tmp_path / "t.csv", [line, (*line[:-2], 2.0, 0.5)], head))


def test_several_tokenizers_leave_bits_per_byte_alone(tmp_path):
    head = (*HEAD, "tokenizer", "validation_bits_per_byte", "web.validation.loss")
    lines = [(*GOOD, "a", 0.9, 3.0), (*changed(seed=1), "b", 0.8, 2.9)]
    table = read_table(write(tmp_path / "t.csv", lines, head))
    assert "train_loss" not in table.numbers
    assert "web.validation.loss" not in table.numbers
    assert table.has("validation_bits_per_byte", "gsm8k.accuracy")
    assert any("2 tokenizers (a, b)" in note for note in table.notes)
    short = [name for name in head if "accuracy" not in name and "byte" not in name]
    lines = [("E8", s, 1000, 500, 200, 2.5, t, 3.0) for s, t in ((0, "a"), (1, "b"))]
    with pytest.raises(UserError, match="cannot be compared by losses a token"):
        read_table(write(tmp_path / "t.csv", lines, short))


def test_one_tokenizer_changes_nothing(tmp_path):
    lines = [(*GOOD, "a"), (*changed(seed=1), "a")]
    assert (
        "train_loss" in read_table(write(tmp_path / "t.csv", lines, (*HEAD, "tokenizer"))).numbers
    )


def test_other_names_are_read_as_ours_and_said(tmp_path):
    head = ("name", "flops", "train_tokens", "n_params", "n_active", "val_loss")
    table = read_table(write(tmp_path / "t.csv", [("a", 1e9, 1000, 500, 200, 2.5)], head))
    assert table.cells == ("a",)
    assert table.number("validation_loss")[0] == 2.5
    assert "column val_loss was read as validation_loss" in table.notes
    both = ("cell", "tokens", "params", "num_params", "active_params", "train_loss")
    with pytest.raises(UserError, match="num_params, params all mean total_params"):
        read_table(write(tmp_path / "t.csv", [("a", 1, 2, 3, 1, 2.0)], both))


def test_what_follows_is_derived_and_equals_the_slow_way(tmp_path):
    head = (*HEAD, "num_experts", "top_k", "d_model", "d_expert")
    lines = [(*changed(tokens=t), 8, 2, 64, 32) for t in (500, 1000)]
    table = read_table(write(tmp_path / "t.csv", lines, head))
    assert table.number("density").tolist() == [0.25, 0.25]
    assert table.number("sparsity").tolist() == [0.75, 0.75]
    assert table.number("granularity").tolist() == [8.0, 8.0]
    assert table.number("tpp").tolist() == [1.0, 2.0]
    assert table.number("train_flops").tolist() == [6 * 200 * 500, 6 * 200 * 1000]
    assert table.number("final").tolist() == [0.0, 1.0]
    assert table.final.number("tokens").tolist() == [1000]
    assert set(table.text("stage")) == {"pretrained"}


def test_a_dense_table_needs_one_count_of_parameters(tmp_path):
    path = write(tmp_path / "t.csv", [(1000, 500, 2.0)], ("tokens", "params", "loss"))
    table = read_table(path)
    assert table.number("active_params").tolist() == [500]
    assert any("taken as total_params" in note for note in table.notes)


@pytest.mark.parametrize("kind", ["json", "columns", "jsonl", "parquet", "tsv"])
def test_every_form_of_file_gives_the_same_table(tmp_path, kind):
    objects = [
        dict(zip(HEAD, line, strict=True)) for line in (GOOD, changed(seed=1, train_loss=2.4))
    ]
    expected = read_table(write(tmp_path / "t.csv", [tuple(o.values()) for o in objects]))
    path = tmp_path / f"t.{'json' if kind == 'columns' else kind}"
    if kind == "json":
        path.write_text(json.dumps(objects))
    elif kind == "columns":
        path.write_text(json.dumps({name: [o[name] for o in objects] for name in HEAD}))
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(o) for o in objects) + "\n")
    elif kind == "tsv":
        lines = [HEAD, *(tuple(o.values()) for o in objects)]
        path.write_text("\n".join("\t".join(map(str, line)) for line in lines) + "\n")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(objects), path)
    found = read_table(path)
    assert found.texts == expected.texts
    assert {n: v.tolist() for n, v in found.numbers.items()} == {
        n: v.tolist() for n, v in expected.numbers.items()
    }


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "", "empty; the first line must name the columns"),
        ("t.csv", "cell,cell\n1,2\n", "the column 'cell' stands twice"),
        ("t.csv", ",".join(HEAD) + "\n", "the table has no lines"),
        ("t.json", "{", "t.json:1: not JSON"),
        ("t.json", '{"a": [1], "b": [1, 2]}', "columns, each a list of equal length"),
        ("t.json", "[1]", "expected an object of columns, got '1'"),
        ("t.jsonl", '{"a": 1}\n{', "t.jsonl:2: not JSON"),
        ("t.parquet", "no", "not Parquet"),
        ("t.xls", "", "a table of runs ends in one of"),
    ],
)
def test_files_that_are_no_table_are_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        read_table(tmp_path / name)


def test_nothing_there_and_a_folder_of_nothing_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"neither a study's folder"):
        read_table(tmp_path)


def test_a_column_that_is_missing_names_those_there(tmp_path):
    table = read_table(write(tmp_path / "t.csv", [GOOD]))
    with pytest.raises(UserError, match=r"no column 'gsm8k.loss'; it has active_params"):
        table.number("gsm8k.loss")
