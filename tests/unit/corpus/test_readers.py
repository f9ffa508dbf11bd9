"""kept + set aside = read, and no half-read file passes for a whole one."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from isoflop.config import UserError
from isoflop.corpus import TextSource
from isoflop.corpus.readers import read_text
from isoflop.records import Document, SetAside, row_to_line

GOOD = b'{"text": "good", "id": "g"}'

BAD_LINES = [
    (b'{"text": "caf\xe9"}', "not UTF-8"),
    (b'{"text": "a"', "malformed JSON"),
    (b"", "malformed JSON"),
    (b"   ", "malformed JSON"),
    (b"[" * 100_000, "malformed JSON"),
    (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "malformed JSON"),
    (b'["text"]', "not an object"),
    (b'"text"', "not an object"),
    (b"null", "not an object"),
    (b'{"body": "a"}', "no text"),
    (b'{"text": null}', "no text"),
    (b'{"text": 7}', "text is not a string"),
    (b'{"text": ["a"]}', "text is not a string"),
    (b'{"text": ""}', "empty text"),
    (b'{"text": " \\n\\t"}', "empty text"),
    (b'{"text": "a\\ud800b"}', "lone surrogate"),
]


def records(path: Path, **fields: object) -> tuple[list[Document], list[SetAside]]:
    """Documents and set-asides of a source."""
    found = list(read_text(TextSource(name="mine", path=str(path), **fields)))
    kept = [record for record in found if isinstance(record, Document)]
    aside = [record for record in found if isinstance(record, SetAside)]
    for record in found:
        row_to_line(record).encode("utf-8")
    return kept, aside


def compressed(path: Path, raw: bytes) -> Path:
    """Write `raw` as the file's suffix asks."""
    if path.suffix == ".gz":
        raw = gzip.compress(raw, mtime=0)
    if path.suffix == ".zst":
        raw = zstandard.compress(raw)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("last_newline", [b"", b"\n"])
def test_every_bad_line_is_set_aside_and_every_good_one_kept(tmp_path, suffix, last_newline):
    lines = [line for bad, _ in BAD_LINES for line in (GOOD, bad)] + [GOOD]
    path = compressed(tmp_path / f"a{suffix}", b"\n".join(lines) + last_newline)
    kept, aside = records(path)
    assert len(kept) + len(aside) == len(lines)
    assert [document.text for document in kept] == ["good"] * (len(BAD_LINES) + 1)
    assert [row.reason for row in aside] == [reason for _, reason in BAD_LINES]
    assert [row.where for row in aside] == [f"{path}:{2 * i + 2}" for i in range(len(BAD_LINES))]
    assert [document.id for document in kept] == [
        f"a{suffix}:{2 * i + 1}" for i in range(len(BAD_LINES) + 1)
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('"g"', "duplicate id"),
        ("null", "no id"),
        ("true", "no id"),
        ("1.5", "no id"),
        ('""', "no id"),
        ('"\\ud800"', "lone surrogate"),
    ],
)
def test_an_id_is_text_or_a_whole_number_and_comes_once(tmp_path, value, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + f'\n{{"text": "b", "id": {value}}}\n{{"text": "c", "id": 3}}'.encode())
    kept, aside = records(path, id_field="id")
    assert [(document.id, document.text) for document in kept] == [("g", "good"), ("3", "c")]
    assert [row.reason for row in aside] == [reason]


def test_a_line_without_the_id_field_is_set_aside(tmp_path):
    path = compressed(tmp_path / "a.jsonl", b'{"text": "a"}')
    assert [row.reason for row in records(path, id_field="id")[1]] == ["no id"]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(
    st.lists(texts, min_size=1, max_size=8), st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.zst"])
)
def test_any_text_survives_with_only_line_feeds_between_lines(tmp_path_factory, written, suffix):
    # Unescaped, so that U+2028, form feeds and lone carriage returns stand in the lines.
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in written]
    path = compressed(tmp_path_factory.mktemp("any") / f"a{suffix}", "\n".join(lines).encode())
    assert [document.text for document in records(path)[0]] == written


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_a_text(tmp_path):
    path = compressed(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert [document.text for document in records(path)[0]] == ["a", "b"]


def test_zstd_lines_may_span_frames_and_pieces(tmp_path):
    # Random digits do not compress, so that a line is longer than one piece.
    written = ["".join(str((i * i + 7 * i) % 97 % 10) for i in range(n)) for n in (3, 90_000, 5)]
    raw = "\n".join(json.dumps({"text": text}) for text in written).encode()
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(
        b"".join(zstandard.compress(raw[i : i + 777]) for i in range(0, len(raw), 777))
    )
    assert [document.text for document in records(path)[0]] == written


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".parquet"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.999])
def test_a_file_cut_short_is_an_error_that_names_it(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    rows = [{"text": f"text {i * i}"} for i in range(2000)]
    if suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        compressed(path, "\n".join(json.dumps(row) for row in rows).encode())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(UserError, match=rf"cut{suffix}: cannot be read to its end: .*again"):
        records(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".parquet"])
@pytest.mark.parametrize(
    "raw", [b"no such format", b"PAR1" * 9, b"\x1f\x8b\x08\x00" + b"\xff" * 40]
)
def test_a_file_of_another_format_is_an_error_that_names_it(tmp_path, suffix, raw):
    path = tmp_path / f"odd{suffix}"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=f"odd{suffix}: cannot be read"):
        records(path)


def test_a_missing_path_and_an_unknown_suffix_name_what_is_allowed(tmp_path):
    with pytest.raises(UserError, match=r"mine: there is no file or folder .*none.jsonl"):
        records(tmp_path / "none.jsonl")
    compressed(tmp_path / "a.csv", GOOD)
    with pytest.raises(UserError, match=r"a.csv: must be a folder or end with .parquet"):
        records(tmp_path / "a.csv")


def test_parquet_rows_are_kept_or_set_aside(tmp_path):
    path = tmp_path / "a.parquet"
    texts = pyarrow.array([b"good", None, b"", b"caf\xe9", b"good"], pyarrow.binary())
    # A string column is not checked by pyarrow: the same bytes as text.
    unchecked = pyarrow.StringArray.from_buffers(5, *texts.buffers()[1:], texts.buffers()[0])
    for column in (texts, unchecked):
        parquet.write_table(pyarrow.table({"text": column, "other": list("abcde")}), path)
        kept, aside = records(path)
        assert [(d.id, d.text) for d in kept] == [("a.parquet:1", "good"), ("a.parquet:5", "good")]
        assert [(row.where, row.reason) for row in aside] == [
            (f"{path}:2", "no text"),
            (f"{path}:3", "empty text"),
            (f"{path}:4", "not UTF-8"),
        ]


@pytest.mark.parametrize(
    "kind", [pyarrow.large_string(), pyarrow.dictionary(pyarrow.int8(), pyarrow.string())]
)
def test_parquet_text_comes_in_several_types(tmp_path, kind):
    texts = pyarrow.array(["a", "b", "a", None]).cast(kind)
    parquet.write_table(pyarrow.table({"body": texts, "n": [1, 2, 2, 4]}), tmp_path / "a.parquet")
    kept, aside = records(tmp_path / "a.parquet", text_field="body", id_field="n")
    assert [(document.id, document.text) for document in kept] == [("1", "a"), ("2", "b")]
    assert [row.reason for row in aside] == ["duplicate id", "no text"]


def test_a_parquet_file_without_the_column_lists_its_columns(tmp_path):
    parquet.write_table(pyarrow.table({"body": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="needs one column 'text'; it has body, n"):
        records(tmp_path / "a.parquet")


def test_a_folder_is_read_in_sorted_order_whatever_the_disk_says(tmp_path):
    for name in ("b.txt", "a/z.md", "a/b/c.TXT", "a.txt", "skipped.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() + b"\r\n")
    kept, aside = records(tmp_path)
    assert [document.id for document in kept] == ["a.txt", "a/b/c.TXT", "a/z.md", "b.txt"]
    assert [document.text for document in kept] == [document.id + "\r\n" for document in kept]
    assert aside == []


def test_hard_files_of_a_folder_are_set_aside(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfgood")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    (tmp_path / "c.txt").write_bytes(b"")
    (tmp_path / "d.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "e.txt")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xff.txt")).write_bytes(b"text")
    kept, aside = records(tmp_path)
    assert [document.text for document in kept] == ["good"]
    assert [row.reason for row in aside] == [
        "not UTF-8",
        "empty text",
        "not a regular file",
        "not a regular file",
        "lone surrogate",
    ]


@pytest.mark.parametrize(
    ("package", "suffix"), [("zstandard", ".jsonl.zst"), ("pyarrow", ".parquet")]
)
def test_a_missing_extra_says_what_to_install(tmp_path, monkeypatch, package, suffix):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"a{suffix}").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install 'isoflop\[corpus\]'"):
        records(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_memory_stays_flat_for_a_long_file(tmp_path, suffix):
    noise = random.Random(0)
    text_bytes, lines = 2_000, 20_000
    text = [f'{{"text": "{noise.randbytes(text_bytes // 2).hex()}"}}\n' for _ in range(100)]
    # Frames and members of a hundred lines, one after the other, are one file.
    block = compressed(tmp_path / f"block{suffix}", "".join(text).encode()).read_bytes()
    path = tmp_path / f"long{suffix}"
    path.write_bytes(block * (lines // len(text)))
    program = (
        "import resource; from isoflop.corpus import TextSource\n"
        "from isoflop.corpus.readers import read_text\n"
        f"source = TextSource(name='a', path={str(path)!r})\n"
        "first = next(read_text(source))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"assert sum(1 for _ in read_text(source)) == {lines}\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    # In KiB; the texts are 40 MB.
    assert int(result.stdout) < 8_000
