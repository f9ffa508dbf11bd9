"""One checkpoint's scores: greedy answers graded, and the bits of the gold answers.

Means are over the items that fit into the model's sequence length and for which its
logits are finite; the others are left out and counted, as are those whose answer a token without
bytes joins to the prompt. A standard error is the sample
standard deviation over the square root of n, None for fewer than two items; that of an
accuracy is never 0, see `share_and_error`.

A prompt is encoded alone for generation, as a user would; where a token spans
the join (`num_joined`), the model must continue from tokens it saw less often,
so accuracy suffers there while the task loss, conditioned on the join, does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.config import UserError
from isoflop.evaluate.config import EvaluateConfig
from isoflop.evaluate.losses import NOT_PARTED, Question, answer_bits, encode_question, fits
from isoflop.evaluate.sampling.ours import greedy
from isoflop.evaluate.sampling.samples import NOT_FINITE, UNKNOWN_TOKEN, Sample
from isoflop.evaluate.statistics import mean_and_error, share_and_error
from isoflop.graders import Verdict, grade_item
from isoflop.graders.exact import FINAL_ANSWER_MARK
from isoflop.model.transformer import Transformer
from isoflop.records import AnswerRow, EvaluationItem, ScoreRow
from isoflop.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """An item in tokens."""

    item: EvaluationItem
    question: Question
    prompt: tuple[int, ...]
    """The prompt encoded alone, after the start."""
    fits: bool


def evaluate_checkpoint(
    model: Transformer,
    tokenizer: Tokenizer,
    items: Sequence[EvaluationItem],
    config: EvaluateConfig,
    *,
    step: int,
    tokens: int,
    max_items: int,
) -> tuple[list[ScoreRow], list[AnswerRow]]:
    """Score the first `max_items` of each task and split.

    Returns the scores in the order in which tasks and splits first appear, and
    the answers in the order of the items.

    Raises:
        UserError: the tokenizer is not the model's, an item's answer is empty, longer
            than config.max_new_tokens, or would not itself be graded correct.
    """
    if tokenizer.vocabulary_size > model.config.vocabulary_size:
        raise UserError(
            f"{tokenizer.path}: the tokenizer has {tokenizer.vocabulary_size} tokens but the model "
            f"{model.config.vocabulary_size}; use the tokenizer the model was trained with"
        )
    taken = first_items(items, max_items)
    asked = [_encode(tokenizer, item, model.config.sequence_length, config) for item in taken]
    fitting = [place for place, one in enumerate(asked) if one.fits]
    questions = [asked[place].question for place in fitting]
    bits = answer_bits(model, tokenizer, questions, batch_items=config.batch_items)
    samples = greedy(
        model,
        tokenizer,
        [asked[place].prompt for place in fitting],
        max_new_tokens=config.max_new_tokens,
        batch_sequences=config.batch_items,
    )
    found = {
        place: (value, sample) for place, value, sample in zip(fitting, bits, samples, strict=True)
    }
    answers = [_answer_row(step, one, *found.get(at, (None, None))) for at, one in enumerate(asked)]
    groups: dict[tuple[str, str], list[AnswerRow]] = {}
    for answer in answers:
        groups.setdefault((answer.task, answer.split), []).append(answer)
    return [score_row(group, tokens) for group in groups.values()], answers


def first_items(items: Sequence[EvaluationItem], limit: int) -> list[EvaluationItem]:
    """The first `limit` items of each task and split, in the order given."""
    counts: dict[tuple[str, str], int] = {}
    taken = []
    for item in items:
        group = item.task, item.split
        counts[group] = counts.get(group, 0) + 1
        if counts[group] <= limit:
            taken.append(item)
    return taken


def score_row(answers: Sequence[AnswerRow], tokens: int) -> ScoreRow:
    """Means over the answers of one task and split at one checkpoint."""
    first = answers[0]
    scored = [
        (answer, answer.answer_bits)
        for answer in answers
        if answer.answer_bits is not None and answer.reason != NOT_FINITE
    ]
    not_finite = sum(answer.reason == NOT_FINITE for answer in answers)
    not_parted = sum(answer.reason == NOT_PARTED for answer in answers)
    accuracy, accuracy_error = share_and_error([bool(one.correct) for one, _ in scored])
    per_byte, byte_error = mean_and_error([bits / one.num_answer_bytes for one, bits in scored])
    per_token, token_error = mean_and_error([bits / one.num_answer_tokens for one, bits in scored])
    return ScoreRow(
        step=first.step,
        tokens=tokens,
        task=first.task,
        split=first.split,
        num_items=len(answers),
        num_scored=len(scored),
        num_ungradable=not_finite
        + not_parted
        + sum(answer.correct is None for answer, _ in scored),
        accuracy=accuracy,
        accuracy_standard_error=accuracy_error,
        bits_per_byte=per_byte,
        bits_per_byte_standard_error=byte_error,
        bits_per_token=per_token,
        bits_per_token_standard_error=token_error,
        answer_bits=mean_and_error([bits for _, bits in scored])[0],
        answer_probability=mean_and_error([2.0**-bits for _, bits in scored])[0],
        num_joined=sum(answer.joined for answer, _ in scored),
        num_not_finite=not_finite,
    )


def _encode(
    tokenizer: Tokenizer, item: EvaluationItem, sequence_length: int, config: EvaluateConfig
) -> _Asked:
    # Such an item would make any model look ignorant, without a sign that it was the item.
    if grade_item(item.answer, item) is not Verdict.CORRECT:
        raise UserError(
            f"item {item.id!r} of {item.task!r}: final_answer={item.final_answer[:40]!r} must be the "
            f"whole answer or what follows its last {FINAL_ANSWER_MARK!r}"
        )
    start = (tokenizer.end_of_text_id,) if config.context_start == "end_of_text" else ()
    question = encode_question(tokenizer, item.prompt, item.answer, start=start)
    if question.num_answer_tokens > config.max_new_tokens:
        raise UserError(
            f"item {item.id!r} of {item.task!r}: its gold answer has {question.num_answer_tokens} "
            f"tokens, so max_new_tokens={config.max_new_tokens} makes it unreachable; set it to at "
            f"least {question.num_answer_tokens}"
        )
    prompt = (*start, *tokenizer.encode(item.prompt))
    room = 1 <= len(prompt) < sequence_length
    return _Asked(
        item=item, question=question, prompt=prompt, fits=room and fits(question, sequence_length)
    )


def _answer_row(step: int, asked: _Asked, bits: float | None, sample: Sample | None) -> AnswerRow:
    correct, reason = _graded(asked, bits, sample)
    return AnswerRow(
        step=step,
        item=asked.item.id,
        task=asked.item.task,
        split=asked.item.split,
        generated=None if sample is None else sample.text,
        correct=correct,
        answer_bits=bits,
        num_answer_tokens=asked.question.num_answer_tokens,
        num_answer_bytes=asked.question.num_bytes,
        joined=asked.question.joined,
        reason=reason,
    )


def _graded(
    asked: _Asked, bits: float | None, sample: Sample | None
) -> tuple[bool | None, str | None]:
    """Whether the answer is right, or None and why that cannot be said."""
    if sample is None:
        return None, "prompt and answer are longer than the context"
    if not asked.question.parted:
        return None, NOT_PARTED
    if bits is None or sample.finish == "not_finite":
        return None, NOT_FINITE
    if sample.unknown_token:
        return None, UNKNOWN_TOKEN
    correct = grade_item(sample.text, asked.item).correct
    return correct, "no final answer" if correct is None else None
