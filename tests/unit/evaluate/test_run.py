"""Every checkpoint of a run scored: killed anywhere and run again, the same bytes."""

import dataclasses
import json
import math

import pytest
import torch

from isoflop.config import UserError
from isoflop.evaluate import benchmarks
from isoflop.evaluate.config import Benchmark, EvaluateConfig
from isoflop.evaluate.losses import task_losses
from isoflop.evaluate.run import evaluate_run, find_checkpoints
from isoflop.evaluate.score import evaluate_checkpoint
from isoflop.model.checkpoint import load_checkpoint, save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer
from isoflop.records import AnswerRow, EvaluationItem, ScoreRow, read_rows, write_rows

STEPS = (5, 20, 100)
BATCH_TOKENS = 64
CONFIG = EvaluateConfig(max_items=6, max_items_between=2, max_new_tokens=8, batch_items=4)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def make_items(task: str) -> list[EvaluationItem]:
    return [
        EvaluationItem(
            id=f"{task}-{n}",
            task=task,
            split="seen",
            prompt=f"she {n}",
            answer="12",
            final_answer="12",
        )
        for n in range(6)
    ]


@pytest.fixture
def trained(tmp_path):
    """A training folder with three checkpoints, and two files of items."""
    shape = ModelConfig(
        vocabulary_size=320,
        num_layers=1,
        d_model=8,
        num_heads=2,
        d_expert=8,
        num_experts=2,
        top_k=2,
        sequence_length=32,
    )
    for seed, step in enumerate(STEPS):
        folder = tmp_path / "train" / "checkpoints" / f"step-{step:08d}"
        save_checkpoint(Transformer(shape, seed=seed), folder)
    for task in ("memory", "other"):
        write_rows(tmp_path / f"{task}.jsonl", make_items(task))
    return tmp_path


def run(folder, tokenizer, out="out", progress=lambda done, total: None, config=CONFIG):
    items = [folder / "memory.jsonl", folder / "other.jsonl"]
    evaluate_run(
        folder / "train",
        tokenizer,
        items,
        config,
        folder / out,
        batch_tokens=BATCH_TOKENS,
        progress=progress,
    )
    return {path.name: path.read_bytes() for path in (folder / out).glob("*.jsonl")}


def test_the_rows_are_those_of_each_checkpoint_in_the_order_of_steps(trained, merging):
    found = run(trained, merging)
    assert sorted(found) == ["answers.jsonl", "scores.jsonl"]
    items = make_items("memory") + make_items("other")
    scores, answers = [], []
    for step, folder in find_checkpoints(trained / "train").items():
        limit = 6 if step == 100 else 2
        rows = evaluate_checkpoint(
            load_checkpoint(folder),
            merging,
            items,
            CONFIG,
            step=step,
            tokens=step * BATCH_TOKENS,
            max_items=limit,
        )
        scores += rows[0]
        answers += rows[1]
    assert list(read_rows(trained / "out" / "scores.jsonl", ScoreRow)) == scores
    assert list(read_rows(trained / "out" / "answers.jsonl", AnswerRow)) == answers
    assert [(row.step, row.num_items) for row in scores] == [
        (5, 2), (5, 2), (20, 2), (20, 2), (100, 6), (100, 6),
    ]  # fmt: skip


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_killed_and_run_again_gives_the_same_bytes_and_loses_one_checkpoint(
    trained, merging, killed_at
):
    expected = run(trained, merging, "whole")

    def kill(done, total):
        if done == killed_at:
            raise Killed

    with pytest.raises(Killed):
        run(trained, merging, progress=kill)
    assert not (trained / "out" / "scores.jsonl").exists()
    # What was scored before the kill must not be read again: its checkpoints may be gone.
    for step in STEPS[:killed_at]:
        (trained / "train" / "checkpoints" / f"step-{step:08d}" / "model.safetensors").unlink()
    assert run(trained, merging) == expected


def test_killed_between_two_files_of_one_checkpoint(trained, merging):
    """Scores come last: a checkpoint with answers alone is scored again; so is a joined half."""
    expected = run(trained, merging, "whole")

    def kill(done, total):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        run(trained, merging, progress=kill)
    (trained / "out" / "parts" / "scores-00000020.jsonl").unlink()
    (trained / "out" / "parts" / "answers-00000020.jsonl").write_text("torn")
    (trained / "out" / "answers.jsonl").write_bytes(expected["answers.jsonl"])
    assert run(trained, merging) == expected


def test_run_twice_does_nothing_the_second_time(trained, merging):
    expected = run(trained, merging)
    times = {path: path.stat().st_mtime_ns for path in (trained / "out").iterdir()}
    for path in (trained / "train").rglob("*.safetensors"):
        path.unlink()
    seen = []
    assert run(trained, merging, progress=lambda *place: seen.append(place)) == expected
    assert seen == [(3, 3)]
    assert {path: path.stat().st_mtime_ns for path in (trained / "out").iterdir()} == times


def test_progress_counts_checkpoints(trained, merging):
    seen = []
    run(trained, merging, progress=lambda *place: seen.append(place))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_evaluation_leaves_checkpoints_and_global_randomness_alone(trained, merging):
    before = {path: path.read_bytes() for path in (trained / "train").rglob("*.*")}
    state = torch.get_rng_state()
    run(trained, merging)
    assert torch.equal(torch.get_rng_state(), state)
    assert {path: path.read_bytes() for path in (trained / "train").rglob("*.*")} == before


def test_a_folder_without_checkpoints_is_refused(trained, merging):
    with pytest.raises(UserError, match="no checkpoints"):
        find_checkpoints(trained / "nowhere")
    (trained / "train" / "checkpoints" / "step-last").mkdir()
    with pytest.raises(UserError, match="step-last: the name must be"):
        run(trained, merging)


def test_items_missing_or_given_twice_are_refused(trained, merging):
    (trained / "other.jsonl").write_bytes((trained / "memory.jsonl").read_bytes())
    with pytest.raises(UserError, match="'memory-0' of task 'memory', split 'seen', stands there"):
        run(trained, merging)
    (trained / "other.jsonl").unlink()
    with pytest.raises(UserError, match=r"other\.jsonl: no such file"):
        run(trained, merging)


def test_a_diverged_checkpoint_has_no_scores_and_the_earlier_ones_have(trained, merging):
    folder = trained / "train" / "checkpoints" / "step-00000100"
    model = load_checkpoint(folder)
    with torch.no_grad():
        model.head.fill_(math.nan)
    save_checkpoint(model, folder)
    run(trained, merging)
    rows = list(read_rows(trained / "out" / "scores.jsonl", ScoreRow))
    for row in rows:
        lost = row.num_items if row.step == 100 else 0
        assert row.num_not_finite == lost
        assert row.num_scored == row.num_items - lost
        assert (row.accuracy is None) == (row.bits_per_byte is None) == (row.step == 100)
    assert {row.step for row in rows} == {5, 20, 100}


def test_a_checkpoint_cut_short_is_named(trained, merging):
    path = trained / "train" / "checkpoints" / "step-00000020" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="step-00000020"):
        run(trained, merging)


def test_without_items_there_are_no_rows(trained, merging):
    """A corpus without probes has nothing to ask; its files are empty, not missing."""
    evaluate_run(
        trained / "train",
        merging,
        [],
        CONFIG,
        trained / "out",
        batch_tokens=BATCH_TOKENS,
        progress=lambda done, total: None,
    )
    assert (trained / "out" / "scores.jsonl").read_bytes() == b""
    assert (trained / "out" / "answers.jsonl").read_bytes() == b""


@pytest.fixture
def with_benchmarks(trained):
    """Word problems, one of which does not fit, and pairs of which only losses are asked."""
    rows = [{"question": f"she {n}", "answer": f"12\n#### {n}"} for n in range(4)]
    rows.append({"question": "she showed " * 40, "answer": "#### 1"})
    pairs = [{"prompt": "the sheep", "answer": " sheared"}, {"prompt": "the", "answer": "n"}]
    for name, lines in (("gsm8k", rows), ("pairs", pairs)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (trained / f"{name}.jsonl").write_text(text)
    return dataclasses.replace(
        CONFIG,
        benchmarks=(
            Benchmark(
                task="gsm8k",
                data=str(trained / "gsm8k.jsonl"),
                shots=0,
                max_items_between=2,
                max_new_tokens=4,
            ),
            Benchmark(task="promptanswer", data=str(trained / "pairs.jsonl")),
        ),
    )


def test_benchmarks_are_asked_of_every_checkpoint_as_by_themselves(
    trained, merging, with_benchmarks
):
    run(trained, merging, config=with_benchmarks)
    scores = list(read_rows(trained / "out" / "scores.jsonl", ScoreRow))
    probes = [row for row in scores if row.split != "test"]
    assert probes == list(read_rows_of_probes(trained, merging))
    asked = [row for row in scores if row.split == "test"]
    assert [(row.step, row.task, row.num_items) for row in asked] == [
        (step, task, number)
        for step, number_of in ((5, (2, 2)), (20, (2, 2)), (100, (5, 2)))
        for task, number in zip(("gsm8k", "promptanswer"), number_of, strict=True)
    ]
    last, pairs = asked[-2:]
    assert (last.num_scored, last.num_ungradable, pairs.num_ungradable) == (4, 4, None)
    assert (last.accuracy, pairs.accuracy) == (0.0, None)
    model = load_checkpoint(trained / "train" / "checkpoints" / "step-00000100")
    expected = task_losses(
        model,
        merging,
        [("the sheep", " sheared"), ("the", "n")],
        batch_items=2,
        start=(merging.end_of_text_id,),
    )
    assert pairs.answer_bits == pytest.approx(sum(one.bits for one in expected) / 2, rel=1e-5)
    assert pairs.num_joined == sum(one.joined for one in expected)


def read_rows_of_probes(trained, merging):
    run(trained, merging, out="probes")
    return read_rows(trained / "probes" / "scores.jsonl", ScoreRow)


@pytest.mark.parametrize("killed_at", [2, 5])
def test_killed_between_benchmarks_it_ends_with_the_same_bytes(
    trained, merging, with_benchmarks, monkeypatch, killed_at
):
    whole = run(trained, merging, out="whole", config=with_benchmarks)
    calls = []
    asked = benchmarks.run_task

    def killed(*arguments, **options):
        calls.append(arguments)
        if len(calls) == killed_at:
            raise Killed
        return asked(*arguments, **options)

    monkeypatch.setattr(benchmarks, "run_task", killed)
    with pytest.raises(Killed):
        run(trained, merging, out="cut", config=with_benchmarks)
    assert run(trained, merging, out="cut", config=with_benchmarks) == whole


def test_a_benchmark_that_cannot_be_asked_is_refused_before_anything_is(trained, merging):
    for wrong, message in (
        ({"task": "gsm9k", "data": "x"}, "no task 'gsm9k'"),
        ({"task": "triviaqa", "data": "x", "style": "code"}, "no style"),
        ({"task": "gsm8k", "data": "x", "max_items": 0}, "max_items=0"),
        ({"task": "gsm8k", "data": "x", "shots": -1}, "shots=-1"),
    ):
        with pytest.raises(UserError, match=message):
            Benchmark(**wrong)
    twice = (Benchmark(task="gsm8k", data="x"), Benchmark(task="gsm8k", data="y"))
    with pytest.raises(UserError, match="different tasks"):
        EvaluateConfig(benchmarks=twice)
    missing = dataclasses.replace(CONFIG, benchmarks=twice[:1])
    with pytest.raises(UserError, match="x: no such file"):
        run(trained, merging, config=missing)
    assert not (trained / "out").exists()
