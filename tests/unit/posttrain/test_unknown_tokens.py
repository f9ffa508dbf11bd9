"""A model has more rows than its tokenizer has tokens: what it says of the others is read by nobody."""

import dataclasses

import pytest
import torch

from isoflop.evaluate.config import EvaluateConfig
from isoflop.evaluate.sampling.ours import greedy
from isoflop.evaluate.sampling.samples import UNKNOWN_TOKEN
from isoflop.evaluate.score import evaluate_checkpoint
from isoflop.evaluate.tasks.names import find_task
from isoflop.evaluate.tasks.problem import Problem
from isoflop.evaluate.tasks.score import score_samples
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.transformer import Transformer
from isoflop.posttrain import loop
from isoflop.posttrain.loop import GrpoRun, train_grpo
from isoflop.posttrain.rewards import Reward
from isoflop.posttrain.rows import GrpoStepRow, GrpoValidationRow, RolloutRow
from isoflop.records import EvaluationItem, read_rows

PADDING = 260
"""An id of the model that no token has."""


def right(answers):
    """Every answer is right, so that only what is not read earns nothing."""
    return [Reward(value=1.0, gradable=True) for _ in answers]


@pytest.fixture
def padded(shape, tokenizer) -> Transformer:
    """It says the padding most of the time: that row of the head is along its embeddings."""
    model = Transformer(dataclasses.replace(shape, vocabulary_size=272), seed=3)
    with torch.no_grad():
        model.embedding.zero_()
        model.embedding[:, 0] = 1.0
        model.head[PADDING, 0] = 1.0
    assert tokenizer.vocabulary_size <= PADDING < model.config.vocabulary_size
    return model


def test_a_tokenizer_tells_its_own_tokens_from_padding(tokenizer):
    size = tokenizer.vocabulary_size
    assert tokenizer.holds(range(size))
    assert tokenizer.holds([])
    assert not tokenizer.holds([1, size])


def test_evaluation_grades_no_answer_with_such_a_token(padded, tokenizer):
    (sample,) = greedy(padded, tokenizer, [(5, 6)], max_new_tokens=3, batch_sequences=1)
    assert PADDING in sample.tokens
    assert sample.unknown_token
    said = dataclasses.replace(sample, text="#### 18")
    problem = Problem(
        id="1", task="gsm8k", prompt="", answer="18", golds=("18",), choices=None, program=None
    )
    (grade,) = score_samples(find_task("gsm8k"), [(problem, said)], None)
    assert (grade.verdict.correct, grade.reason) == (None, UNKNOWN_TOKEN)
    known = dataclasses.replace(said, unknown_token=False)
    (grade,) = score_samples(find_task("gsm8k"), [(problem, known)], None)
    assert grade.verdict.correct


def test_a_studys_scores_count_it_as_ungradable(padded, tokenizer):
    item = EvaluationItem(
        id="1", task="t", split="seen", prompt="12=", answer="1", final_answer="1"
    )
    (score,), (answer,) = evaluate_checkpoint(
        padded, tokenizer, [item], EvaluateConfig(max_new_tokens=3), step=0, tokens=0, max_items=1
    )
    assert (answer.correct, answer.reason) == (None, UNKNOWN_TOKEN)
    assert (score.num_ungradable, score.num_not_finite, score.accuracy) == (1, 0, 0.0)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_grpo_rewards_none_and_counts_them_also_where_a_part_is_read_again(
    padded, tokenizer, make_config, problems, tmp_path, monkeypatch
):
    save_checkpoint(padded, tmp_path / "checkpoint")
    taught = dataclasses.replace(problems, rewards=right)
    run = GrpoRun(
        checkpoint=tmp_path / "checkpoint",
        tokenizer=tokenizer,
        config=make_config(num_steps=1),
        train=taught,
        validation=(taught,),
        digest="d",
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop, "score", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train_grpo(run, tmp_path / "run", lambda *_: None)
    train_grpo(run, tmp_path / "run", lambda *_: None)
    answers = list(read_rows(tmp_path / "run" / "answers" / "step-00000001.jsonl", RolloutRow))
    unread = [not tokenizer.holds(one.response_tokens) for one in answers]
    assert 0 < sum(unread) < len(unread)
    for one, unknown in zip(answers, unread, strict=True):
        assert (one.reward, one.gradable) == ((0.0, False) if unknown else (1.0, True))
        assert one.reason == (UNKNOWN_TOKEN if unknown else None)
    (step,) = read_rows(tmp_path / "run" / "steps.jsonl", GrpoStepRow)
    assert step.share_ungradable == pytest.approx(sum(unread) / len(unread))
    before, *_ = read_rows(tmp_path / "run" / "validation.jsonl", GrpoValidationRow)
    assert (before.reward, before.share_ungradable) == (0.0, 1.0)
