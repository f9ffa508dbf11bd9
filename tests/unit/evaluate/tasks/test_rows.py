"""Files of a benchmark: every layout gives the same rows, and no damage passes for a whole file."""

import gzip
import json

import pytest

from isoflop.config import UserError
from isoflop.evaluate.tasks.problem import BadRowError
from isoflop.evaluate.tasks.rows import read_file, read_hub

ROWS = [
    {"question": "One line separator\u2028inside?", "answer": "1"},
    {"question": "\u00e9", "answer": "2"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def held(path):
    return [row for _, row in read_file(path)]


def test_all_layouts_of_a_file_give_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "c.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES.rstrip() + b"\n\n")
    write_parquet(tmp_path / "e.parquet", ROWS)
    for path in sorted(tmp_path.iterdir()):
        assert held(path) == ROWS, path.name


def test_a_bad_line_is_told_with_its_place_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": \n\xff\xfe\n[1]\n' + b"[" * 100_000 + b"\n" + LINES)
    found = list(read_file(path))
    reasons = [row.reason for _, row in found if isinstance(row, BadRowError)]
    assert reasons == ["malformed JSON", "not UTF-8", "not an object", "malformed JSON"]
    assert [where for where, _ in found][:2] == [f"{path}:1", f"{path}:2"]
    assert [row for _, row in found][4:] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b" \n", "empty"),
        ("a.json", b"[]", "no rows"),
        ("a.jsonl", LINES[:-5], r"a.jsonl:2: the file ends inside a line"),
        (
            "a.jsonl.gz",
            gzip.compress(LINES * 50)[:-9],
            r"a.jsonl.gz:\d+: cannot be read to its end",
        ),
        ("a.jsonl.gz", b"plainly not gzip", r"a.jsonl.gz:1: cannot be read"),
        ("a.json", b'[\n{"a": 1},\n', r"a.json:\d: not JSON"),
        ("a.parquet", b"PAR1 cut short", "cannot be read to its end"),
        ("a.csv", b"question,answer\n", "must end with"),
    ],
)
def test_damage_is_the_users_mistake(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        held(tmp_path / name)


def test_a_last_line_that_is_whole_but_no_object_is_set_aside(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES + b"5")
    *_, (_, last) = read_file(tmp_path / "a.jsonl")
    assert isinstance(last, BadRowError)
    assert last.reason == "not an object"


def test_a_missing_file_says_what_may_be_given(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.jsonl: no such file; give a"):
        held(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    "place", ["data/test-00000-of-00001.parquet", "main/test-00000-of-00001.parquet", "test.jsonl"]
)
def test_a_folder_as_the_hub_keeps_it_is_read_through_datasets(tmp_path, place):
    pytest.importorskip("datasets")
    if place.endswith("parquet"):
        write_parquet(tmp_path / place, ROWS)
    else:
        (tmp_path / place).write_bytes(LINES)
    assert [dict(row) for _, row in read_hub(str(tmp_path), None, "test")] == ROWS


def test_a_configuration_of_a_folder_is_found_by_its_card(tmp_path):
    pytest.importorskip("datasets")
    write_parquet(tmp_path / "main" / "test-00000-of-00001.parquet", ROWS)
    write_parquet(tmp_path / "other" / "test-00000-of-00001.parquet", ROWS[:1])
    card = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/test-*\n"
        for name in ("main", "other")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    assert [dict(row) for _, row in read_hub(str(tmp_path), "main", "test")] == ROWS
    assert [dict(row) for _, row in read_hub(str(tmp_path), "other", "test")] == ROWS[:1]
    with pytest.raises(UserError, match="cannot be loaded"):
        list(read_hub(str(tmp_path), "main", "train"))
    with pytest.raises(UserError, match="cannot be loaded"):
        list(read_hub(str(tmp_path), "third", "test"))
