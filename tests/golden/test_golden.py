"""What must not change unseen: a short training run and every experiment's config.

`make golden` writes the files anew; review their diff like code.
"""

import json
from pathlib import Path

import pytest
import torch

from fakes import tiny_model, tiny_run, tiny_train
from isoflop.config import digest, to_text
from isoflop.experiments import EXPERIMENTS, load_experiment
from isoflop.records import StepRow, read_rows
from isoflop.train.loop import train_run

FOLDER = Path(__file__).parent

TOLERANCE = 1e-4
"""Relative; other processors and versions of torch add up in another order."""


def compare_text(name: str, text: str, record: bool) -> None:
    """`text` is what the file holds; with `record` it is written there."""
    path = FOLDER / name
    if record:
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"no {path.name}; record it with `make golden`"
    assert text == path.read_text(encoding="utf-8"), "record it with `make golden` if meant"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_config_of_an_experiment(name, record_golden):
    experiment = load_experiment(name)
    text = f"digest {digest(experiment)}\n{to_text(experiment)}"
    compare_text(f"{name}.txt", text, record_golden)


def test_the_losses_of_twenty_steps(tmp_path, record_golden):
    run = tiny_run(tmp_path, tiny_train(log_steps=1), tiny_model(num_layers=2))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_run(run, tmp_path, lambda *_: None)
    torch.set_num_threads(threads)
    rows = read_rows(tmp_path / "steps.jsonl", StepRow)
    figures = {
        f"step {row.step}": [row.train_loss, row.gradient_norm, *row.balance_loss, *row.z_loss]
        for row in rows
    }
    path = FOLDER / "losses.json"
    if record_golden:
        lines = [f"{json.dumps(step)}: {json.dumps(values)}" for step, values in figures.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    expected = json.loads(path.read_text(encoding="utf-8"))
    assert len(expected) == 20
    assert figures == {
        step: pytest.approx(values, rel=TOLERANCE) for step, values in expected.items()
    }
