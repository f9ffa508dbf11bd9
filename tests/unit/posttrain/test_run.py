"""A run in its folder: whatever the instant of a kill, nothing that was done is done again."""

import json
import shutil

import pytest

from isoflop.folders import StageFolder
from isoflop.posttrain import loop
from isoflop.posttrain import run as run_module
from isoflop.posttrain.run import grpo_folder, run_grpo


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture
def start(checkpoint, tokenizer, make_config, tmp_path):
    def start(out: str, **more):
        config = make_config(validation=(make_config().train,))
        return run_grpo(
            checkpoint,
            tokenizer,
            config,
            out=tmp_path / out,
            name="digits",
            progress=lambda *_: None,
            **more,
        )

    return start


def bytes_of(folder):
    """All that does not tell times or the machine."""
    skipped = {"timings.jsonl", "env.json"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in skipped
    }


INSTANTS = [
    (loop, "finish_rows", "before the rows are flushed"),
    (loop.shutil, "rmtree", "before the last step's parts are deleted"),
    (run_module, "write_page", "before the page"),
    (StageFolder, "finish", "before the folder is marked"),
    (run_module, "forget_state", "between the mark and the end"),
]


@pytest.mark.parametrize(
    ("owner", "name"), [one[:2] for one in INSTANTS], ids=[i[2] for i in INSTANTS]
)
def test_a_kill_at_the_end_of_a_run_repeats_no_step(start, monkeypatch, owner, name):
    whole = start("whole")

    original = getattr(owner, name)

    def killing(*arguments, **options):
        # Parts of single steps are deleted all along.
        if name == "rmtree" and arguments[0].name != "rollouts":
            return original(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing)
        with pytest.raises(Killed):
            start("cut")

    def repeated(*arguments, **options):
        raise AssertionError("a step or a validation is done again")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", repeated)
        patch.setattr(loop, "_validate", repeated)
        cut = start("cut")
    assert bytes_of(cut) == bytes_of(whole)
    assert not list(cut.rglob("resume.safetensors"))
    assert not (cut / "rollouts").exists()
    # The times are those of the steps as they were made, once each.
    times = [json.loads(line)["step"] for line in (cut / "timings.jsonl").read_text().splitlines()]
    assert times == [1, 2, 3]


def changed_config(checkpoint, folder, **changes):
    """The same bytes of weights beside another config."""
    shutil.copytree(checkpoint, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize("of", ["checkpoint", "reference"])
def test_the_same_weights_under_another_config_are_another_run(
    checkpoint, tokenizer, make_config, problems, tmp_path, of
):
    """A finished run must not be found for a model that computes other numbers."""

    def named(folder) -> str:
        given = {"checkpoint": checkpoint, "reference": checkpoint} | {of: folder}
        return grpo_folder(
            given["checkpoint"], tokenizer, make_config(), [problems], tmp_path, "digits",
            "config", given["reference"],
        ).path.name  # fmt: skip

    other = changed_config(checkpoint, tmp_path / "other", router_order="softmax_then_topk")
    same = changed_config(checkpoint, tmp_path / "same", init_std=0.5)
    assert named(other) != named(checkpoint)
    assert named(same) == named(checkpoint)
