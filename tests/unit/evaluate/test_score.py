"""Scores: a model that knows scores 1, one that does not 0; means equal those of the answers."""

import dataclasses
import math
import statistics

import pytest
import torch

from isoflop.config import UserError
from isoflop.evaluate.config import EvaluateConfig
from isoflop.evaluate.losses import task_losses
from isoflop.evaluate.score import evaluate_checkpoint, first_items
from isoflop.evaluate.statistics import share_and_error
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer, next_token_loss
from isoflop.records import EvaluationItem, row_to_line


def item(number: int, prompt: str, answer: str, **changes) -> EvaluationItem:
    fields = {
        "id": f"item-{number}",
        "task": "memory",
        "split": "seen",
        "prompt": prompt,
        "answer": answer,
        "final_answer": answer.rpartition("#")[2],
    }
    return EvaluationItem(**(fields | changes))


FACTS = [item(n, f"the sheep {n}:", f"{(7 * n) % 10}{(3 * n) % 10}") for n in range(8)]
WORKED = [
    item(n, f"a={n};b=a+1;b?", f"a={n};b={n + 1};#{n + 1}", task="reasoning", split="held_out")
    for n in range(4)
]
CONFIG = EvaluateConfig(max_new_tokens=16, batch_items=5)


def evaluate(model, tokenizer, items, config=CONFIG, **changes):
    options = {"step": 10, "tokens": 1280, "max_items": 100}
    return evaluate_checkpoint(model, tokenizer, items, config, **(options | changes))


@pytest.fixture(scope="module")
def knowing(merging) -> Transformer:
    """A model trained on the facts and worked solutions until it knows them."""
    shape = ModelConfig(
        vocabulary_size=320,
        num_layers=2,
        d_model=32,
        num_heads=2,
        d_expert=64,
        num_experts=4,
        top_k=2,
        sequence_length=40,
        init_std=0.1,
    )
    model = Transformer(shape, seed=1)
    end = merging.end_of_text_id
    rows = [[end, *merging.encode(one.prompt + one.answer), end] for one in FACTS + WORKED]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [end] * (longest - len(row)) for row in rows])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        loss = next_token_loss(model(tokens[:, :-1]).logits, tokens[:, 1:]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def test_a_model_that_knows_scores_one_and_pays_few_bits(knowing, merging):
    """A correct answer that ends by end of text is graded correct, in both kinds of task."""
    scores, answers = evaluate(knowing, merging, FACTS + WORKED)
    assert [(score.task, score.split) for score in scores] == [
        ("memory", "seen"),
        ("reasoning", "held_out"),
    ]
    for score in scores:
        assert score.accuracy == 1.0
        assert score.num_ungradable == 0
        assert score.answer_bits < 1.0
        assert score.answer_probability > 0.5
    assert [answer.generated for answer in answers] == [one.answer for one in FACTS + WORKED]


def test_wrong_gold_answers_score_zero_and_cost_many_bits(knowing, merging):
    wrong = [dataclasses.replace(one, answer="99", final_answer="99") for one in FACTS]
    (score,), answers = evaluate(knowing, merging, wrong)
    assert score.accuracy == 0.0
    assert score.num_ungradable == 0
    assert {answer.correct for answer in answers} == {False}
    assert score.answer_bits > 5.0
    assert score.answer_probability < 0.1


def test_ungradable_answers_are_counted_apart_and_as_wrong(knowing, merging):
    """Facts asked as if they needed a worked solution: no mark, no final answer."""
    marked = [
        dataclasses.replace(one, answer="#" + one.answer, id="marked-" + one.id)
        for one in FACTS[:3]
    ]
    (score,), answers = evaluate(knowing, merging, marked + FACTS[:1])
    assert [answer.correct for answer in answers] == [None, None, None, True]
    assert (score.num_scored, score.num_ungradable, score.accuracy) == (4, 3, 0.25)


def test_means_and_errors_are_those_of_the_answers(model, merging):
    scores, answers = evaluate(model, merging, FACTS + WORKED)
    for score in scores:
        rows = [row for row in answers if (row.task, row.split) == (score.task, score.split)]
        assert score.num_items == score.num_scored == len(rows)
        per_byte = [row.answer_bits / row.num_answer_bytes for row in rows]
        per_token = [row.answer_bits / row.num_answer_tokens for row in rows]
        count = len(rows)
        assert score.bits_per_byte == pytest.approx(statistics.mean(per_byte))
        expected = statistics.stdev(per_byte) / math.sqrt(count)
        assert score.bits_per_byte_standard_error == pytest.approx(expected)
        assert score.bits_per_token == pytest.approx(statistics.mean(per_token))
        expected = statistics.stdev(per_token) / math.sqrt(count)
        assert score.bits_per_token_standard_error == pytest.approx(expected)
        bits = [row.answer_bits for row in rows]
        assert score.answer_bits == pytest.approx(statistics.mean(bits))
        probability = statistics.mean(2.0**-value for value in bits)
        assert score.answer_probability == pytest.approx(probability)
        assert score.num_joined == sum(row.joined for row in rows)
        assert score.num_ungradable == sum(row.correct is None for row in rows)
        assert (score.step, score.tokens) == (10, 1280)


def test_answer_bits_are_the_task_loss(model, merging):
    _, answers = evaluate(model, merging, FACTS + WORKED)
    pairs = [(one.prompt, one.answer) for one in FACTS + WORKED]
    start = (merging.end_of_text_id,)
    expected = task_losses(model, merging, pairs, batch_items=3, start=start)
    for answer, loss in zip(answers, expected, strict=True):
        assert answer.answer_bits == pytest.approx(loss.bits, rel=1e-5)
        assert answer.joined == loss.joined


@pytest.mark.parametrize("batch_items", [1, 3, 100])
def test_answers_stand_in_the_order_of_the_file_whatever_the_batches(model, merging, batch_items):
    mixed = [one for pair in zip(WORKED, FACTS, strict=False) for one in pair]
    config = dataclasses.replace(CONFIG, batch_items=batch_items)
    _, expected = evaluate(model, merging, mixed)
    scores, answers = evaluate(model, merging, mixed, config)
    assert [answer.item for answer in answers] == [one.id for one in mixed]
    assert [score.task for score in scores] == ["reasoning", "memory"]
    for one, other in zip(expected, answers, strict=True):
        assert one.generated == other.generated
        assert one.correct == other.correct
        assert other.answer_bits == pytest.approx(one.answer_bits, rel=1e-5)


def test_the_first_items_of_each_task_and_split_are_asked(model, merging):
    other = [dataclasses.replace(one, split="held_out") for one in FACTS[:2]]
    taken = first_items([*FACTS, *other, *WORKED], 3)
    assert taken == [*FACTS[:3], *other, *WORKED[:3]]
    scores, answers = evaluate(model, merging, [*FACTS, *other, *WORKED], max_items=3)
    assert [score.num_items for score in scores] == [3, 2, 3]
    assert len(answers) == 8


def test_items_without_room_are_left_out_of_the_means_and_counted(model, plain_bytes):
    """48 tokens fit the model; the long item's prompt does, its answer does not."""
    long = item(99, "x" * 44, "y" * 6)
    too_long = item(98, "x" * 60, "y")
    (alone,), _ = evaluate(model, plain_bytes, FACTS)
    (score,), answers = evaluate(model, plain_bytes, [long, *FACTS, too_long])
    assert (score.num_items, score.num_scored) == (10, 8)
    for field in ("accuracy", "bits_per_byte", "answer_bits", "accuracy_standard_error"):
        assert getattr(score, field) == pytest.approx(getattr(alone, field), rel=1e-6)
    for answer in (answers[0], answers[-1]):
        assert answer.generated is answer.correct is answer.answer_bits is None
    assert answers[0].num_answer_bytes == 6


def test_a_task_without_any_item_that_fits_has_no_means(model, plain_bytes):
    (score,), _ = evaluate(model, plain_bytes, [item(1, "x" * 60, "y")])
    assert (score.num_items, score.num_scored, score.num_ungradable) == (1, 0, 0)
    measured = dataclasses.asdict(score)
    missing = [name for name, value in measured.items() if value is None]
    assert len(missing) == 8
    assert "accuracy" in missing


def test_one_item_has_a_mean_but_no_error_and_no_items_have_no_scores(model, merging):
    (score,), _ = evaluate(model, merging, FACTS[:1])
    assert score.accuracy in (0.0, 1.0)
    assert score.accuracy_standard_error is None
    assert score.bits_per_byte is not None
    assert score.bits_per_byte_standard_error is None
    assert evaluate(model, merging, []) == ([], [])


def test_the_error_of_an_accuracy_is_the_binomial_one():
    mean, error = share_and_error([True] * 30 + [False] * 70)
    assert mean == 0.3
    assert error == pytest.approx(math.sqrt(0.3 * 0.7 / 99), rel=0.02)


@pytest.mark.parametrize("correct", [True, False])
def test_a_score_without_scatter_is_known_to_about_one_item(correct):
    for count in (2, 100, 1000):
        mean, error = share_and_error([correct] * count)
        assert mean == float(correct)
        # One of n + 2 wrong: about 1 / n for many items, less for few.
        assert error == pytest.approx(1 / (count + 2), rel=0.15)
    assert share_and_error([correct]) == (float(correct), None)
    assert share_and_error([]) == (None, None)


def test_what_stands_before_the_prompt_is_a_choice(model, merging):
    bare = dataclasses.replace(CONFIG, context_start="nothing")
    _, answers = evaluate(model, merging, FACTS, bare)
    pairs = [(one.prompt, one.answer) for one in FACTS]
    expected = task_losses(model, merging, pairs, batch_items=8)
    assert [answer.answer_bits for answer in answers] == pytest.approx(
        [loss.bits for loss in expected], rel=1e-5
    )
    _, started = evaluate(model, merging, FACTS)
    assert started[0].answer_bits != pytest.approx(answers[0].answer_bits, rel=1e-3)


def test_whatever_a_model_writes_can_be_stored(model, plain_bytes):
    """A random model over bytes writes broken UTF-8; rows must hold it as text."""
    _, answers = evaluate(model, plain_bytes, FACTS)
    for answer in answers:
        assert row_to_line(answer).encode()


def test_answers_longer_than_may_be_generated_are_refused(model, merging):
    short = dataclasses.replace(CONFIG, max_new_tokens=3)
    with pytest.raises(UserError, match="max_new_tokens=3 makes it unreachable"):
        evaluate(model, merging, WORKED, short)


def test_items_that_nobody_could_answer_are_refused(model, merging):
    """A final answer that the gold answer does not end with would score 0 for every model."""
    broken = dataclasses.replace(WORKED[0], final_answer="7")
    with pytest.raises(
        UserError, match="final_answer='7' must be the whole answer or what follows"
    ):
        evaluate(model, merging, [broken])


def test_a_tokenizer_of_another_model_is_refused(merging):
    shape = ModelConfig(
        vocabulary_size=128,
        num_layers=1,
        d_model=8,
        num_heads=2,
        d_expert=8,
        num_experts=1,
        top_k=1,
        sequence_length=40,
    )
    with pytest.raises(UserError, match="use the tokenizer the model was trained with"):
        evaluate(Transformer(shape), merging, FACTS)


@pytest.mark.parametrize(
    "field", ["max_items", "max_items_between", "max_new_tokens", "batch_items"]
)
def test_counts_must_be_at_least_one(field):
    with pytest.raises(UserError, match=f"{field}=0 must be at least 1"):
        EvaluateConfig(**{field: 0})
