"""A source's files: nothing lost, the split stable, the same bytes in every process."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.corpus import (
    ArithmeticProbe,
    PhoneBookProbe,
    ShortestPathProbe,
    Source,
    StdlibSource,
    TextSource,
)
from isoflop.corpus.build import build_source, input_digest, validation_ids
from isoflop.records import Document, EvaluationItem, SetAside, SourceRow, read_rows

SMALL = {"num_validation": 5, "num_items": 7}
PROBES = [
    PhoneBookProbe(num_facts=20, num_statements=50, **SMALL),
    ArithmeticProbe(num_problems=40, **SMALL),
    ShortestPathProbe(num_problems=40, **SMALL),
]


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_lines(path: Path, count: int) -> TextSource:
    """A JSONL file of `count` good lines with a bad one after each tenth."""
    lines = []
    for number in range(count):
        lines.append(json.dumps({"text": f"text {number}\u2028ä", "id": f"n{number}"}))
        lines += ["{"] * (number % 10 == 9)
    path.write_text("\n".join(lines), encoding="utf-8")
    return TextSource(name="mine", path=str(path), id_field="id", validation_share=0.1)


def test_nothing_is_lost_between_a_file_and_its_folder(tmp_path):
    source = write_lines(tmp_path / "a.jsonl", 500)
    row = build_source(source, 0, tmp_path / "out")
    train = list(read_rows(tmp_path / "out/train.jsonl", Document))
    validation = list(read_rows(tmp_path / "out/validation.jsonl", Document))
    set_aside = list(read_rows(tmp_path / "out/set_aside.jsonl", SetAside))
    assert set(folder_bytes(tmp_path / "out")) == {
        "train.jsonl",
        "validation.jsonl",
        "set_aside.jsonl",
        "source.jsonl",
    }
    ids = [document.id for document in train + validation]
    assert sorted(ids) == sorted(f"n{number}" for number in range(500))
    assert [int(d.id[1:]) for d in train] == sorted(int(d.id[1:]) for d in train)
    assert len(set_aside) == 50
    assert {row.reason for row in set_aside} == {"malformed JSON"}
    assert list(read_rows(tmp_path / "out/source.jsonl", SourceRow)) == [row]
    assert row == SourceRow(
        source="mine",
        num_documents=len(train),
        num_validation_documents=len(validation),
        num_set_aside=50,
        num_bytes=sum(len(document.text.encode()) for document in train),
        information_bits=None,
    )


def test_a_document_keeps_its_side_when_others_join_and_changes_it_with_the_seed(tmp_path):
    def held_out(count: int, seed: int) -> set[str]:
        source = write_lines(tmp_path / "a.jsonl", count)
        build_source(source, seed, tmp_path / "out")
        return {row.id for row in read_rows(tmp_path / "out/validation.jsonl", Document)}

    few, more = held_out(1000, 0), held_out(2000, 0)
    assert few == {name for name in more if int(name[1:]) < 1000}
    # Binomial with p = 0.1: within five standard deviations.
    assert abs(len(few) - 100) < 5 * (1000 * 0.1 * 0.9) ** 0.5
    assert held_out(1000, 1) != few


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=30, unique=True),
    st.floats(0.001, 0.999),
)
def test_neither_side_of_a_split_is_ever_empty(hashes, share):
    held_out = list(validation_ids(array("Q", hashes), share))
    assert len(held_out) == len(hashes)
    assert any(held_out)
    assert not all(held_out)


@pytest.mark.parametrize("source", PROBES, ids=lambda source: source.name)
def test_a_probe_folder_holds_its_documents_and_questions(tmp_path, source):
    row = build_source(source, 0, tmp_path)
    assert set(folder_bytes(tmp_path)) == {
        "train.jsonl",
        "validation.jsonl",
        "items.jsonl",
        "set_aside.jsonl",
        "source.jsonl",
    }
    items = list(read_rows(tmp_path / "items.jsonl", EvaluationItem))
    assert len({item.id for item in items}) == len(items) == 14
    assert {item.task for item in items} == {source.name}
    assert row.num_documents == len(list(read_rows(tmp_path / "train.jsonl", Document)))
    assert (row.num_validation_documents, row.information_bits) == (5, source.information_bits)


def test_other_processes_write_the_same_bytes_whatever_their_hash_seed(tmp_path):
    lines = write_lines(tmp_path / "a.jsonl", 40)
    sources: list[Source] = [*PROBES, StdlibSource(max_bytes=50_000), lines]
    for source in sources:
        build_source(source, 3, tmp_path / "here" / source.name)
    for hash_seed in ("1", "2"):
        program = (
            "from pathlib import Path; from isoflop.corpus.build import build_source\n"
            "from isoflop.corpus.config import *\n"
            f"for source in {sources!r}:\n"
            f"    build_source(source, 3, Path({str(tmp_path)!r}, {hash_seed!r}, source.name))\n"
        )
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
        for source in sources:
            there = folder_bytes(tmp_path / hash_seed / source.name)
            assert there == folder_bytes(tmp_path / "here" / source.name)


@pytest.mark.parametrize("source", PROBES, ids=lambda source: source.name)
def test_another_seed_or_name_makes_another_probe(tmp_path, source):
    first, again = tmp_path / "a", tmp_path / "b"
    build_source(source, 0, first)
    build_source(source, 1, again)
    assert (first / "train.jsonl").read_bytes() != (again / "train.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "has 0 usable documents, none set aside"),
        (b"{\n[]\n{", r"has 0 usable documents, 3 set aside \(2 malformed JSON, 1 not an object\)"),
        (b'{"text": "a"}', "has 1 usable documents, none set aside; at least 2"),
    ],
)
def test_a_corpus_without_documents_says_what_became_of_it(tmp_path, raw, message):
    (tmp_path / "a.jsonl").write_bytes(raw)
    with pytest.raises(UserError, match=message):
        build_source(TextSource(name="mine", path=str(tmp_path / "a.jsonl")), 0, tmp_path / "out")
    assert set(folder_bytes(tmp_path / "out")) <= {"set_aside.jsonl"}


def test_a_file_cut_short_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 50)[:-9])
    with pytest.raises(UserError, match="cut short"):
        build_source(TextSource(name="mine", path=str(path)), 0, tmp_path / "out")
    assert folder_bytes(tmp_path / "out") == {}


def test_two_documents_make_one_of_each_side(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}')
    row = build_source(TextSource(name="mine", path=str(tmp_path / "a.jsonl")), 0, tmp_path / "out")
    assert (row.num_documents, row.num_validation_documents) == (1, 1)


def test_the_input_digest_follows_bytes_and_names_and_nothing_else(tmp_path):
    for name in ("a.txt", "b/c.txt", "ignored.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    folder = TextSource(name="mine", path=str(tmp_path))
    first = input_digest(folder)
    (tmp_path / "ignored.bin").write_text("other")
    os.utime(tmp_path / "a.txt", (0, 0))
    assert input_digest(folder) == first
    (tmp_path / "a.txt").write_text("A.txt")
    changed = input_digest(folder)
    (tmp_path / "a.txt").rename(tmp_path / "d.txt")
    assert len({first, changed, input_digest(folder)}) == 3
    file = TextSource(name="mine", path=str(tmp_path / "d.txt"))
    assert input_digest(file) == hashlib.sha256(b"A.txt").hexdigest()
    assert input_digest(PROBES[0]) == ""
    with pytest.raises(UserError, match="there is no file or folder"):
        input_digest(TextSource(name="mine", path=str(tmp_path / "none")))


def test_the_input_digest_of_the_library_is_the_same_twice():
    assert input_digest(StdlibSource()) == input_digest(StdlibSource(max_bytes=5))
