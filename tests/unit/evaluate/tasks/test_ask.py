"""A task on a checkpoint: the counts add up, a kill loses nothing, and old scores come out again."""

import json
from dataclasses import replace

import pytest

from isoflop.evaluate.config import EvaluateConfig
from isoflop.evaluate.sampling.ours import OurGenerator
from isoflop.evaluate.score import evaluate_checkpoint
from isoflop.evaluate.tasks import run as task_run
from isoflop.evaluate.tasks.ask import Examinee
from isoflop.evaluate.tasks.command import score_to_text
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.results import TaskItemRow
from isoflop.evaluate.tasks.run import run_task
from isoflop.model.checkpoint import save_checkpoint
from isoflop.records import EvaluationItem, read_rows, write_rows

PROBES = [
    EvaluationItem(
        id=str(number),
        task="memory",
        split="seen",
        prompt=prompt,
        answer=answer,
        final_answer=answer,
    )
    for number, (prompt, answer) in enumerate(
        [
            ("the sheep", " sheared"),
            ("thence she", " showed"),
            ("12 and", " 1234"),
            ("the she", "ep"),
        ]
    )
]


def examinee(model, tokenizer, *, generate=True) -> Examinee:
    generator = OurGenerator(model, tokenizer, batch_sequences=2) if generate else None
    return Examinee(
        model=model,
        tokenizer=tokenizer,
        generator=generator,
        sandbox=None,
        context_start="end_of_text",
        batch_items=3,
    )


def run(model, tokenizer, loaded, folder, *, generate=True, out=None):
    save_checkpoint(model, folder)
    return run_task(
        examinee(model, tokenizer, generate=generate),
        loaded,
        replace(loaded.task.sampling, max_new_tokens=8),
        checkpoint=folder,
        out=out,
        progress=lambda done, total: None,
    )


@pytest.fixture
def probes(tmp_path):
    write_rows(tmp_path / "items.jsonl", PROBES)
    return load_task("probes", data=tmp_path / "items.jsonl")


def test_an_item_that_cannot_be_parted_is_answered_and_graded_without_task_loss(
    model, without_bytes, probes, tmp_path
):
    score, folder = run(model, without_bytes, probes, tmp_path / "model", out=tmp_path)
    rows = list(read_rows(folder / "items.jsonl", TaskItemRow))
    assert [row.parted for row in rows] == [True, True, True, False]
    assert [row.bits is None for row in rows] == [False, False, False, True]
    assert all(row.generated is not None for row in rows)
    assert rows[-1].correct is not None or "final answer" in rows[-1].reason
    assert (score.num_scored, score.num_not_parted, score.num_not_finite) == (4, 1, 0)
    assert score.bits_per_byte == pytest.approx(
        sum(row.bits / row.num_answer_bytes for row in rows[:3]) / 3
    )
    assert "1 problems have no task loss" in score_to_text(score, probes, None)
    config = EvaluateConfig(max_new_tokens=8, batch_items=3)
    ((study,), answers) = evaluate_checkpoint(
        model, without_bytes, PROBES, config, step=1, tokens=1, max_items=9
    )
    assert (study.num_items, study.num_scored, study.num_not_finite) == (4, 3, 0)
    assert "spans the join" in answers[-1].reason


def test_probes_score_as_they_do_in_a_study(model, merging, probes, tmp_path):
    score, folder = run(model, merging, probes, tmp_path / "model")
    config = EvaluateConfig(max_new_tokens=8, batch_items=3)
    ((study,), _) = evaluate_checkpoint(
        model, merging, PROBES, config, step=1, tokens=1, max_items=9
    )
    assert folder is None
    assert score.bits_per_byte == pytest.approx(study.bits_per_byte, rel=1e-6)
    assert score.bits_per_byte_standard_error == pytest.approx(
        study.bits_per_byte_standard_error, rel=1e-5
    )
    assert (score.accuracy, score.num_joined) == (study.accuracy, study.num_joined)
    assert score.num_joined == score.num_miscut == 1
    assert score.accuracy_flexible is None


def test_a_killed_run_goes_on_to_the_same_bytes(model, merging, probes, tmp_path, monkeypatch):
    monkeypatch.setattr(task_run, "PART_ITEMS", 1)
    _, whole = run(model, merging, probes, tmp_path / "model", out=tmp_path / "whole")
    asked = task_run.ask
    calls = []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return asked(*arguments)

    monkeypatch.setattr(task_run, "ask", killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, merging, probes, tmp_path / "model", out=tmp_path / "cut")
    _, cut = run(model, merging, probes, tmp_path / "model", out=tmp_path / "cut")
    assert len(calls) == 3 + 2, "the two finished problems are not asked again"
    names = sorted(path.name for path in whole.iterdir() if path.name not in ("env.json", ".lock"))
    assert "items.jsonl" in names
    for name in names:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    run(model, merging, probes, tmp_path / "model", out=tmp_path / "cut")
    assert len(calls) == 5, "a finished folder is not asked again"


def test_the_folder_depends_on_what_the_score_depends_on(model, merging, probes, tmp_path):
    _, first = run(model, merging, probes, tmp_path / "model", out=tmp_path)
    _, loss_only = run(model, merging, probes, tmp_path / "model", generate=False, out=tmp_path)
    fewer = load_task("probes", data=tmp_path / "items.jsonl", limit=2)
    _, short = run(model, merging, fewer, tmp_path / "model", out=tmp_path)
    assert len({first, loss_only, short}) == 3


def test_every_problem_is_counted_once(model, merging, tmp_path):
    rows = [
        {"prompt": "the sheep", "answer": " sheared"},
        {"prompt": "the sheep " * 60, "answer": " sheared"},
        {"prompt": "", "answer": "x"},
        {"prompt": "the she", "answer": "ep"},
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_task("promptanswer", data=data)
    score, folder = run(model, merging, loaded, tmp_path / "model", out=tmp_path)
    assert (score.num_items, score.num_set_aside) == (3, 1)
    assert (score.num_scored, score.num_refused, score.num_cut_shots) == (2, 1, 0)
    assert (score.accuracy, score.num_ungradable) == (None, None)
    items = list(read_rows(folder / "items.jsonl", TaskItemRow))
    assert [row.refused for row in items] == [False, True, False]
    assert [row.item for row in read_rows(folder / "joins.jsonl", TaskItemRow)] == [items[2].item]
    text = score_to_text(score, loaded, folder)
    assert "1 too long for the context; 1 rows set aside (1 empty text)" in text


def test_all_too_long_is_not_measured_and_not_zero(model, merging, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"prompt": "the sheep " * 60, "answer": " sheared"}) + "\n")
    score, _ = run(model, merging, load_task("promptanswer", data=data), tmp_path / "model")
    assert score.num_refused == 1
    assert score.bits_per_byte is None
    assert score.largest_reference_difference is None


def test_choices_by_bits_by_characters_and_by_bytes(model, merging, tmp_path):
    """As lm-evaluation-harness computes acc, acc_norm and acc_bytes, from the same bits."""
    rows = [
        {
            "query": "the sheep",
            "endings": ["sheared the shore", "\u00e9t\u00e9", "12"],
            "label": gold,
        }
        for gold in (0, 1, 2)
    ]
    data = tmp_path / "choices.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_task("hellaswag", data=data, shots=0)
    score, folder = run(model, merging, loaded, tmp_path / "model", out=tmp_path)
    for row, item in zip(rows, read_rows(folder / "items.jsonl", TaskItemRow), strict=True):
        assert item.gold_choice == row["label"]
        assert item.correct == (item.choice_bits[row["label"]] == min(item.choice_bits))
        bits = item.choice_bits
    by_characters = [b / len(text) for b, text in zip(bits, rows[0]["endings"], strict=True)]
    by_bytes = [b / len(text.encode()) for b, text in zip(bits, rows[0]["endings"], strict=True)]
    # One of the three labels is right whatever the measure, and each says which.
    assert score.accuracy == score.accuracy_per_character == score.accuracy_per_byte == 1 / 3
    for measure, name in ((by_characters, "per_character"), (by_bytes, "per_byte")):
        best = measure.index(min(measure))
        one = load_task("hellaswag", data=write_one(tmp_path, rows[best]), shots=0)
        alone, _ = run(model, merging, one, tmp_path / "model")
        assert getattr(alone, f"accuracy_{name}") == 1


def write_one(folder, row):
    path = folder / "one.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return path
