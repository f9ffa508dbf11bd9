"""Laws of rows and of files that appear whole or not at all."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import names_in
from isoflop import records
from isoflop.config import UserError
from isoflop.records import Document, StepRow, atomic_file, read_rows, write_rows, write_text

STEP = StepRow(
    step=3,
    tokens=96,
    train_loss=0.1 + 0.2,
    learning_rate=1e-300,
    gradient_norm=5e-324,
    balance_loss=(1.0, 1.5),
    z_loss=(0.0, 2.0),
    expert_load=((0.25, 0.75), (1.0, 0.0)),
)


@dataclass(frozen=True, kw_only=True)
class Figures:
    whole: int
    part: float | None
    text: str


ROWS = st.builds(
    Figures,
    whole=st.integers(),
    part=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(alphabet=st.characters(exclude_categories=["Cs"])),
)


@given(st.lists(ROWS, max_size=5))
def test_writing_and_reading_are_inverse(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(path, rows)
    assert list(read_rows(path, Figures)) == rows
    assert path.read_bytes().count(b"\n") == len(rows)


def test_nested_rows_and_extreme_floats_come_back_exactly(tmp_path):
    write_rows(tmp_path / "steps.jsonl", [STEP])
    assert list(read_rows(tmp_path / "steps.jsonl", StepRow)) == [STEP]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "rows.jsonl:2: not JSON"),
        ("", "rows.jsonl:2: not JSON"),
        ("3", "rows.jsonl:2: expected Document, got 3"),
        ('{"id": "b"}', "rows.jsonl:2: Document lacks the field 'text'"),
        ('{"id": "b", "text": 1}', "rows.jsonl:2.text: expected str, got 1"),
        ('{"id": "b", "text": "", "size": 1}', "rows.jsonl:2: Document has no field 'size'"),
    ],
)
def test_a_bad_line_names_file_and_line(tmp_path, line, said):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "text": "b"}\n' + line + "\n")
    with pytest.raises(UserError) as raised:
        list(read_rows(path, Document))
    assert said in str(raised.value)


def test_bytes_that_are_no_utf8_name_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a", "text": "\xff"}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl:1: not UTF-8 at byte 21"):
        list(read_rows(path, Document))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file of Document rows"):
        list(read_rows(tmp_path / "none.jsonl", Document))


def test_a_figure_that_is_no_number_is_never_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_rows(path, [Figures(whole=1, part=float("nan"), text="")])
    assert names_in(tmp_path) == []


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic_file(path) as part:  # noqa: PT012 - half written
        part.write_text("half of the n")
        raise KeyError
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file.txt"]


def test_an_error_while_rows_are_made_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [STEP])
    before = path.read_bytes()

    def rows():
        yield STEP
        raise UserError("the source is broken")

    with pytest.raises(UserError, match="the source is broken"):
        write_rows(path, rows())
    assert path.read_bytes() == before
    assert names_in(tmp_path) == ["rows.jsonl"]


def test_a_disk_found_full_at_the_last_moment_leaves_the_old_file(tmp_path, monkeypatch):
    """Some file systems tell only at fsync."""
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records, "flush_to_disk", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file.txt"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """The limit on a file's size stands for the full disk: the same error at the same place."""
    path = tmp_path / "file.txt"
    write_text(path, "old")
    program = (
        "import sys\nfrom pathlib import Path\nfrom isoflop.records import write_text\n"
        "write_text(Path(sys.argv[1]), 'x' * 100_000)\n"
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert "OSError" in done.stderr
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file.txt"]


def test_a_part_left_by_a_kill_is_overwritten(tmp_path):
    path = tmp_path / "file.txt"
    path.with_name("file.txt.part").write_text("a longer text of a killed process")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names_in(tmp_path) == ["file.txt"]


def test_rows_are_utf8_and_end_in_line_feeds_everywhere(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [Document(id="ä", text="a\r\nb\u2028c")])
    assert path.read_bytes() == '{"id": "ä", "text": "a\\r\\nb\u2028c"}\n'.encode()
    assert json.loads(path.read_text(encoding="utf-8"))["text"] == "a\r\nb\u2028c"
