"""Every record of any input becomes one row, with its place, its columns and an id of its content."""

import gzip
import json

import pyarrow
import pytest
import zstandard
from pyarrow import ipc, parquet

from isoflop.config import UserError
from isoflop.corpus import formats
from isoflop.corpus.intake import CorpusInput, input_digest, input_kind, open_input
from isoflop.corpus.rows import TextRow, row_from_fields, row_to_json, text_id

RECORDS = [
    {"text": "first é\u2028 text", "path": "a.py", "stars": 3, "score": 0.5, "tags": ["x", "y"]},
    {"text": "second", "path": None, "stars": None, "score": float("inf"), "tags": []},
    {"text": "", "path": "c.py", "stars": 1, "score": 0.0, "tags": None},
    {"text": "last", "path": "d.py", "stars": 2**60, "score": 1.0, "tags": ["z"]},
]


def write_jsonl(path):
    path.write_bytes("".join(json.dumps(r) + "\n" for r in RECORDS).encode())


def write_gzip(path):
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in RECORDS).encode()))


def write_zstd(path):
    path.write_bytes(zstandard.compress("".join(json.dumps(r) + "\n" for r in RECORDS).encode()))


def write_parquet(path):
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)


def write_arrow_file(path):
    table = pyarrow.Table.from_pylist(RECORDS)
    with ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def write_arrow_stream(path):
    table = pyarrow.Table.from_pylist(RECORDS)
    with ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


WRITERS = {
    "a.jsonl": write_jsonl,
    "a.json": write_jsonl,
    "a.jsonl.gz": write_gzip,
    "a.jsonl.zst": write_zstd,
    "a.parquet": write_parquet,
    "a.arrow": write_arrow_file,
    "b.arrow": write_arrow_stream,
    "a.feather": write_arrow_file,
}


def rows(path, **fields):
    return list(open_input(CorpusInput(path=str(path), **fields)))


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_any_format_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    found = rows(path)
    assert [r.text for r in found] == ["first é\u2028 text", "second", "", "last"]
    assert [r.where for r in found] == [f"{path}:{n}" for n in range(1, 5)]
    assert [r.id for r in found if r.text] == [text_id(r.text) for r in found if r.text]
    assert found[0].metadata == {"path": "a.py", "stars": 3, "score": 0.5, "tags": '["x", "y"]'}
    assert found[1].metadata == {"path": None, "stars": None, "score": "inf", "tags": "[]"}
    assert found[3].metadata["stars"] == 2**60
    assert (found[2].rejected_by, found[2].reason) == ("read", "empty text")
    assert all(r.rejected_by is None for r in found if r.text)
    for r in found:
        assert row_from_fields(json.loads(row_to_json(r))) == r


def test_a_folder_of_files_of_records_is_read_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-00001.parquet")
    write_jsonl(tmp_path / "data" / "train-00000.jsonl")
    (tmp_path / ".cache").mkdir()
    write_jsonl(tmp_path / ".cache" / "hidden.jsonl")
    (tmp_path / "README.md").write_text("about")
    places = [r.where.removeprefix(str(tmp_path)) for r in rows(tmp_path)]
    assert places[:1] + places[4:5] == [
        "/data/train-00000.jsonl:1",
        "/data/train-00001.parquet:1",
    ]
    assert len(places) == 8


def test_a_folder_of_source_files_is_one_text_a_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    (tmp_path / "a.py").write_bytes(b"caf\xe9")
    (tmp_path / "c.py").write_bytes(b"")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    found = rows(tmp_path)
    assert [(r.metadata.get("path"), r.text, r.reason) for r in found] == [
        (None, "", "not UTF-8"),
        (None, "", "empty text"),
        (None, "", "not a regular file"),
        ("sub/b.py", "x = 1\r\n", None),
    ]


def test_a_folder_in_the_hubs_layout(tmp_path):
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    found = rows(f"hub:{tmp_path}", split="test")
    assert [r.text for r in found] == ["first é\u2028 text", "second", "", "last"]
    assert found[0].where == f"{tmp_path} (default, test):1"
    with pytest.raises(UserError, match=r"cannot be loaded"):
        rows(f"hub:{tmp_path}", split="none")


def test_what_a_folder_is_must_be_clear(tmp_path):
    with pytest.raises(UserError, match="holds neither"):
        input_kind(CorpusInput(path=str(tmp_path)))
    write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "a.py").write_text("x = 1")
    with pytest.raises(UserError, match="--kind records or --kind files"):
        rows(tmp_path)
    assert len(rows(tmp_path, kind="records")) == 4
    assert len(rows(tmp_path, kind="files")) == 1
    with pytest.raises(UserError, match="there is no file or folder"):
        rows(tmp_path / "nowhere")
    with pytest.raises(UserError, match="empty suffix"):
        CorpusInput(path="x", suffixes=("",))


def test_enormous_lines_are_set_aside_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_RECORD_BYTES", 1000)
    lines = [json.dumps({"text": "x" * size}) for size in (10, 5000, 20, 987, 988, 989, 30)]
    for name, pack in (("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack("\n".join(lines).encode()))
        found = rows(tmp_path / name)
        # A line end counts too.
        assert [len(r.text) for r in found] == [10, 0, 20, 987, 0, 0, 30]
        assert [r.reason for r in found if r.rejected_by] == ["too long"] * 3
    (tmp_path / "long.py").write_text("x" * 1001)
    assert rows(tmp_path, kind="files")[0].reason == "too long"


def test_hostile_columns_are_carried_as_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "name": "\\ud800", "big": ' + "9" * 40 + ', "deep": [[1]]}\n')
    (found,) = rows(path)
    assert found.metadata == {"name": "\\ud800", "big": "9" * 40, "deep": "[[1]]"}
    row_to_json(found).encode("utf-8")


def test_the_digest_changes_with_names_sizes_and_both_ends_of_the_bytes(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path)
    source = CorpusInput(path=str(path))
    first = input_digest(source)
    assert input_digest(source) == first
    raw = path.read_bytes()
    path.write_bytes(raw[:-2] + b" \n")
    assert input_digest(source) != first
    path.write_bytes(b" " + raw[1:])
    assert input_digest(source) != first
    path.write_bytes(raw)
    assert input_digest(source) == first


def test_ids_are_of_the_content_alone():
    assert text_id("a") == text_id("a") != text_id("b")
    assert (
        TextRow(id=text_id("a"), text="a", where="x").id
        == TextRow(id=text_id("a"), text="a", where="y").id
    )
