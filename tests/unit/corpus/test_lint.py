"""pylint's score is the command line's, and one text leaves nothing behind for the next."""

import os
import re
import subprocess
import sys

import pytest

from fakes_corpus import GOOD_CODE, row
from isoflop.config import UserError
from isoflop.corpus.filters.config import PYLINT_DISABLED, FilterConfig, Limits, LintConfig
from isoflop.corpus.filters.lint import MODULE_NAME, may_change_others
from isoflop.corpus.filters.measure import MeasureJob
from isoflop.corpus.filters.run import measured
from isoflop.corpus.pool import Pool

TEXTS = {
    "good": GOOD_CODE,
    "bad": "import os, sys\ndef f(x):\n  if x == None: return 1\n  else:\n     return eval(x)\n",
    "worst": "\n".join(f"undefined_{n}" for n in range(9)) + "\n",
    "syntax": "def f(:\n",
    "outside": "return 1\n",
    "empty": "\n",
    "comments": "# nothing\n" * 5,
    "skipped": "# pylint: skip-file\nimport os\n",
    "pragma": "# pylint: disable=all\nimport os\n",
    "pragma line": "import os  # pylint: disable=unused-import\nimport sys\n",
    "null": "x = 'a\0b'\n",
    "marked": "\ufeffx = 1\n",
    "windows": "import os\r\nx = 1\r\n",
    "accents": "# -*- coding: latin-1 -*-\nx = 'é'\n",
    "japanese": "# 数を数える\n名前 = 1\n",
    "itself": f"import {MODULE_NAME}\nx = {MODULE_NAME}.y\n",
    "twice": "def f():\n    return 1\n\n\ndef f():\n    return 2\n",
    "library": "import collections\nx = collections.Orderd()\ny = collections.OrderedDict().nope\n",
    "changes others": "import threading\nthreading.Thread.mine = 1\nx = threading.Thread.mine\n",
    "reads others": "import threading\nx = threading.Thread.mine\n",
    "deep": "x = " + " + ".join(["1"] * 300) + "\n",
    "deeper": "x = " + "(" * 80 + "1" + ")" * 80 + "\n",
    "long": "\n".join(f"VALUE_{n} = [{n}, {n}, 'x{n}']" for n in range(400)) + "\n",
    "copied": GOOD_CODE + "\n\n" + GOOD_CODE.replace("double", "twice"),
}


def command_line(text, folder):
    """What pylint prints, one process a text."""
    folder.mkdir()
    path = folder / f"{MODULE_NAME}.py"
    path.write_bytes(text.encode("utf-8"))
    options = [f"--rcfile={os.devnull}", "--persistent=n", "--disable=" + ",".join(PYLINT_DISABLED)]
    done = subprocess.run(
        [sys.executable, "-m", "pylint", *options, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYLINTHOME": str(folder)},
        check=False,
    )
    found = re.search(r"rated at (-?[\d.]+)/10", done.stdout)
    return None if found is None else float(found[1])


@pytest.fixture(scope="module")
def shared_pool():
    """Starting pylint takes longer than most tests."""
    config = FilterConfig()
    with Pool(MeasureJob(config=config), 1, config.limits) as pool:
        yield pool


def ours(texts, pool):
    return [measured(r, changes) for r, changes in pool.run(row(text) for text in texts)]


def ours_with(config, texts):
    with Pool(MeasureJob(config=config), 1, config.limits) as pool:
        return ours(texts, pool)


@pytest.mark.slow
def test_every_score_is_the_command_lines_in_any_order(tmp_path, shared_pool):
    expected = {name: command_line(text, tmp_path / name) for name, text in TEXTS.items()}
    names = [*TEXTS, *reversed(TEXTS), "reads others", "changes others", "reads others"]
    found = ours([TEXTS[name] for name in names], shared_pool)
    scores = [(name, r.pylint_score) for name, r in zip(names, found, strict=True)]
    assert scores == [(name, expected[name]) for name in names]
    for name, r in zip(names, found, strict=True):
        assert r.pylint_score is not None or r.lint_problem, name
    assert expected["worst"] == 0.0, "pylint's own formula has a floor"
    assert {name for name, score in expected.items() if score is None} >= {"syntax", "empty"}
    # pylint rates what compile() refuses, and the row carries both.
    outside = found[names.index("outside")]
    assert (outside.compiles, outside.pylint_score) == (False, expected["outside"])


PATCHES = "import subprocess\n\nsubprocess.Popen.isoflop_mark = 1\nNUMBER = 3\n"
MEMBER = '"""Doc."""\nimport subprocess\n\nprint(subprocess.Popen.isoflop_mark)\n'
IMPORTS = '"""Doc."""\nimport isoflop_outer\n\nprint(isoflop_outer.NUMBER)\n'
BOTH = MEMBER.replace("\n\n", "\n\nimport isoflop_outer\n\nprint(isoflop_outer.NUMBER)\n")


def test_what_a_package_writes_into_others_is_seen_by_those_who_import_it_alone(
    tmp_path, monkeypatch
):
    (tmp_path / "isoflop_patches.py").write_text(PATCHES)
    (tmp_path / "isoflop_outer.py").write_text("from isoflop_patches import *\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    texts = {"member": MEMBER, "imports": IMPORTS, "both": BOTH}
    expected = {name: command_line(text, tmp_path / name) for name, text in texts.items()}
    assert expected["member"] < 10 == expected["both"], "the package makes the difference"
    names = ["member", "imports", "member", "both", "member", "both", "imports", "both", "member"]
    found = ours_with(FilterConfig(), [texts[name] for name in names])
    assert [r.pylint_score for r in found] == [expected[name] for name in names]


def test_workers_do_not_read_each_others_texts():
    texts = [f'"""Doc."""\n{"x = undefined" * (n % 2)}\n' + "y = 1\n" * n for n in range(1, 25)] * 3
    config = FilterConfig()
    scores = []
    for workers in (1, 4):
        with Pool(MeasureJob(config=config), workers, config.limits) as pool:
            scores.append([r.pylint_score for r in ours(texts, pool)])
    assert scores[0] == scores[1]
    assert len(set(scores[0])) > 10


def test_rows_carry_every_measure_and_a_second_pass_does_not_run_pylint_again(shared_pool):
    (first,) = ours([GOOD_CODE], shared_pool)
    assert (first.compiles, first.pylint_score, first.lint_score) == (True, 10.0, 10.0)
    assert (first.comment_share, first.comment_language) == (0.0, "english")
    assert (first.longest_repeat, first.language) == (0, "Python")
    without = FilterConfig(lint=LintConfig(measure="none", threshold=None, penalty="per_line"))
    with Pool(MeasureJob(config=without), 1, without.limits) as pool:
        ((r, changes),) = pool.run([first])
    again = measured(r, changes)
    assert again.pylint_score == 10.0
    assert again.lint_score == pytest.approx(10 * (1 - 2 / 4))


def test_a_text_that_costs_too_much_is_rejected_and_the_rest_goes_on():
    # A text that pylint takes long to read, in time that grows with the square of its lines, between
    # two that it does not. What comes before pylint needs a tenth of the limit, also on a slow machine.
    slow = "x = [\n" + "".join(f"    [{n}, 'a{n}', {{'k': {n}}}],\n" for n in range(16_000)) + "]\n"
    config = FilterConfig(limits=Limits(cpu_seconds=4.0))
    found = ours_with(config, [GOOD_CODE, slow, GOOD_CODE])
    assert [r.pylint_score for r in found] == [10.0, None, 10.0]
    assert (found[1].rejected_by, found[1].reason) == ("lint", "time limit")
    assert found[1].longest_repeat == 0, "what was measured before is kept"


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("self.x = 1", False),
        ("cls.x: int = 1", False),
        ("x.y = 1", True),
        ("del x.y", True),
        ("x.y += 1", True),
        ("self.x.y = 1", True),
        ("for x.y in z: pass", True),
        ("with z as x.y: pass", True),
        ("a, (b, *x.y) = z", True),
        ("x = y.z", False),
        ("x[0] = y.z", False),
        ("def f(:", False),
        ("\0", False),
    ],
)
def test_which_texts_may_change_trees_of_others(text, changes):
    assert may_change_others(text) is changes


def test_a_text_of_another_language_is_not_measured_as_python(shared_pool):
    other = row(GOOD_CODE, language="Rust")
    ((r, changes),) = shared_pool.run([other])
    assert measured(r, changes) == row(GOOD_CODE, language="Rust", longest_repeat=0)


def test_a_message_that_pylint_does_not_know_is_no_crash():
    config = FilterConfig(lint=LintConfig(disabled=("no-such-message",)))
    assert ours_with(config, [GOOD_CODE])[0].pylint_score is not None


def test_without_pylint_one_line_says_how_to_install_it(monkeypatch, tmp_path):
    (tmp_path / "pylint").mkdir()
    (tmp_path / "pylint" / "__init__.py").write_text("raise ImportError('no pylint')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    with pytest.raises(UserError, match=r"needs pylint; run: pip install 'isoflop\[corpus\]'"):
        ours_with(FilterConfig(), [GOOD_CODE])
