"""`isoflop corpus` from the command line: the whole way, and every mistake in one line."""

import json
import resource
import subprocess
import sys

import pytest

from fakes_corpus import GOOD_CODE, write_jsonl
from isoflop import cli

CHEAP = ("--set", "lint.measure=none", "--set", "lint.threshold=None", "--workers", "1")


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["isoflop", "corpus", *map(str, words)])
        status = cli.main()
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_the_whole_way(call, tmp_path, form):
    texts = [GOOD_CODE, "print 1", GOOD_CODE, GOOD_CODE.replace("double", "twice")]
    source = write_jsonl(tmp_path / "a.jsonl", texts, path="a.py")
    bench = write_jsonl(tmp_path / "bench.jsonl", ["Return twice the number."], code=GOOD_CODE * 2)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    status, out, _ = call("filter", source, "--out", one, "--format", form, *CHEAP)
    assert (status, out.splitlines()[1].split()) == (0, ["1", "syntax:", "SyntaxError"])
    status, out, _ = call("deduplicate", one, "--out", two, "--workers", 1, "--json")
    assert (status, json.loads(out)["num_kept"]) == (0, 2)
    words = ("decontaminate", two, "--out", three, "--benchmark", bench, "--workers", 1)
    status, out, _ = call(*words)
    assert (status, "hits.jsonl" in out) == (0, True)
    status, out, _ = call("stats", one, two, three, "--html", tmp_path / "page.html")
    assert status == 0
    assert "deduplicate: read" in out
    assert (tmp_path / "page.html").stat().st_size > 1000
    status, out, _ = call("stats", one, "--json")
    assert json.loads(out)["stages"][0]["num_read"] == 4
    scores = tmp_path / "scores.jsonl"
    scores.write_text('{"item": "0", "correct": true}\n{"item": "1", "correct": false}\n')
    status, out, _ = call("recount", scores, three, "--benchmark", "bench", "--json")
    assert json.loads(out)["all_items"]["accuracy"] == 0.5


def test_annotated_once_filtered_many_times(call, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [GOOD_CODE, "x = " + "1" * 2000], path="a.py")
    status, _, _ = call(
        "filter", source, "--out", tmp_path / "all", "--annotate-only", "--workers", 1
    )
    assert status == 0
    kept = []
    for threshold in (0, 10):
        out = tmp_path / f"t{threshold}"
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        changes = ("--set", f"lint.threshold={threshold}", "--set", "lint.penalty=none")
        _, text, _ = call("filter", tmp_path / "all", "--out", out, *changes, "--json")
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60
        kept.append(json.loads(text)["num_kept"])
    assert kept[0] >= kept[1] >= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("filter", "nowhere.jsonl", "--out", "out"), "there is no file or folder"),
        (("filter", "a.csv", "--out", "out"), "must be a folder or end with"),
        (("filter", "a.jsonl"), "Missing option '--out'"),
        (("filter", "a.jsonl", "--out", "out", "--set", "lint.level=3"), "has no field 'level'"),
        (("filter", "a.jsonl", "--out", "out", "--set", "lint.threshold=99"), "at most 10"),
        (("filter", "a.jsonl", "--out", "out", "--format", "xml"), "--format"),
        (("filter", "a.jsonl", "--out", "full", *CHEAP), "holds 'thesis.txt'"),
        (("filter", "cut.jsonl.gz", "--out", "out", *CHEAP), "cannot be read to its end"),
        (("filter", "full", "--out", "out"), "holds neither"),
        (("deduplicate", "a.jsonl", "--out", "out", "--set", "threshold=2"), "at most 1"),
        (("decontaminate", "a.jsonl", "--out", "out"), "Missing option '--benchmark'"),
        (("decontaminate", "a.jsonl", "--out", "out", "--benchmark", "no"), "no such file"),
        (
            ("decontaminate", "a.jsonl", "--out", "out", "--benchmark", "a.jsonl"),
            "no question and answer",
        ),
        (("stats", "full"), "not the folder of a corpus stage"),
        (("recount", "a.jsonl", "full", "--benchmark", "x"), "no such file"),
        (("nothing",), "No such command"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(call, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", ["x = 1"])
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("important")
    status, out, error = call(*words)
    assert (status, out, len(error.splitlines())) == (2, "", 1)
    assert said in error


def test_help_loads_nothing_heavy():
    script = (
        "import sys\n"
        "sys.argv = ['isoflop', 'corpus', '--help']\n"
        "from isoflop.cli import main\n"
        "main()\n"
        "heavy = {'torch', 'pylint', 'pyarrow', 'datatrove', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
