"""The command line is a contract: one line and a status for every mistake, torch only for work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fakes import tiny_experiment
from isoflop import cli
from isoflop.config import UserError
from isoflop.experiments import EXPERIMENTS

HEAVY = ("torch", "matplotlib", "scipy", "pyarrow", "tokenizers", "transformers")

CALL = """
import sys
from isoflop.cli import main
sys.argv = ["isoflop", *sys.argv[1:]]
status = main()
print("LOADED", *sorted(set(sys.modules) & set({heavy!r})), file=sys.stderr)
sys.exit(status)
"""


class Said:
    """What a call in this process printed, and its status."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["isoflop", *words])
        status = cli.main()
        out, error = self._capsys.readouterr()
        return status, out, error


@pytest.fixture
def call(capsys, monkeypatch) -> Said:
    """Run a command in this process: the same path as the console script's, without its start."""
    return Said(capsys, monkeypatch)


@pytest.mark.parametrize(
    "words", [("--help",), ("list",), ("plan", "demo"), ("plan", "nothing"), ("run", "--help")]
)
def test_commands_that_do_no_work_load_nothing_heavy(words):
    program = CALL.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].split() == ["LOADED"]


USER_FILES = {
    "syntax.py": ("def experiment(:\n", ":1: SyntaxError"),
    "without.py": ("x = 1\n", "no function experiment()"),
    "name.py": ("\n\ndef experiment():\n    return nothing\n", ":4: NameError"),
    "import.py": ("\nimport no_such_package\n", ":2: ModuleNotFoundError"),
    "divide.py": ("def experiment():\n    return 1 / 0\n", ":2: ZeroDivisionError"),
    "assert.py": ("def experiment():\n    assert False, 'why'\n", ":2: AssertionError: why"),
    "open.py": ("def experiment():\n    return open('nowhere')\n", ":2: FileNotFoundError"),
    "number.py": ("def experiment():\n    return 3\n", "must return an Experiment, not int"),
    "argument.py": ("def experiment(x):\n    return x\n", "TypeError"),
    "lines.py": ("def experiment():\n    raise ValueError('a\\nb')\n", ":2: ValueError: a b"),
    "user.py": (
        "from isoflop.corpus.config import PhoneBookProbe\n\n\ndef experiment():\n"
        "    return PhoneBookProbe(share=0.0)\n",
        ":5: memory: share=0.0 must be above 0",
    ),
    "recursion.py": ("def experiment():\n    return experiment()\n", "RecursionError"),
}


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder with mistaken files of a user's, and the working directory."""
    for name, (text, _) in USER_FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "bytes.py").write_bytes(b"x = '\xff'\n")
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        *((("plan", name), said) for name, (_, said) in USER_FILES.items()),
        (("plan", "bytes.py"), "bytes.py:"),
        (("plan", "folder.py"), "folder.py: no such file"),
        (("plan", "missing.py"), "missing.py: no such file"),
        (("run", "nothing"), "no experiment 'nothing'; there are demo, demo-grpo, desk, paper"),
        (("plan", "demo", "--set", "train.tokens=1"), "has no field 'tokens'; it has train_tokens"),
        (("plan", "demo", "--set", "train.train_tokens=many"), "expected int, got 'many'"),
        (("plan", "demo", "--set", "train.train_tokens"), "must have the form path=value"),
        (("plan", "demo", "--set", "cells.0.model.top_k=999"), "top_k=999 must be between 1 and"),
        (("plan", "demo", "--shape"), "No such option"),
        (("plan",), "Missing argument"),
        (("shape",), "No such command"),
        (("run", "demo", "--workers", "0"), "--workers"),
        (("run", "demo", "--workers", "two"), "--workers"),
        (("run", "paper"), "corpus/tokenizer.json"),
        (("run", "demo", "--out", "syntax.py"), "syntax.py"),
        (("report", "nowhere"), "nowhere"),
        (("report", "."), "neither a study's folder"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(call, files, words, said):
    status, out, error = call(*words)
    assert (status, out, len(error.splitlines())) == (2, "", 1)
    assert error.startswith("isoflop: ")
    assert said in error
    assert "Traceback" not in error


def test_a_full_disk_is_one_line(call, files, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28), "runs/demo/corpus")

    monkeypatch.setattr("isoflop.sweep.run.run_study", full)
    remedy = "make room and run the same command again to go on"
    said = f"isoflop: runs/demo/corpus: No space left on device; {remedy}\n"
    assert call("run", "demo") == (2, "", said)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, typer.Abort])
def test_an_interrupt_is_one_line_and_status_130(call, monkeypatch, stop):
    def interrupted(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr("isoflop.sweep.run.run_study", interrupted)
    status, out, error = call("run", "demo")
    assert (status, out) == (130, "")
    assert error == "isoflop: interrupted; run the same command again to go on\n"


def test_a_failed_cell_is_told_with_status_1(call, tmp_path, monkeypatch):
    from isoflop.records import CellState

    def one_failed(experiment, root, **_: object) -> list[CellState]:
        states = (("E2-k2", "done", None), ("E4-k2", "failed", "step 3: train loss nan"))
        return [
            CellState(cell=cell, seed=0, run=f"{cell}-s0", state=state, reason=reason)
            for cell, state, reason in states
        ]

    monkeypatch.setattr("isoflop.sweep.run.run_study", one_failed)
    status, out, error = call("run", "demo", "--out", str(tmp_path))
    assert (status, error) == (1, "E4-k2-s0 failed: step 3: train loss nan\n")
    root = tmp_path / "demo"
    assert out.splitlines() == [str(root / "report.html"), str(root / "table.csv")]


def test_the_papers_plan_has_its_65_cells(call):
    status, out, _ = call("plan", "paper", "--json")
    rows = json.loads(out)
    assert status == 0
    assert len({row["cell"] for row in rows}) == len(rows) == 65
    assert rows[0]["cell"] == "d512-E8-k2-320M-A170M"


def test_a_change_reaches_the_plan(call):
    _, out, _ = call("plan", "demo", "--json", "--set", "train.train_tokens=1_000_000")
    tokens = {row["train_tokens"] for row in json.loads(out)}
    assert len(tokens) == 1
    assert 990_000 < tokens.pop() <= 1_000_000


def test_changes_are_made_in_order(call):
    _, out, _ = call("plan", "demo", "--json", "--set", "seeds=(1,)", "--set", "seeds=(2,3)")
    assert {tuple(row["seeds"]) for row in json.loads(out)} == {(2, 3)}


def test_list_names_every_experiment(call):
    status, out, _ = call("list", "--json")
    assert status == 0
    assert [row["name"] for row in json.loads(out)] == list(EXPERIMENTS)
    _, text, _ = call("list")
    assert [line.split()[0] for line in text.splitlines()] == list(EXPERIMENTS)


@pytest.mark.parametrize("more", [(), ("--ranks", "2")])
def test_plan_counts_experts_in_one_pass_as_this_processor_does_or_as_told(call, monkeypatch, more):
    def memory(*words: str) -> str:
        return call("plan", "demo", *more, *words)[1]

    fused, apart = memory("--fused-experts"), memory("--no-fused-experts")
    assert fused != apart
    for here, expected in ((True, fused), (False, apart)):
        monkeypatch.setattr("isoflop.design.processor.fuses_experts", lambda here=here: here)
        assert memory() == expected
    # A GPU, which has no such kernels, is planned for by PyTorch's own operations.
    plain = ("--set", "train.ops=torch")
    assert memory("--fused-experts", *plain) == memory("--no-fused-experts", *plain)


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("-h",), ("plan", "--help")])
def test_questions_about_the_program_end_well(call, words):
    status, out, error = call(*words)
    assert (status, error) == (0, "")
    assert out


def test_mistakes_have_one_type():
    """What the command line prints as a line is what a caller in Python can catch."""
    assert issubclass(UserError, ValueError)


def test_a_users_own_file_is_an_experiment(call, tmp_path):
    tests = str(Path(__file__).parents[1])
    (tmp_path / "mine.py").write_text(
        f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {tests!r})\n"
        f"from fakes import tiny_experiment\n\n\ndef experiment():\n"
        f"    return tiny_experiment(Path({str(tmp_path)!r}))\n"
    )
    status, out, _ = call("plan", str(tmp_path / "mine.py"), "--json")
    assert status == 0
    names = [cell.name for cell in tiny_experiment(tmp_path).cells]
    assert [row["cell"] for row in json.loads(out)] == names
