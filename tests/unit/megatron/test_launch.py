"""Runs by Megatron-LM: started by the exported script, done when the log says so, else told and resumed."""

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import tiny_experiment
from isoflop.cli import main
from isoflop.config import UserError
from isoflop.folders import locked
from isoflop.megatron.launch import MegatronLaunch, run_megatron
from isoflop.megatron.layout import MegatronLayout
from isoflop.megatron.log import MegatronStepRow
from isoflop.megatron.status import with_megatron
from isoflop.records import read_rows
from isoflop.sweep.status import study_status
from isoflop.sweep.study import map_study, write_study_map

TRAINER = """
import sys
from pathlib import Path
words = sys.argv[1:]
of = {name: words[place + 1] for place, name in enumerate(words[:-1]) if name.startswith("--")}
state = Path(of["--save"]) / "latest_checkpointed_iteration.txt"
first = int(state.read_text()) + 1 if state.exists() else 1
steps, batch = int(of["--train-iters"]), int(of["--global-batch-size"])
for step in range(first, steps + 1):
    print(f" iteration {step:8d}/{steps:8d} | consumed samples: {step * batch:8d} | lm loss: "
          f"{6 - step / steps:.6E} | load_balancing_loss: 1.0E+00 | grad norm: 1.5 |", flush=True)
    if step == FAILS_AT and of["--num-experts"] == "4" and first == 1:
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text(str(step - 2))
        sys.exit("torch.OutOfMemoryError: CUDA out of memory")
print(f" validation loss at iteration {steps} | lm loss value: 5.1E+00 | lm loss PPL: 1.6E+02 | ")
"""
"""Stands in for pretrain_gpt.py: the arguments that the script gives it, the lines that it prints."""


@pytest.fixture
def launch(tmp_path) -> MegatronLaunch:
    """A checkout whose program fails once on the larger cell; torchrun that starts one process."""
    checkout, programs = tmp_path / "Megatron-LM", tmp_path / "bin"
    checkout.mkdir()
    programs.mkdir()
    (checkout / "pretrain_gpt.py").write_text(textwrap.dedent(TRAINER).replace("FAILS_AT", "15"))
    torchrun = programs / "torchrun"
    # torchrun's own options come in pairs; what is left is a program and its arguments.
    torchrun.write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift 2; done\nexec python3 "$@"\n')
    torchrun.chmod(0o755)
    layout = MegatronLayout(nodes=1, gpus_per_node=2, expert_parallel=2, micro_batch_sequences=2)
    command = f"env PATH={programs}:/usr/bin:/bin bash {{script}}"
    return MegatronLaunch(lambda cell: layout, command, checkout)


def test_a_failed_run_is_told_and_goes_on(launch, tmp_path):
    experiment, root = tiny_experiment(tmp_path), tmp_path / "runs" / "tiny"
    said: list[str] = []
    first = run_megatron(experiment, root, launch, said.append)
    assert [state.state for state in first] == ["done", "failed"]
    assert first[1].reason is not None
    assert "ended after step 15 of 20 with exit status 1: torch.OutOfMemoryError" in first[1].reason
    assert study_status(root)[1].reason == first[1].reason
    (folder,) = root.glob("megatron-*")
    before = (folder / "logs" / "E2-k2-s0.log").read_bytes()
    second = run_megatron(experiment, root, launch, said.append)
    assert [state.state for state in second] == ["done", "done"]
    # What was done is not started again, and the other went on from its checkpoint.
    assert (folder / "logs" / "E2-k2-s0.log").read_bytes() == before
    rows = list(read_rows(folder / "rows" / "E4-k2-s0" / "steps.jsonl", MegatronStepRow))
    assert [row.step for row in rows] == list(range(1, 21))
    assert rows[-1].train_loss == 5.0
    assert (folder / "logs" / "E4-k2-s0.log").read_text().count("/      20") == 15 + 7
    assert study_status(root)[1].reason is None


def states(root: Path) -> list[tuple[str, int]]:
    return [(row.state, row.step) for row in with_megatron(root, study_status(root))]


def test_status_follows_the_logs(launch, tmp_path):
    experiment, root = tiny_experiment(tmp_path), tmp_path / "runs" / "tiny"
    run_megatron(experiment, root, launch, lambda _: None)
    assert states(root) == [("done", 20), ("failed", 15)]
    run_megatron(experiment, root, launch, lambda _: None)
    assert states(root) == [("done", 20), ("done", 20)]
    # In the middle of a run.
    (folder,) = root.glob("megatron-*")
    log = folder / "logs" / "E2-k2-s0.log"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:9]))
    assert states(root)[0] == ("training", 9)
    # Longer runs are others.
    train = replace(experiment.train, train_tokens=2 * experiment.train.train_tokens)
    longer = replace(experiment, train=train)
    write_study_map(map_study(longer), root)
    assert states(root) == [("waiting", 0), ("waiting", 0)]


DAMAGED = {
    "cut short": ("iteration       20/      20 | consumed samples:   160 | lm l\n", None),
    "not finite": ("iteration       20/      20 | lm loss: nan |\n", None),
    "not a step any more": ("iteration       2NCCL INFO rank 1 | lm loss: 5.0E+00 |\n", "20"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_last_line_does_not_undo_a_finished_run(launch, tmp_path, damage):
    experiment, root = tiny_experiment(tmp_path), tmp_path / "runs" / "tiny"
    one = replace(experiment, cells=experiment.cells[:1])
    run_megatron(one, root, launch, lambda _: None)
    (folder,) = root.glob("megatron-*")
    log, (last, saved) = folder / "logs" / "E2-k2-s0.log", DAMAGED[damage]
    log.write_text("".join([*log.read_text().splitlines(keepends=True)[:19], last]))
    if saved:
        told = folder / "checkpoints" / "E2-k2-s0" / "latest_checkpointed_iteration.txt"
        told.parent.mkdir(parents=True)
        told.write_text(saved)
    before = log.read_bytes()
    (state,) = run_megatron(one, root, launch, lambda _: None)
    assert (state.state, log.read_bytes()) == ("done", before)
    assert states(root) == [("done", 20)]
    # What could not be read is not made up.
    rows = list(read_rows(folder / "rows" / "E2-k2-s0" / "steps.jsonl", MegatronStepRow))
    assert rows[-1].step == 19


def test_a_run_that_ends_early_without_an_error_is_not_done(launch, tmp_path):
    experiment, root = tiny_experiment(tmp_path), tmp_path / "runs" / "tiny"
    one = replace(experiment, cells=experiment.cells[:1])
    said = "iteration 19/ 20 | lm loss: 5.0E+00 |"
    early = replace(launch, command=f"echo '{said}' {{script}}")
    (state,) = run_megatron(one, root, early, lambda _: None)
    assert state.state == "failed"
    assert "run again to go on from its last checkpoint" in str(state.reason)


def test_another_study_does_not_read_these_logs(launch, tmp_path):
    experiment, root = tiny_experiment(tmp_path), tmp_path / "runs" / "tiny"
    one = replace(experiment, cells=experiment.cells[:1])
    run_megatron(one, root, launch, lambda _: None)
    longer = replace(one, train=replace(one.train, train_tokens=2 * one.train.train_tokens))
    (state,) = run_megatron(longer, root, launch, lambda _: None)
    assert state.state == "done"
    assert len(list(root.glob("megatron-*"))) == 2


def test_mistakes_are_told(launch, tmp_path):
    experiment, root = tiny_experiment(tmp_path), tmp_path / "runs" / "tiny"
    with pytest.raises(UserError, match=r"must have \{script\} in it"):
        run_megatron(experiment, root, replace(launch, command="bash"), lambda _: None)
    assert not root.exists()
    with pytest.raises(UserError, match="no-such-program: No such file or directory"):
        run_megatron(
            experiment, root, replace(launch, command="no-such-program {script}"), lambda _: None
        )
    with locked(root), pytest.raises(UserError, match="another"):
        run_megatron(experiment, root, launch, lambda _: None)


def test_the_script_finds_its_shards(launch, tmp_path):
    root = tmp_path / "runs" / "tiny"
    run_megatron(tiny_experiment(tmp_path), root, launch, lambda _: None)
    (folder,) = root.glob("megatron-*")
    assert Path(folder / "data" / "notes" / "train.bin").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--megatron", "nodes=1"], "--megatron is of --launcher megatron"),
        (["--launcher", "megatron", "--megatron", "gpus=1"], "'gpus=1' must be KEY=VALUE with one"),
        (
            ["--launcher", "megatron", "--megatron", "nodes=0"],
            "nodes must be a whole number above 0",
        ),
        (["--launcher", "megatron", "--ranks", "2"], "are not of --launcher megatron"),
        (["--launcher", "megatron", "--slurm", "nodes=2"], "--slurm is of --launcher slurm"),
    ],
)
def test_mistakes_of_the_command_line_are_told(words, told, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["isoflop", "run", "demo", "--out", str(tmp_path), *words])
    assert main() == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_log_is_imported(capsys, monkeypatch, tmp_path):
    log = tmp_path / "run.log"
    log.write_text(
        " iteration 1/ 2 | lm loss: 6.1E+00 |\n iteration 2/ 2 | lm loss: 5.9E+00 |\n"
        " iteration 2/ 2 | lm lo\n"
    )
    monkeypatch.setattr("sys.argv", ["isoflop", "import-log", str(log), str(tmp_path / "rows")])
    assert main() == 0
    said = capsys.readouterr()
    assert "2 steps up to 2 of 2, 0 validations, 1 lines set aside" in said.out
    assert "run.log:3: unreadable line" in said.err
    rows = list(read_rows(tmp_path / "rows" / "steps.jsonl", MegatronStepRow))
    assert [row.train_loss for row in rows] == [6.1, 5.9]
