import importlib.util
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.tokens.shards import Shard, shard_paths, write_shard

DOCUMENTS = [[5, 6, 0], [0], [7, 7, 7, 7, 0], [9, 0]]
IDS = ["lib/a.py", "line\nbreak \\n \\", "größe\r\u2028\ud800", ""]

MEGATRON = """
import sys
import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

folder = sys.argv[1]
for name in ("small", "large"):
    prefix = f"{folder}/{name}"
    data = IndexedDataset(prefix)
    np.savez(prefix + ".npz", tokens=np.concatenate(data[:]), lengths=data.sequence_lengths,
             documents=data.document_indices, dtype=str(np.dtype(data.index.dtype)))
for name in ("uint16", "int32"):
    prefix = f"{folder}/theirs-{name}"
    builder = IndexedDatasetBuilder(prefix + ".bin", dtype=getattr(np, name))
    builder.add_document(torch.tensor([1, 2, 3, 0]), [2, 2])
    builder.add_document(torch.tensor([4, 0]), [2])
    builder.add_item(torch.tensor([65000, 0], dtype=torch.int64))
    builder.end_document()
    builder.finalize(prefix + ".idx")
"""


@pytest.fixture(scope="module")
def megatron(tmp_path_factory) -> Path:
    """A folder in which megatron-core read two shards of ours and wrote two of its own.

    One process for all: importing megatron-core takes longer than everything else here.
    """
    if importlib.util.find_spec("megatron") is None:
        pytest.skip("megatron-core is not installed")
    folder = tmp_path_factory.mktemp("megatron")
    for name, size in (("small", 512), ("large", 100_000)):
        write_shard(folder / name, DOCUMENTS, size, IDS)
    command = [sys.executable, "-W", "ignore", "-c", MEGATRON, str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def prefix(tmp_path) -> Path:
    write_shard(tmp_path / "part.0", DOCUMENTS, 100, IDS)
    return tmp_path / "part.0"


def test_a_shard_gives_back_what_was_written(prefix):
    shard = Shard(prefix)
    assert [shard.document(number).tolist() for number in range(4)] == DOCUMENTS
    assert [shard.document_id(number) for number in range(4)] == IDS
    assert (shard.num_documents, shard.num_tokens) == (4, 11)
    assert sorted(path.name for path in prefix.parent.iterdir()) == [
        "part.0.bin",
        "part.0.ids",
        "part.0.idx",
    ]


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 69_999), min_size=1, max_size=8), st.text()), max_size=8
    )
)
def test_any_documents_return(tmp_path_factory, rows):
    prefix = tmp_path_factory.mktemp("shard") / "train"
    counts = write_shard(prefix, (row[0] for row in rows), 70_000, (row[1] for row in rows))
    shard = Shard(prefix)
    assert counts.num_documents == shard.num_documents == len(rows)
    assert counts.num_tokens == shard.num_tokens == sum(len(tokens) for tokens, _ in rows)
    for number, (tokens, name) in enumerate(rows):
        assert shard.document(number).tolist() == tokens
        assert shard.document_id(number) == name


@pytest.mark.parametrize(("vocabulary_size", "itemsize"), [(65_499, 2), (65_500, 4), (300_000, 4)])
def test_tokens_take_two_bytes_where_megatron_takes_two(tmp_path, vocabulary_size, itemsize):
    write_shard(tmp_path / "t", [[vocabulary_size - 1]], vocabulary_size, ["a"])
    assert (tmp_path / "t.bin").stat().st_size == itemsize
    assert Shard(tmp_path / "t").document(0).tolist() == [vocabulary_size - 1]


def test_megatron_core_reads_equal_tokens_lengths_and_documents(megatron):
    for name, dtype in (("small", "uint16"), ("large", "int32")):
        read = np.load(megatron / f"{name}.npz")
        assert read["tokens"].tolist() == [token for document in DOCUMENTS for token in document]
        assert read["lengths"].tolist() == [3, 1, 5, 2]
        assert read["documents"].tolist() == [0, 1, 2, 3, 4]
        assert str(read["dtype"]) == dtype


def test_shards_of_megatron_core_are_read(megatron):
    for dtype in ("uint16", "int32"):
        shard = Shard(megatron / f"theirs-{dtype}")
        documents = [shard.document(number).tolist() for number in range(shard.num_documents)]
        assert documents == [[1, 2, 3, 0], [4, 0], [65000, 0]]
        assert shard.document_id(2) == "2"


@pytest.mark.parametrize("ending", [".bin", ".idx", ".ids"])
def test_a_file_cut_anywhere_is_named_with_the_remedy(prefix, ending):
    path = prefix.with_name(prefix.name + ending)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"part\.0\{ending}: .*run again to tokenize"):
            Shard(prefix)
    path.write_bytes(whole + b"\n")
    with pytest.raises(UserError, match=rf"part\.0\{ending}: .*run again to tokenize"):
        Shard(prefix)


def test_a_missing_or_foreign_file_is_named(prefix, tmp_path):
    with pytest.raises(UserError, match=r"absent\.idx: no such shard index"):
        Shard(tmp_path / "absent")
    bin_path, index, _ = shard_paths(prefix)
    whole = index.read_bytes()
    for content, reason in (
        (b"PK" + whole[2:], "no Megatron-LM index"),
        (whole[:9] + b"\x02" + whole[10:], "version 2"),
        (whole[:17] + b"\x07" + whole[18:], "dtype code 7"),
        (whole[:34] + b"\x04" + whole[35:], "contradict each other"),
        (whole[:-1] + b"\x01", "contradict each other"),
    ):
        index.write_bytes(content)
        with pytest.raises(UserError, match=reason):
            Shard(prefix)
    index.write_bytes(whole)
    bin_path.unlink()
    with pytest.raises(UserError, match=r"\.bin: no such file"):
        Shard(prefix)


def test_a_damaged_id_is_named_by_line(prefix):
    path = shard_paths(prefix)[2]
    path.write_bytes(path.read_bytes().replace(b'"lib', b"'lib"))
    with pytest.raises(UserError, match=r"\.ids:1: not an id"):
        Shard(prefix).document_id(0)


def test_a_failed_writing_leaves_no_index_and_no_part(prefix):
    def stops():
        yield [1, 0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(prefix, stops(), 100, ["a", "b"])
    names = {path.name for path in prefix.parent.iterdir()}
    assert names == {"part.0.bin", "part.0.ids"}
    with pytest.raises(UserError, match="no such shard index"):
        Shard(prefix)


@pytest.mark.parametrize(
    ("documents", "ids", "reason"),
    [
        ([[1], []], ["a", "b"], "'b' has 0 tokens"),
        ([[1, 100]], ["a"], "tokens from 1 to 100; the vocabulary allows 0 to 99"),
        ([[-1]], ["a"], "tokens from -1"),
        ([[1]], [], "zip"),
        ([[1]], ["a", "b"], "zip"),
    ],
)
def test_impossible_documents_are_refused(tmp_path, documents, ids, reason):
    with pytest.raises(ValueError, match=reason):
        write_shard(tmp_path / "t", documents, 100, ids)
    assert list(tmp_path.iterdir()) == []


def test_document_numbers_outside_are_refused(prefix):
    shard = Shard(prefix)
    for number in (-1, 4):
        with pytest.raises(IndexError, match="of 4"):
            shard.document(number)
        with pytest.raises(IndexError, match="of 4"):
            shard.document_id(number)


def test_a_shard_is_pickled_as_its_path(prefix, tmp_path):
    data = pickle.dumps(Shard(prefix))
    assert len(data) < 400
    assert pickle.loads(data).document(2).tolist() == DOCUMENTS[2]


def test_equal_documents_give_equal_bytes(prefix, tmp_path):
    write_shard(tmp_path / "again", DOCUMENTS, 100, IDS)
    for first, second in zip(shard_paths(prefix), shard_paths(tmp_path / "again"), strict=True):
        assert first.read_bytes() == second.read_bytes()
    shutil.rmtree(tmp_path)
