"""Samples in a folder: a kill loses nothing, shards are parts of the whole, everything is counted."""

import dataclasses
import json
from statistics import NormalDist

import pytest

from isoflop.config import UserError
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.ours import OurGenerator
from isoflop.evaluate.tasks.ask import Examinee
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.testtime import samples
from isoflop.evaluate.testtime.command import parse_shard
from isoflop.evaluate.testtime.report import (
    Votes,
    read_sampled,
    read_scores,
    votes,
    votes_to_json,
    votes_to_text,
)
from isoflop.evaluate.testtime.rows import SampleRow
from isoflop.evaluate.testtime.samples import Shard, draw_samples, sample_run, sample_seed
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.transformer import Transformer
from isoflop.records import read_rows

QUESTIONS = ["the sheep?", "she showed", "the shore 12", "thence she", "été là 34", "12"]
DRAWN = Sampling(max_new_tokens=6, temperature=1.0, top_p=0.9, stop=("Question:",))


@pytest.fixture
def loaded(tmp_path):
    rows = [{"question": text, "answer": f"so\n#### {n}"} for n, text in enumerate(QUESTIONS)]
    rows.append({"question": "long " * 60, "answer": "#### 1"})
    rows.append({"question": "no answer", "answer": "none"})
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task("gsm8k", data=path, shots=0)


def examinee(model, tokenizer, places=4) -> Examinee:
    return Examinee(
        model=model,
        tokenizer=tokenizer,
        generator=OurGenerator(model, tokenizer, batch_sequences=places),
        sandbox=None,
        context_start="end_of_text",
        batch_items=3,
    )


def draw(model, tokenizer, loaded, folder, out, **changes):
    if not folder.exists():
        save_checkpoint(model, folder)
    asked = examinee(model, tokenizer)
    fields = {
        "checkpoint": folder,
        "generator": "isoflop",
        "num_samples": 3,
        "seed": 0,
        "group_samples": 4,
    }
    run = sample_run(asked, loaded, changes.pop("sampling", DRAWN), **(fields | changes))
    return draw_samples(asked, loaded, run, out=out, progress=lambda done, total: None)


def same_files(one, other) -> None:
    names = sorted(path.name for path in one.iterdir() if path.name not in ("env.json", ".lock"))
    assert "samples.jsonl" in names
    for name in names:
        assert (other / name).read_bytes() == (one / name).read_bytes(), name


def test_every_problem_has_its_samples_or_is_told(model, merging, loaded, tmp_path):
    folder = draw(model, merging, loaded, tmp_path / "model", tmp_path)
    rows = list(read_rows(folder / "samples.jsonl", SampleRow))
    assert [(row.item, row.sample) for row in rows] == [
        (problem.id, place) for problem in loaded.problems[:-1] for place in range(3)
    ]
    assert len(loaded.problems) == len(QUESTIONS) + 1
    assert (folder / "refused.jsonl").read_text().count("too long") == 1
    assert (folder / "set_aside.jsonl").read_text().count("no final answer") == 1
    assert {row.seed for row in rows} == {sample_seed(0, row.item, row.sample) for row in rows}
    assert len({row.text for row in rows}) > len(QUESTIONS)


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_a_killed_run_goes_on_to_the_same_bytes(
    model, merging, loaded, tmp_path, monkeypatch, killed_at
):
    whole = draw(model, merging, loaded, tmp_path / "model", tmp_path / "whole")
    drawn = samples._group_rows
    calls = []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == killed_at + 1:
            raise KeyboardInterrupt
        return drawn(*arguments)

    monkeypatch.setattr(samples, "_group_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        draw(model, merging, loaded, tmp_path / "model", tmp_path / "cut")
    cut = draw(model, merging, loaded, tmp_path / "model", tmp_path / "cut")
    assert len(calls) == 3 + 1, "a finished group is not drawn again"
    same_files(whole, cut)


def test_shards_hold_the_rows_of_the_whole_and_are_joined(model, merging, loaded, tmp_path):
    whole = draw(model, merging, loaded, tmp_path / "model", tmp_path)
    parts = [
        draw(model, merging, loaded, tmp_path / "model", tmp_path, shard=Shard(place=place, of=2))
        for place in (1, 2)
    ]
    (joined,) = read_sampled(parts)
    (read,) = read_sampled([whole])
    assert all(len(part.rows) for part in (joined, read))
    assert sorted(map(repr, joined.rows)) == sorted(map(repr, read.rows))
    with pytest.raises(UserError, match=r"shards \[2\] of one run"):
        read_sampled(parts[1:])


def test_a_samples_seed_is_that_of_its_problem_whatever_else_is_asked(
    model, merging, loaded, tmp_path
):
    """So that checkpoints, and runs with more problems, can be compared sample by sample."""
    folder = draw(model, merging, loaded, tmp_path / "model", tmp_path)
    fewer = dataclasses.replace(loaded, problems=loaded.problems[2:3], data_digest="other")
    short = draw(model, merging, fewer, tmp_path / "model", tmp_path)
    (of_short,) = read_sampled([short])
    of_whole = [row for row in read_sampled([folder])[0].rows if row.item == of_short.rows[0].item]
    assert [row.seed for row in of_whole] == [row.seed for row in of_short.rows]
    assert [row.text for row in of_whole] == [row.text for row in of_short.rows]
    other = draw(model, merging, loaded, tmp_path / "model", tmp_path, seed=1)
    assert [row.text for row in read_sampled([other])[0].rows] != [
        row.text for row in read_sampled([folder])[0].rows
    ]


def test_votes_over_two_checkpoints(model, merging, loaded, tmp_path):
    first = draw(model, merging, loaded, tmp_path / "one", tmp_path)
    other = draw(Transformer(model.config, seed=9), merging, loaded, tmp_path / "two", tmp_path)
    found = votes(read_sampled([first, other]))
    assert [len(run.curve) for run in found.runs] == [3, 3]
    assert found.runs[0].name != found.runs[1].name
    assert len(found.overlaps) == 3
    assert len(found.problems) == len(QUESTIONS)
    assert first.parents[1] == other.parents[1] == tmp_path
    both = votes(read_sampled([tmp_path]))  # What `isoflop sample --out` was given.
    assert {run.name for run in both.runs} == {run.name for run in found.runs}
    text = votes_to_text(found)
    assert "problems solved by both" in text
    assert json.loads(votes_to_json(found))["runs"][0]["curve"][0]["num_samples"] == 1


def test_samples_cut_short_do_not_pass_for_all(model, merging, loaded, tmp_path):
    folder = draw(model, merging, loaded, tmp_path / "model", tmp_path)
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "samples.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UserError, match="2 samples of item 'gsm8k/5', of 3 a problem"):
        read_sampled([folder])
    (folder / "samples.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="holds no samples, of 3 a problem"):
        read_sampled([folder])


def test_whole_problems_missing_at_the_end_do_not_pass_for_all(model, merging, loaded, tmp_path):
    folder = draw(model, merging, loaded, tmp_path / "model", tmp_path)
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "samples.jsonl").write_bytes(b"".join(lines[:-3]))
    with pytest.raises(UserError, match=r"holds 15 samples of 18: its samples\.jsonl was cut"):
        read_sampled([folder])


def test_votes_say_what_was_not_asked(model, merging, loaded, tmp_path):
    folder = draw(model, merging, loaded, tmp_path / "model", tmp_path)
    (sampled,) = read_sampled([folder])
    logits = {(row.item, row.sample): -1.0 for row in sampled.rows}
    found = votes([sampled], scores=logits)
    (run,) = found.runs
    assert (run.num_refused, run.num_set_aside, run.num_cut_shots) == (1, 1, 0)
    assert json.loads(votes_to_json(found))["runs"][0]["num_refused"] == 1
    text = votes_to_text(found)
    assert "1 problems refused, too long" in text
    assert "weighted majority not measured: scores below 0" in text
    cut = tuple(dataclasses.replace(row, num_cut_shots=2) for row in sampled.rows)
    found = votes([dataclasses.replace(sampled, rows=cut)])
    assert found.runs[0].num_cut_shots == len(QUESTIONS)
    assert f"{len(QUESTIONS)} problems asked with fewer shots" in votes_to_text(found)


def test_intervals_are_95_percent_of_a_normal_distribution(model, merging, loaded, tmp_path):
    folder = draw(model, merging, loaded, tmp_path / "model", tmp_path)
    run = votes(read_sampled([folder])).runs[0]
    row = dataclasses.replace(run.curve[0], coverage=0.5, coverage_standard_error=0.1)
    found = Votes(runs=(dataclasses.replace(run, curve=(row,)),), overlaps=(), problems=())
    assert NormalDist().inv_cdf(0.975) == pytest.approx(1.959964, abs=1e-6)
    assert "50.0% (30.4% to 69.6%)" in votes_to_text(found)


def test_a_sample_has_one_score(tmp_path):
    path = tmp_path / "scores.jsonl"
    line = '{"item": "a", "sample": 0, "score": 1.0}\n'
    path.write_text(line * 2)
    assert read_scores(path) == {("a", 0): 1.0}
    path.write_text(line + line.replace("1.0", "2.0"))
    with pytest.raises(UserError, match="sample 0 of item 'a' has two scores"):
        read_scores(path)


def test_what_makes_no_sense_is_refused(model, merging, loaded, tmp_path):
    asked = (model, merging, loaded, tmp_path / "model", tmp_path)
    with pytest.raises(UserError, match="temperature=0 makes all 3 samples"):
        draw(*asked, sampling=dataclasses.replace(DRAWN, temperature=0.0))
    with pytest.raises(UserError, match="samples=0"):
        draw(*asked, num_samples=0)
    choice = dataclasses.replace(loaded, task=dataclasses.replace(loaded.task, scorer="choice"))
    with pytest.raises(UserError, match="generates no answers"):
        draw(model, merging, choice, tmp_path / "model", tmp_path)
    long = dataclasses.replace(loaded, problems=loaded.problems[-1:])
    with pytest.raises(UserError, match="no problem fits the model's 48 tokens"):
        draw(model, merging, long, tmp_path / "model", tmp_path)
    with pytest.raises(UserError, match="not a complete folder of samples"):
        read_sampled([tmp_path])
    for wrong in ("2", "a/b", "0/2", "3/2", "1/0"):
        with pytest.raises(UserError, match="shard"):
            parse_shard(wrong)
    assert parse_shard("2/8") == Shard(place=2, of=8)
