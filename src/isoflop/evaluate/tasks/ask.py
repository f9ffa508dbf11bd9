"""Problems asked of one model: rows of what each cost and what was answered."""

from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.config import UserError
from isoflop.evaluate.config import ContextStart
from isoflop.evaluate.losses import NOT_PARTED
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.samples import GREEDY_SEED, NOT_FINITE, Generator, Request, Sample
from isoflop.evaluate.tasks.fit import Fitted, fit
from isoflop.evaluate.tasks.losses import GoldLoss, gold_losses
from isoflop.evaluate.tasks.problem import Problem, Task
from isoflop.evaluate.tasks.results import TaskItemRow
from isoflop.evaluate.tasks.score import Runner, score_samples
from isoflop.graders import Grade, ungradable
from isoflop.model.transformer import Transformer
from isoflop.records import storable, storable_or_none
from isoflop.tokens.tokenizer import Tokenizer

BATCH_SEQUENCES = 64
"""Prompts generated together. Chosen: beyond it a small model is hardly faster on 2 cores."""


@dataclass(frozen=True, kw_only=True)
class Examinee:
    """A model with everything it needs to be asked."""

    model: Transformer
    tokenizer: Tokenizer
    generator: Generator | None
    """None: only losses are measured."""
    sandbox: Runner | None
    """Needed where answers are programs."""
    context_start: ContextStart
    batch_items: int

    def __post_init__(self) -> None:
        if self.tokenizer.vocabulary_size > self.model.config.vocabulary_size:
            raise UserError(
                f"{self.tokenizer.path}: the tokenizer has {self.tokenizer.vocabulary_size} tokens "
                f"but the model {self.model.config.vocabulary_size}; use the tokenizer the model "
                "was trained with"
            )

    @property
    def start(self) -> tuple[int, ...]:
        """Tokens before every prompt."""
        ends = self.context_start == "end_of_text"
        return (self.tokenizer.end_of_text_id,) if ends else ()


def ask(
    examinee: Examinee, task: Task, problems: Sequence[Problem], sampling: Sampling
) -> list[TaskItemRow]:
    """One row a problem, in order. Where logits are not finite the problem is ungradable.

    Raises:
        UserError: an empty answer.
    """
    tokenizer, start = examinee.tokenizer, examinee.start
    room = examinee.model.config.sequence_length
    fitted = [fit(tokenizer, problem, room, start=start) for problem in problems]
    asked = [one for one in fitted if one is not None]
    losses = gold_losses(examinee.model, tokenizer, asked, batch_items=examinee.batch_items)
    samples, strict, flexible = _answers(examinee, task, asked, sampling)
    rows = iter(
        [
            _asked_row(task, one, loss, sample, by_strict, by_flexible)
            for one, loss, sample, by_strict, by_flexible in zip(
                asked, losses, samples, strict, flexible, strict=True
            )
        ]
    )
    return [
        next(rows) if one is not None else _refused_row(task, problem)
        for problem, one in zip(problems, fitted, strict=True)
    ]


def _answers(
    examinee: Examinee, task: Task, asked: list[Fitted], sampling: Sampling
) -> tuple[list[Sample | None], list[Grade | None], list[Grade | None]]:
    """What was generated, and its strict and its flexible grade; None where there is none."""
    nothing: list[None] = [None] * len(asked)
    if examinee.generator is None or task.scorer in ("choice", "none"):
        return [*nothing], [*nothing], [*nothing]
    requests = [Request(prompt=one.prompt, seeds=(GREEDY_SEED,)) for one in asked]
    found = {one.request: one for one in examinee.generator.generate(requests, sampling)}
    samples = [found[place] for place in range(len(asked))]
    answers = [(one.problem, sample) for one, sample in zip(asked, samples, strict=True)]
    strict = score_samples(task, answers, examinee.sandbox)
    if task.scorer != "number":
        return [*samples], [*strict], [*nothing]
    return [*samples], [*strict], [*score_samples(task, answers, None, extraction="flexible")]


def _asked_row(
    task: Task,
    fitted: Fitted,
    loss: GoldLoss | None,
    sample: Sample | None,
    strict: Grade | None,
    flexible: Grade | None,
) -> TaskItemRow:
    problem, gold = fitted.problem, fitted.gold
    if loss is None and fitted.parted:
        # A model that has no figure for the gold answer has none that an answer could be held to.
        strict, flexible = (
            ungradable(NOT_FINITE),
            None if flexible is None else ungradable(NOT_FINITE),
        )
    return TaskItemRow(
        task=task.name,
        item=problem.id,
        num_shots=len(problem.shots),
        num_cut_shots=fitted.num_cut_shots,
        refused=False,
        bits=None if loss is None else loss.bits,
        num_answer_tokens=gold.num_answer_tokens if fitted.parted else None,
        num_answer_bytes=gold.num_bytes,
        joined=gold.joined,
        reference_bits=None if loss is None else loss.reference_bits,
        reference_tokens=None if loss is None else loss.reference_tokens,
        choice_bits=None if loss is None else loss.choice_bits,
        gold_choice=problem.gold_choice,
        generated=None if sample is None else storable(sample.text),
        finish=None if sample is None else sample.finish,
        answer=None if strict is None else storable_or_none(strict.answer),
        correct=_correct(problem, loss, strict),
        reason=_reason(fitted, strict),
        answer_flexible=None if flexible is None else storable_or_none(flexible.answer),
        correct_flexible=None if flexible is None else flexible.verdict.correct,
        parted=fitted.parted,
    )


def _reason(fitted: Fitted, grade: Grade | None) -> str | None:
    """The grader's; where it has none, why there is no task loss."""
    if grade is not None and grade.reason is not None:
        return storable_or_none(grade.reason)
    return None if fitted.parted else NOT_PARTED


def _correct(problem: Problem, loss: GoldLoss | None, grade: Grade | None) -> bool | None:
    """By the grader, or for choices by the fewest bits; the first of equals."""
    if loss is not None and loss.choice_bits is not None:
        return loss.choice_bits.index(min(loss.choice_bits)) == problem.gold_choice
    return None if grade is None else grade.verdict.correct


def _refused_row(task: Task, problem: Problem) -> TaskItemRow:
    return TaskItemRow(
        task=task.name,
        item=problem.id,
        num_shots=0,
        num_cut_shots=len(problem.shots),
        refused=True,
        bits=None,
        num_answer_tokens=None,
        num_answer_bytes=len(problem.answer.encode()),
        joined=None,
        reference_bits=None,
        reference_tokens=None,
        choice_bits=None,
        gold_choice=problem.gold_choice,
        generated=None,
        finish=None,
        answer=None,
        correct=None,
        reason="prompt and answer are longer than the context",
        answer_flexible=None,
        correct_flexible=None,
    )
