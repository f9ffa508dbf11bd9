"""Logits that are not finite for some prompts: those are ungradable and counted, all others as before."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from isoflop.evaluate.config import EvaluateConfig
from isoflop.evaluate.likelihood import Asked, read_likelihoods
from isoflop.evaluate.losses import task_losses
from isoflop.evaluate.sampling import ours
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.ours import OurGenerator
from isoflop.evaluate.sampling.samples import NOT_FINITE, Request
from isoflop.evaluate.score import evaluate_checkpoint
from isoflop.evaluate.statistics import mean_and_error, share_and_error
from isoflop.evaluate.tasks.ask import Examinee
from isoflop.evaluate.tasks.command import score_to_text
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.results import TaskItemRow
from isoflop.evaluate.tasks.run import run_task
from isoflop.evaluate.testtime.curves import by_problem, curve, extraction
from isoflop.evaluate.testtime.overlap import overlaps, problem_map
from isoflop.evaluate.testtime.report import read_sampled, votes, votes_to_text
from isoflop.evaluate.testtime.rows import SampleRow
from isoflop.evaluate.testtime.samples import draw_samples, sample_run
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.decode import PlainDecoder
from isoflop.records import EvaluationItem, read_rows

BAD = "Z"
"""A letter whose token breaks the model."""

PROMPTS = ["the sheep", "thence Z she", "12 and", "Z", "the she", "12 and 1234 there"]
IS_BAD = [BAD in prompt for prompt in PROMPTS]


def breaking(model, *tokens, value=float("nan")):
    """The model with embeddings that make every context with one of `tokens` not finite."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.embedding[list(tokens)] = value
    return broken


@pytest.fixture(params=[float("nan"), float("inf")], scope="module")
def broken(request, model, merging):
    (token,) = merging.encode(BAD)
    return breaking(model, token, value=request.param)


@pytest.fixture(scope="module")
def never(model):
    """No finite logit for any prompt."""
    return breaking(model, *range(model.config.vocabulary_size))


def start(tokenizer):
    return (tokenizer.end_of_text_id,)


@pytest.mark.parametrize("batch_items", [1, 3, 100])
def test_losses_of_the_others_are_those_of_a_whole_model(model, broken, merging, batch_items):
    pairs = [(prompt, " sheared") for prompt in PROMPTS]
    whole = task_losses(model, merging, pairs, batch_items=batch_items, start=start(merging))
    found = task_losses(broken, merging, pairs, batch_items=batch_items, start=start(merging))
    assert [one is None for one in found] == IS_BAD
    for one, other in zip(found, whole, strict=True):
        if one is not None:
            assert one.bits == pytest.approx(other.bits, rel=1e-5)


def test_a_filling_or_a_neighbours_beginning_that_breaks_harms_nobody(model):
    """Token 0 fills up shorter sequences; here it is one that breaks."""
    broken = breaking(model, 0)
    shots = tuple(range(5, 25))
    asked = [Asked((*shots, *range(40, 40 + n), 3), 20 + n) for n in (1, 2, 5)]
    asked += [Asked((7, 8, 9), 2), Asked((*shots, 0, 9), 21), Asked(tuple(range(60, 80)), 19)]

    def last(place, logits):
        return logits[-1].tolist()

    whole = read_likelihoods(model, asked, last, batch_items=10)
    found = read_likelihoods(broken, asked, last, batch_items=10)
    assert [one is None for one in found] == [False, False, False, False, True, False]
    for one, other in zip(found, whole, strict=True):
        if one is not None:
            assert one == pytest.approx(other, abs=1e-4)


def samples_of(model, tokenizer, prompts, places, sampling):
    requests = [Request(prompt=prompt, seeds=(3, 4)) for prompt in prompts]
    generator = OurGenerator(model, tokenizer, batch_sequences=places)
    return {(one.request, one.seed): one for one in generator.generate(requests, sampling)}


@pytest.mark.parametrize("decoder", ["made", "plain"])
@pytest.mark.parametrize("places", [1, 3, 20])
def test_samples_of_the_others_are_those_of_a_whole_model(
    model, broken, merging, places, decoder, monkeypatch
):
    """Also in the place of one that broke off, and with prompts that are filled up."""
    if decoder == "plain":
        monkeypatch.setattr(ours, "make_decoder", PlainDecoder)
    sampling = Sampling(max_new_tokens=8, temperature=0.7, top_p=0.9)
    prompts = [tuple(merging.encode(prompt)) for prompt in PROMPTS]
    whole = samples_of(model, merging, prompts, places, sampling)
    found = samples_of(broken, merging, prompts, places, sampling)
    assert found.keys() == whole.keys()
    (bad,) = merging.encode(BAD)
    broke_later = 0
    for name, one in found.items():
        if IS_BAD[name[0]]:
            assert (one.finish, one.tokens) == ("not_finite", ())
        elif bad in whole[name].tokens[:-1]:
            # It said the letter itself, and has nothing to say after it.
            assert one.finish == "not_finite"
            assert one.tokens == whole[name].tokens[: len(one.tokens)]
            assert one.tokens[-1] == bad
            broke_later += 1
        else:
            assert one == whole[name]
    assert broke_later < len(found) / 2


def test_a_sample_that_breaks_off_leaves_nothing_in_its_place(model, merging, monkeypatch):
    monkeypatch.setattr(ours, "make_decoder", PlainDecoder)
    sampling = Sampling(max_new_tokens=6)
    first = OurGenerator(model, merging, batch_sequences=1)
    (one,) = first.generate([Request(prompt=(9, 10, 11), seeds=(0,))], sampling)
    token = one.tokens[1]
    broken = breaking(model, token)
    others = [(40, 41), (50, 51, 52)]
    requests = [Request(prompt=prompt, seeds=(0,)) for prompt in [(9, 10, 11), *others]]
    found = {s.request: s for s in OurGenerator(broken, merging, batch_sequences=1).generate(
        requests, sampling)}  # fmt: skip
    assert found[0].finish == "not_finite"
    assert found[0].tokens[-1] == token
    whole = {s.request: s for s in first.generate(requests, sampling)}
    for place in (1, 2):
        if token not in whole[place].tokens:
            assert found[place] == whole[place]


ITEMS = [
    EvaluationItem(
        id=str(number),
        task="memory",
        split="seen",
        prompt=prompt,
        answer=" sheared",
        final_answer="sheared",
    )
    for number, prompt in enumerate(PROMPTS)
]


def test_a_studys_scores_leave_them_out_and_count_them(model, broken, merging):
    config = EvaluateConfig(max_items=10, max_new_tokens=8)
    asked = {"step": 1, "tokens": 1, "max_items": 10}
    (whole,), by_whole = evaluate_checkpoint(model, merging, ITEMS, config, **asked)
    (score,), answers = evaluate_checkpoint(broken, merging, ITEMS, config, **asked)
    lost = [one.reason == NOT_FINITE for one in answers]
    assert all(found for found, bad in zip(lost, IS_BAD, strict=True) if bad)
    assert [one.correct for one, bad in zip(answers, IS_BAD, strict=True) if bad] == [None, None]
    kept = [one for one, bad in zip(answers, lost, strict=True) if not bad]
    expected = [one for one, bad in zip(by_whole, lost, strict=True) if not bad]
    assert [one.generated for one in kept] == [one.generated for one in expected]
    assert (score.num_items, score.num_scored, score.num_not_finite) == (6, len(kept), sum(lost))
    assert whole.num_not_finite == 0
    assert score.num_ungradable == sum(lost) + sum(one.correct is None for one in kept)
    bits = mean_and_error([one.answer_bits / one.num_answer_bytes for one in expected])
    assert score.bits_per_byte == pytest.approx(bits[0], rel=1e-5)
    assert score.bits_per_byte_standard_error == pytest.approx(bits[1], rel=1e-4)
    right = share_and_error([bool(one.correct) for one in kept])
    assert (score.accuracy, score.accuracy_standard_error) == right


def test_a_study_without_a_finite_logit_has_no_score_rather_than_0(never, merging):
    config = EvaluateConfig(max_items=10, max_new_tokens=8)
    (score,), answers = evaluate_checkpoint(
        never, merging, ITEMS, config, step=1, tokens=1, max_items=10
    )
    assert {(one.correct, one.reason) for one in answers} == {(None, NOT_FINITE)}
    assert (score.num_scored, score.num_ungradable, score.num_not_finite) == (0, 6, 6)
    figures = (score.accuracy, score.bits_per_byte, score.bits_per_token, score.answer_bits)
    assert figures == (None, None, None, None)
    assert score.answer_probability is None


def load(tmp_path, name, rows):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task(name, data=path, shots=0)


GSM8K = [{"question": text, "answer": f"so\n#### {n}"} for n, text in enumerate(PROMPTS)]
HELLASWAG = [
    {"query": text, "endings": ["the sheep", "a shore", "showed", "12"], "label": n % 4}
    for n, text in enumerate(PROMPTS)
]


def asked_task(model, tokenizer, loaded, folder, *, out=None):
    save_checkpoint(model, folder)
    examinee = Examinee(
        model=model,
        tokenizer=tokenizer,
        generator=OurGenerator(model, tokenizer, batch_sequences=3),
        sandbox=None,
        context_start="end_of_text",
        batch_items=3,
    )
    sampling = replace(loaded.task.sampling, max_new_tokens=4)
    return run_task(
        examinee, loaded, sampling, checkpoint=folder, out=out, progress=lambda *_: None
    )


@pytest.mark.parametrize(("name", "rows"), [("gsm8k", GSM8K), ("hellaswag", HELLASWAG)])
def test_a_benchmark_leaves_them_out_and_counts_them(model, broken, merging, tmp_path, name, rows):
    good = [row for row, bad in zip(rows, IS_BAD, strict=True) if not bad]
    loaded = load(tmp_path, name, rows)
    score, folder = asked_task(broken, merging, loaded, tmp_path / "model", out=tmp_path / "out")
    items = list(read_rows(folder / "items.jsonl", TaskItemRow))
    lost = [item.not_finite for item in items]
    assert lost == IS_BAD
    (tmp_path / "good").mkdir()
    loaded_good = load(tmp_path / "good", name, good)
    alone, _ = asked_task(model, merging, loaded_good, tmp_path / "whole")
    assert (score.num_items, score.num_scored, score.num_not_finite) == (6, 4, 2)
    assert score.num_ungradable == alone.num_ungradable + 2
    for figure in ("accuracy", "bits_per_byte", "bits_per_token", "reference_bits_per_byte"):
        assert getattr(score, figure) == pytest.approx(getattr(alone, figure), rel=1e-5)
    for figure in ("accuracy_standard_error", "bits_per_byte_standard_error"):
        assert getattr(score, figure) == pytest.approx(getattr(alone, figure), rel=1e-4)
    assert (score.num_joined, score.num_miscut) == (alone.num_joined, alone.num_miscut)
    for item in items:
        if item.not_finite:
            assert (item.correct, item.correct_flexible, item.answer) == (None, None, None)
            assert item.bits is None
            assert item.reason == NOT_FINITE
    assert "2 problems have logits that are not finite" in score_to_text(score, loaded, None)
    assert "6 asked" in score_to_text(score, loaded, None)


@pytest.mark.parametrize(("name", "rows"), [("gsm8k", GSM8K), ("hellaswag", HELLASWAG)])
def test_a_benchmark_without_a_finite_logit_has_no_score(never, merging, tmp_path, name, rows):
    score, _ = asked_task(never, merging, load(tmp_path, name, rows), tmp_path / "model")
    assert (score.num_scored, score.num_ungradable, score.num_not_finite) == (0, 6, 6)
    assert (score.accuracy, score.accuracy_flexible, score.accuracy_per_byte) == (None, None, None)
    assert (score.bits_per_byte, score.largest_reference_difference) == (None, None)
    assert (score.num_joined, score.num_miscut) == (0, 0)


def drawn(model, tokenizer, tmp_path, name):
    loaded = load(tmp_path, "gsm8k", GSM8K)
    folder = tmp_path / name
    save_checkpoint(model, folder)
    examinee = Examinee(
        model=model,
        tokenizer=tokenizer,
        generator=OurGenerator(model, tokenizer, batch_sequences=4),
        sandbox=None,
        context_start="end_of_text",
        batch_items=3,
    )
    run = sample_run(
        examinee,
        loaded,
        Sampling(max_new_tokens=5, temperature=1.0),
        checkpoint=folder,
        generator="isoflop",
        num_samples=3,
        seed=0,
        group_samples=4,
    )
    return draw_samples(examinee, loaded, run, out=tmp_path / "out", progress=lambda *_: None)


def test_samples_that_broke_off_do_not_vote_and_are_not_wrong(broken, merging, tmp_path):
    folder = drawn(broken, merging, tmp_path, "model")
    rows = list(read_rows(folder / "samples.jsonl", SampleRow))
    assert len(rows) == 18
    lost = [row for row in rows if row.finish == "not_finite"]
    assert len(lost) >= 6
    assert {(row.correct, row.answer, row.reason) for row in lost} == {(None, None, NOT_FINITE)}
    problems = by_problem(rows)
    assert sum(len(one.right) for one in problems) == 18 - len(lost)
    assert [len(one.right) for one, bad in zip(problems, IS_BAD, strict=True) if bad] == [0, 0]
    with_one = sum(bool(one.right) for one in problems)
    assert [row.num_problems for row in curve(problems, [1])] == [with_one]
    counted = {row.finish: row for row in extraction(rows)}
    assert counted["not_finite"].num_ungradable == len(lost)
    assert counted["not_finite"].reasons == {NOT_FINITE: len(lost)}
    assert len(problem_map({"a": problems})) == with_one
    assert NOT_FINITE in votes_to_text(votes(read_sampled([folder])))


def test_votes_without_a_finite_sample_are_missing(never, merging, tmp_path):
    folder = drawn(never, merging, tmp_path, "model")
    found = votes(read_sampled([folder]))
    (line,) = found.runs[0].curve
    assert (line.num_samples, line.num_problems) == (1, 0)
    assert (line.coverage, line.majority, line.majority_in_order) == (None, None, None)
    assert found.problems == ()
    assert f"18 {NOT_FINITE}" in votes_to_text(found)
    problems = by_problem(read_sampled([folder])[0].rows)
    assert overlaps({"a": problems, "b": problems}) == []
