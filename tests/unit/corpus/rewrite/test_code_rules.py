"""Ruff on many files: every row has its outcome in place, and one bad file spoils no other."""

import asyncio
import subprocess
import sys

import pytest

from isoflop.config import UserError
from isoflop.corpus.rewrite import ruff_batch
from isoflop.corpus.rewrite.code_rules import BATCH_ROWS, CodeRewriter, CodeRules
from isoflop.corpus.rewrite.reasons import Note, Reason
from isoflop.corpus.rewrite.ruff_batch import RuffOptions, Source, tidy_sources
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


def tidy(sources):
    return tidy_sources([Source(text=text) for text in sources], OPTIONS)


def rewritten(texts, metadata=None, **options):
    rows = [
        TextRow(id=text_id(text), text=text, where=f"a:{n}", metadata=metadata or {})
        for n, text in enumerate(texts)
    ]

    async def main():
        rewriter = CodeRewriter(CodeRules.installed(), **options)
        return [result.row async for result in rewriter.results(iter(rows))]

    return asyncio.run(main())


@pytest.mark.parametrize(("source", "expected"), CASES)
def test_what_ruff_does_to_one_file(source, expected):
    (text,) = tidy([source])
    assert text is not None
    if expected is not None:
        assert text == expected
    assert tidy([text]) == [text]


def test_unsafe_fixes_are_not_made():
    assert tidy(["if x == None:\n    pass\n"]) == ["if x == None:\n    pass\n"]


def test_many_files_are_those_of_one_by_one():
    sources = [source for source, _ in CASES] * 3
    assert tidy(sources) == [tidy([s])[0] for s in sources]


def test_a_file_that_ruff_cannot_read_is_told_apart():
    assert tidy(["x=1\n", "def f(:\n", "y=2\n"]) == ["x = 1\n", None, "y = 2\n"]


def test_a_tool_that_hangs_on_one_file_loses_only_that_file(monkeypatch):
    real = ruff_batch._run

    def hang(folder, options):
        return (
            None
            if any("HANG" in p.read_text() for p in folder.rglob("*.py"))
            else real(folder, options)
        )

    monkeypatch.setattr(ruff_batch, "_run", hang)
    assert tidy(["x=1\n", "y=2\n", "HANG\n", "z=3\n"]) == [
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
    for bad in ({"select": ()}, {"select": ("--x",)}, {"line_length": 0}, {"ignore": ("*",)}):
        with pytest.raises(UserError):
            CodeRules.installed(**bad)


def test_without_ruff_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ruff", None)
    monkeypatch.setattr(ruff_batch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"isoflop\[corpus\]"):
        CodeRules.installed()


BEHAVIOUR = {
    "two star imports": "from math import *\nfrom cmath import *\nprint(sqrt(-1))\n",
    "a star import over a name": "from math import sqrt\nfrom cmath import *\nprint(sqrt(-1))\n",
    "one name twice": "from shutil import copy\nfrom copy import copy\nprint(copy([1]))\n",
    "is": "y = int('1000')\nprint(y is 1000)\n",
    "eval": "import math\nprint(eval('math.pi'))\n",
    "globals": "from math import sin, cos\nprint([globals()[n](0) for n in ('sin', 'cos')])\n",
    "the module itself": "import sys, math\nprint(getattr(sys.modules[__name__], 'math').pi)\n",
    "dir": "import math\nprint('math' in dir())\n",
    "a doctest": "import math\ndef f():\n    '''\n    >>> math.floor(2.5)\n    2\n    '''\n"
    "import doctest\nprint(doctest.testmod())\n",
    "a docstring that is printed": '"""Use:\n\n    a  [-h]   \n      --x\n"""\nprint(  __doc__)\n',
    "the order of arguments": "def a(n):\n    print(n)\n    return n\nprint('{1} {0}'.format(a(1), a(2)))\n",
    "an import that fails": "try:\n    import no_such_package\nexcept:\n    print('missing')\n",
    "which import fails": "try:\n    import no_such_package\n    import abc\nexcept ImportError:\n    pass\n"
    "print('abc' in globals())\n",
    "an import that may fail": "from contextlib import suppress\nok = False\nwith suppress(ImportError):\n"
    "    import no_such_package\n    ok = True\nprint(ok)\n",
    "a fixture": "from math import pi\ndef test(pi):\n    return pi\n"
    "import inspect\nprint(test(getattr(inspect.getmodule(test), 'pi')))\n",
}


def behaviour(folder, text):
    (folder / "program.py").write_text(text)
    command = [sys.executable, "-W", "ignore", "program.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return done.stdout, done.returncode


@pytest.mark.parametrize("name", BEHAVIOUR)
def test_what_a_program_does_stays(tmp_path, name):
    before = BEHAVIOUR[name]
    (row,) = rewritten([before])
    assert behaviour(tmp_path, before)[1] == 0
    assert behaviour(tmp_path, row.text) == behaviour(tmp_path, before)


@pytest.mark.parametrize("path", ["__init__.py", "a/b/__init__.py", "a\\b\\__init__.py"])
def test_a_package_keeps_what_it_offers(path):
    (row,) = rewritten(["from .b import   y\nfrom .a import x\n"], metadata={"file": path})
    assert row.text == "from .a import x\nfrom .b import y\n"
    (other,) = rewritten(["from .b import y\n"], metadata={"file": path + ".txt"})
    assert other.reason == Reason.TOO_SHORT.value


def test_plain_files_lose_dead_imports_beside_files_that_keep_them():
    dead, kept = "import b, a\nx  = 1\n", "import b, a\nx  = eval('a')\n"
    assert [row.text for row in rewritten([dead, kept, dead])] == [
        "x = 1\n", 'import a\nimport b\n\nx = eval("a")\n', "x = 1\n",
    ]  # fmt: skip


def test_import_in_main_guard_and_vars_of_a_thing_are_no_look_ups():
    text = "import a\nif __name__ == '__main__':\n    print(vars(1), __name__)\n"
    assert "import" not in rewritten([text])[0].text
