"""Laws of the experiments: they load by name, and a user's ten lines are one too."""

import json
import subprocess
import sys

import pytest

from isoflop.config import UserError
from isoflop.experiments import EXPERIMENTS, load_experiment
from isoflop.model.count import active_params

TEN_LINES = """
from isoflop.corpus.config import Corpus, TextSource
from isoflop.experiments import small_family
from isoflop.train.config import TrainConfig


def experiment():
    texts = TextSource(name="mine", path="texts", max_epochs=None)
    train = TrainConfig(
        train_tokens=500_000, batch_sequences=16, sequence_length=64, warmup_steps=50
    )
    return small_family(name="mine", summary="my texts", corpus=Corpus(sources=(texts,)), train=train)
"""


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_the_name_it_is_found_by(name):
    experiment = load_experiment(name)
    assert experiment.name == name
    assert experiment.summary
    assert "PLACEHOLDER" not in experiment.summary


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "paper"])
def test_vocabularies_fit(name):
    load_experiment(name).check_vocabulary()


def test_ten_lines_of_a_user_are_an_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(TEN_LINES)
    experiment = load_experiment("mine.py")
    experiment.check_vocabulary()
    assert [cell.name for cell in experiment.cells] == [f"E{2**n}-k2" for n in range(1, 6)]
    assert len({active_params(cell.model) for cell in experiment.cells}) == 1


def test_ten_lines_of_a_user_can_be_planned_from_the_shell(tmp_path):
    (tmp_path / "mine.py").write_text(TEN_LINES)
    command = [sys.executable, "-m", "isoflop", "plan", "mine.py", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)) == 5


def test_a_name_that_is_none_lists_those_that_are():
    with pytest.raises(
        UserError, match="no experiment 'demos'; there are demo, demo-grpo, desk, paper"
    ):
        load_experiment("demos")


def test_a_mistake_names_the_last_line_of_the_users_file_that_led_to_it(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEN_LINES.replace("sequence_length=64", "sequence_length=0"))
    line = 1 + TEN_LINES.splitlines().index("    train = TrainConfig(")
    with pytest.raises(UserError) as raised:
        load_experiment(str(path))
    assert str(raised.value) == f"{path}:{line}: sequence_length=0 must be at least 1"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise Exception('mine')", "Exception: mine"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("class Own(Exception): pass\n    raise Own('odd')", "Own: odd"),
    ],
)
def test_whatever_a_users_file_raises_is_told_with_its_line(tmp_path, body, told):
    path = tmp_path / "mine.py"
    path.write_text(f"def experiment():\n    {body}\n")
    with pytest.raises(UserError) as raised:
        load_experiment(str(path))
    lines = 1 + body.count("\n") + 1
    assert str(raised.value) == f"{path}:{lines}: {told}"


def test_a_wrong_type_is_refused_before_a_worker_meets_it(tmp_path):
    path = tmp_path / "mine.py"
    text = TEN_LINES.replace("def experiment", "def made")
    text += """
from dataclasses import replace


def experiment():
    return replace(made(), seeds=(0, 1.5))
"""
    path.write_text(text)
    # In a process of its own: here the tests' type checks would refuse it first.
    command = [sys.executable, "-m", "isoflop", "plan", "mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "isoflop: mine.py.seeds[1]: expected int, got 1.5\n"
