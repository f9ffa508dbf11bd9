"""Ruff on many files: every row has its outcome in place, and one bad file spoils no other."""

import asyncio
import sys

import pytest

from isoflop.config import UserError
from isoflop.corpus.rewrite import ruff_batch
from isoflop.corpus.rewrite.code_rules import BATCH_ROWS, CodeRewriter, CodeRules
from isoflop.corpus.rewrite.reasons import Note, Reason
from isoflop.corpus.rewrite.ruff_batch import RuffOptions, tidy_sources
from isoflop.corpus.rows import TextRow, text_id

OPTIONS = RuffOptions(select=("E", "F", "W", "I", "UP"), line_length=88, target_version="py310")

CASES = [
    ("import sys, os\nprint( os.getcwd() )\n", "import os\n\nprint(os.getcwd())\n"),
    ("x=1;y  =  2\n", "x = 1\ny = 2\n"),
    ("a = 'b'\r\n", 'a = "b"\n'),
    ("\ufeffa = 1\n", "a = 1\n"),
    ("import b\nimport a\nprint(a, b)\n", "import a\nimport b\n\nprint(a, b)\n"),
    ("x = '''a\n   b'''\n", 'x = """a\n   b"""\n'),
    ("class A(object):\n  pass\n", "class A:\n    pass\n"),
    ("try:\n  import a\nexcept ImportError:\n  a = None\n", None),
    ("if x == None: print(1)\n", None),
]


def rewritten(texts, **options):
    rows = [TextRow(id=text_id(text), text=text, where=f"a:{n}") for n, text in enumerate(texts)]

    async def main():
        rewriter = CodeRewriter(CodeRules.installed(), **options)
        return [result.row async for result in rewriter.results(iter(rows))]

    return asyncio.run(main())


@pytest.mark.parametrize(("source", "tidy"), CASES)
def test_what_ruff_does_to_one_file(source, tidy):
    (text,) = tidy_sources([source], OPTIONS)
    assert text is not None
    if tidy is not None:
        assert text == tidy
    assert tidy_sources([text], OPTIONS) == [text]


def test_unsafe_fixes_are_not_made():
    assert tidy_sources(["if x == None:\n    pass\n"], OPTIONS) == ["if x == None:\n    pass\n"]


def test_many_files_are_those_of_one_by_one():
    sources = [source for source, _ in CASES] * 3
    assert tidy_sources(sources, OPTIONS) == [tidy_sources([s], OPTIONS)[0] for s in sources]


def test_a_file_that_ruff_cannot_read_is_told_apart():
    assert tidy_sources(["x=1\n", "def f(:\n", "y=2\n"], OPTIONS) == ["x = 1\n", None, "y = 2\n"]


def test_a_tool_that_hangs_on_one_file_loses_only_that_file(monkeypatch):
    real = ruff_batch._run

    def hang(folder, options):
        return (
            None
            if any("HANG" in p.read_text() for p in folder.iterdir())
            else real(folder, options)
        )

    monkeypatch.setattr(ruff_batch, "_run", hang)
    assert tidy_sources(["x=1\n", "y=2\n", "HANG\n", "z=3\n"], OPTIONS) == [
        "x = 1\n", "y = 2\n", None, "z = 3\n",
    ]  # fmt: skip


def test_rows_keep_their_order_and_every_failure_has_its_reason():
    texts = ["x=1\n", "print 1\n", "import os\n", "y = 2\n"] * (BATCH_ROWS // 4 + 2)
    rows = rewritten(texts)
    assert [row.where for row in rows] == [f"a:{n}" for n in range(len(texts))]
    good, python2, dead, same = rows[-4:]
    assert (good.text, good.parent_id, good.compiles) == ("x = 1\n", text_id("x=1\n"), True)
    assert good.rewriting.rewriter.startswith("ruff ")
    assert python2.reason == Reason.INPUT_DOES_NOT_COMPILE.value
    assert dead.reason == Reason.TOO_SHORT.value
    assert same.rewriting.notes == (Note.UNCHANGED.value,)


def test_new_texts_are_measured_by_what_is_plugged_in():
    from dataclasses import replace

    (row,) = rewritten(["x=1\n"], annotate=lambda row: replace(row, lint_score=5.0))
    assert row.lint_score == 5.0


def test_the_version_of_ruff_is_part_of_the_config():
    assert CodeRules.installed().ruff_version
    for bad in ({"select": ()}, {"select": ("--x",)}, {"line_length": 0}):
        with pytest.raises(UserError):
            CodeRules.installed(**bad)


def test_without_ruff_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ruff", None)
    monkeypatch.setattr(ruff_batch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"isoflop\[corpus\]"):
        CodeRules.installed()
