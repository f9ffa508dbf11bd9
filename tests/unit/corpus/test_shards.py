"""kept + rejected = read; a killed run goes on to the same bytes; nothing is written over."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fakes_corpus import row
from isoflop.config import UserError
from isoflop.corpus.filters.config import FilterConfig
from isoflop.corpus.rows import Rewriting
from isoflop.corpus.shards import (
    Counts,
    OutputConfig,
    Stage,
    kept_rows,
    read_summary,
    rejected_rows,
    stage_digest,
    write_stage,
)

FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")


def stage(form="jsonl", rows_per_shard=4, **fields):
    output = OutputConfig(format=form, rows_per_shard=rows_per_shard)
    asked = {"name": "filter", "config": FilterConfig(), "input_digest": "abc"}
    return Stage(**{**asked, "output": output, **fields})


def some_rows(count):
    """Every third is rejected; texts with every kind of separator; each field used somewhere."""
    for n in range(count):
        text = f"text {n} é\u2028\r\n\x0c\t漢"
        verdict = (
            {"rejected_by": "lint", "reason": "low score", "detail": "2 < 7"} if n % 3 == 0 else {}
        )
        made = Rewriting(rewriter="rules", temperature=0.2, prompt_tokens=n) if n % 4 == 0 else None
        yield row(
            text,
            where=f"a:{n}",
            rewriting=made,
            parent_id="0" * 16 if made else None,
            metadata={"path": "é", "number": n, "share": n / 7, "flag": True, "none": None},
            pylint_score=n / 3,
            compiles=n % 2 == 0,
            longest_repeat=n,
            **verdict,
        )


def write(folder, count=10, form="jsonl", **fields):
    rows = list(some_rows(count))
    return write_stage(folder, stage(form, **fields), lambda done: rows[done:])


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("count", [0, 1, 4, 10])
def test_rows_come_back_as_they_went_in(tmp_path, form, count):
    counts = write(tmp_path / "out", count, form)
    rows = list(some_rows(count))
    assert list(kept_rows(tmp_path / "out")) == [r for r in rows if r.rejected_by is None]
    assert list(rejected_rows(tmp_path / "out")) == [r for r in rows if r.rejected_by is not None]
    assert counts.num_read == counts.num_kept + counts.num_rejected == count
    assert counts.read_characters == sum(len(r.text) for r in rows)
    assert sum(counts.reasons.values()) == counts.num_rejected
    assert counts == read_summary(tmp_path / "out")
    assert not list((tmp_path / "out").glob("journal-*"))


@pytest.mark.parametrize("form", FORMATS)
def test_a_run_stopped_anywhere_goes_on_to_the_same_bytes(tmp_path, form):
    write(tmp_path / "whole", 11, form)
    rows = list(some_rows(11))
    begun: list[int] = []

    def stopping_after(last):
        def rows_from(done):
            begun.append(done)
            for number in range(done, 11):
                if number == last:
                    raise KeyboardInterrupt
                yield rows[number]

        return rows_from

    out = tmp_path / "out"
    for last in (0, 1, 4, 6, 8, 11):
        try:
            write_stage(out, stage(form), stopping_after(last))
        except KeyboardInterrupt:
            continue
    assert content(out) == content(tmp_path / "whole")
    assert begun == [0, 0, 1, 4, 6, 8], "each run begins with the first row that is not there"


@pytest.mark.parametrize("count", [0, 3, 8])
def test_a_run_stopped_before_its_sum_leaves_no_further_shard(tmp_path, count):
    write(tmp_path / "whole", count)
    write(tmp_path / "out", count)
    (tmp_path / "out" / "summary.json").unlink()
    rows = list(some_rows(count))
    write_stage(tmp_path / "out", stage(), lambda done: rows[done:])
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("torn", [b"", b'{"text": "half', b'{"id": 1}', b"\0\0\0\n", b"[]\n"])
def test_a_torn_last_line_is_cut(tmp_path, torn):
    write(tmp_path / "whole")
    rows, out = list(some_rows(10)), tmp_path / "out"

    def first_six(done):
        yield from rows[done:6]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_stage(out, stage(), first_six)
    with (out / "journal-00001.jsonl").open("ab") as journal:
        journal.write(torn)
    write_stage(out, stage(), lambda done: rows[done:])
    assert content(out) == content(tmp_path / "whole")


def test_a_finished_stage_is_not_run_again(tmp_path):
    first = write(tmp_path / "out")
    before = content(tmp_path / "out")
    again = write_stage(tmp_path / "out", stage(), lambda done: pytest.fail("was run"))
    assert (again, content(tmp_path / "out")) == (first, before)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_digest": "other"}, "input"),
        ({"config": FilterConfig(language=None)}, "config"),
        ({"output": OutputConfig(format="parquet")}, "output"),
        ({"tools": {"pylint": "3"}}, "tools"),
        ({"name": "rewrite"}, "stage"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path, change, named):
    write(tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(UserError, match=f"begun with another {named} .*another folder"):
        write_stage(tmp_path / "out", stage(**change), lambda done: [])
    assert content(tmp_path / "out") == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(UserError, match=r"holds 'thesis.txt'"):
        write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "thesis.txt"]


def test_two_runs_in_one_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("isoflop.folders.LOCK_PATIENCE_SECONDS", 0.1)

    def second(done):
        write(tmp_path / "out")
        yield from some_rows(3)

    with pytest.raises(UserError, match="another process works in this folder"):
        write_stage(tmp_path / "out", stage(), second)


def test_a_full_disk_is_one_line_that_names_the_folder(tmp_path):
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "sys.path[:0] = sys.argv[2:]\n"
        "from test_shards import write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n"
        "    write(Path(sys.argv[1]), 200, rows_per_shard=1000)\n"
        "except OSError as error:\n"
        "    print(error.filename, error.strerror)\n"
    )
    here = Path(__file__).parent
    folders = [str(here), str(here.parents[1])]
    command = [sys.executable, "-c", script, str(tmp_path / "out"), *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'out'} File too large\n"
    assert write(tmp_path / "out", 200, rows_per_shard=1000).num_read == 200, "goes on afterwards"


def test_an_unfinished_or_damaged_stage_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"corpus.json|summary.json: no such file"):
        read_summary(tmp_path)
    write(tmp_path / "out")
    path = tmp_path / "out" / "kept-00000.jsonl"
    path.write_text('{"id": "1", "text": "a", "where": "b", "colour": "red"}\n')
    with pytest.raises(UserError, match=r"kept-00000.jsonl:1: not a row"):
        list(kept_rows(tmp_path / "out"))
    path.write_text("[]\n")
    with pytest.raises(UserError, match=r"kept-00000.jsonl:1: not a row"):
        list(kept_rows(tmp_path / "out"))


def test_the_digest_of_a_stage_covers_what_was_asked_and_what_came_out(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    write(tmp_path / "c", 9)
    write(tmp_path / "d", tools={"python": "9"})
    digests = [stage_digest(tmp_path / name) for name in "abcd"]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_counts_that_do_not_add_up_cannot_be_made():
    with pytest.raises(AssertionError):
        Counts(num_read=3, num_kept=1, num_rejected=1, reasons={"a: b": 1})


@pytest.mark.slow
def test_sigkill_at_random_moments_loses_and_doubles_nothing(tmp_path):

    source = tmp_path / "in.jsonl"
    texts = [f"# {'x' * (n % 50)}\nvalue_{n} = {n}\n" for n in range(200)]
    source.write_text("".join(json.dumps({"text": text, "path": "a.py"}) + "\n" for text in texts))
    options = ["--set", "lint.measure=none", "--set", "lint.threshold=None", "--workers", "2"]
    options += ["--rows-per-shard", "45", "--format", "jsonl"]
    command = [sys.executable, "-m", "isoflop", "corpus", "filter", str(source), *options]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    for attempt in range(6):
        process = subprocess.Popen(
            [*command, "--out", str(tmp_path / "out")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.4 + 0.2 * attempt)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
    subprocess.run([*command, "--out", str(tmp_path / "out")], check=True, capture_output=True)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
