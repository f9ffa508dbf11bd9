"""`isoflop grpo` as a user calls it: one run, its page, a second call, bad input in one line."""

import dataclasses
import json
from pathlib import Path

import pytest

from isoflop.cli import main
from isoflop.model.checkpoint import load_checkpoint, save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer
from isoflop.records import EvaluationItem, write_rows
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import train_tokenizer

SETTINGS = (
    "num_steps=2",
    "prompts_per_step=4",
    "mini_batch_prompts=2",
    "samples_per_prompt=3",
    "max_response_tokens=3",
    "reward=answer",
    "probe_steps=2",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("grpo")
    config = TokenizerConfig(vocabulary_size=257)
    train_tokenizer(config, ["ask 12"] * 20, home / "tokenizer.json")
    model = ModelConfig(
        vocabulary_size=272,
        num_layers=1,
        d_model=16,
        num_heads=2,
        d_expert=16,
        num_experts=4,
        top_k=2,
        sequence_length=16,
    )
    save_checkpoint(Transformer(model, seed=0), home / "checkpoint")
    items = [
        EvaluationItem(
            id=str(number), task="t", split="seen", prompt="<b>", answer="1", final_answer="1"
        )
        for number in range(6)
    ]
    write_rows(home / "items.jsonl", items)
    return home


@pytest.fixture
def call(home, monkeypatch, capsys):
    def call(*more: str, task: str = "probes", data: str | None = None) -> tuple[int, str, str]:
        words = ["grpo", str(home / "checkpoint"), "--task", task]
        words += ["--data", data or str(home / "items.jsonl"), "--out", str(home / "out")]
        words += ["--tokenizer", str(home / "tokenizer.json"), "--end-of-text", "<|endoftext|>"]
        words += ["--prompt", "{question}"]
        for setting in SETTINGS:
            words += ["--set", setting]
        monkeypatch.setattr("sys.argv", ["isoflop", *words, *more])
        status = main()
        out, error = capsys.readouterr()
        return status, out, error

    return call


def test_a_run_tells_before_and_after_and_a_second_call_finds_it(home, call):
    validate = ("--validate", f"probes={home / 'items.jsonl'}")
    status, out, error = call(*validate)
    assert status == 0, error
    assert "probes before: " in out
    assert "probes after 2 steps: " in out
    assert "over 6 problems" in out
    # No right answer among six is no certainty.
    assert "0.0000 +- 0.0000" not in out
    assert "step 2 of 2, reward " in error
    page = (home / "out" / "grpo").glob("*/rollouts.html")
    text = next(page).read_text()
    # The page shows prompts as text, not as markup.
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    status, out, error = call(*validate, "--json")
    found = json.loads(out)
    assert [row["step"] for row in found["validation"]] == [0, 2]
    assert found["config"]["num_steps"] == 2
    assert "step 2" not in error


def test_two_validation_sources_of_one_task_have_names_of_their_own(home, call):
    items = home / "items.jsonl"
    status, out, error = call("--validate", f"probes={items}", "--validate", f"probes={items}")
    assert (status, len(error.splitlines())) == (2, 1)
    assert "two sources called probes" in error
    assert "--validate NAME=TASK=FILE" in error
    status, out, error = call("--validate", f"one=probes={items}", "--validate", f"probes={items}")
    assert status == 0, error
    for name in ("one", "probes"):
        assert f"{name} before: " in out
        assert f"{name} after 2 steps: " in out


def test_the_divergence_can_be_taken_from_another_checkpoint(home, call):
    """Its digest is in the folder's name and config: with another reference it is another run."""
    known = set((home / "out" / "grpo").glob("*"))
    shape = load_checkpoint(home / "checkpoint").config
    folders = []
    for seed in (0, 1):
        save_checkpoint(Transformer(shape, seed=seed), home / f"seed-{seed}")
        status, _, error = call("--reference", str(home / f"seed-{seed}"))
        assert status == 0, error
        (folder,) = set((home / "out" / "grpo").glob("*")) - known
        known.add(folder)
        folders.append(folder)
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    # Seed 0 made the checkpoint that is trained: the default.
    assert configs[0]["reference"] == configs[0]["checkpoint"] != configs[1]["reference"]
    divergences = [
        json.loads((folder / "steps.jsonl").read_text().split("\n")[0])["divergence"]
        for folder in folders
    ]
    # Two updates a step: the first is at the reference itself.
    assert divergences[0] < 1e-4 < divergences[1]
    status, _, _ = call()
    assert status == 0
    assert set((home / "out" / "grpo").glob("*")) == known


def test_what_is_not_asked_is_told_with_its_reasons(home, call):
    items = (home / "items.jsonl").read_text()
    long = json.loads(items.split("\n")[0]) | {"id": "long", "prompt": "9" * 40}
    (home / "odd.jsonl").write_text(f"{items}{json.dumps(long)}\nno JSON\n")
    status, out, error = call(data=str(home / "odd.jsonl"))
    assert status == 0, error
    assert out.startswith("left out of probes, train: 1 malformed JSON, 1 prompt too long\n"), out
    page = out.split("\n")[1]
    assert (
        "left out of probes, train: 1 malformed JSON, 1 prompt too long" in Path(page).read_text()
    )
    _, out, _ = call("--json", data=str(home / "odd.jsonl"))
    reasons = [row["reason"] for row in json.loads(out)["left_out"]]
    assert reasons == ["prompt too long", "malformed JSON"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": 300}, "the reference has vocabulary_size=300 instead of 272"),
        (
            {"num_experts": 8, "num_layers": 2},
            "the reference has num_layers=2 instead of 1, num_experts=8 instead of 4",
        ),
    ],
)
def test_a_reference_of_another_shape_is_refused_by_both_values(home, call, changes, message):
    shape = dataclasses.replace(load_checkpoint(home / "checkpoint").config, **changes)
    save_checkpoint(Transformer(shape, seed=0), home / "other")
    status, _, error = call("--reference", str(home / "other"))
    assert (status, message in error) == (2, True), error
    assert "Traceback" not in error


def test_a_reference_without_a_divergence_is_refused(home, call):
    status, _, error = call(
        "--reference", str(home / "checkpoint"), "--set", "divergence_coefficient=0"
    )
    assert status == 2
    assert "has no effect with divergence_coefficient=0" in error


def test_answers_may_be_as_long_as_the_model_reads(call):
    """No memory is asked for tokens that cannot come."""
    status, _, error = call("--set", "max_response_tokens=1000000000000")
    assert status == 0, error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "hellaswag"}, "hellaswag generates no answers that could earn a reward"),
        ({"task": "nothing"}, "nothing"),
        ({"data": "missing.jsonl"}, "missing.jsonl"),
        ({"more": ("--validate", "probes")}, "must have the form TASK=FILE"),
        ({"more": ("--set", "samples_per_prompt=1")}, "use at least 2"),
        ({"more": ("--set", "prompts_per_step=8")}, "fewer than prompts_per_step=8"),
        ({"more": ("--device", "tpu")}, "device='tpu' must be cpu, or cuda"),
        ({"more": ("--reference", "nowhere")}, "nowhere: no checkpoint here"),
    ],
)
def test_bad_input_is_one_line(call, given, message):
    more = given.pop("more", ())
    status, _, error = call(*more, **given)
    assert status == 2
    assert message in error
    assert "Traceback" not in error
