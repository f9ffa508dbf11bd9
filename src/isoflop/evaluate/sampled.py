"""Test-time compute of a study: many samples of each question of a run's last checkpoint.

    <out>/samples/...     a folder for each task and split, see testtime.samples
    <out>/sampled.jsonl   SampledRow: what 1, 2, 4 and so on samples of each question give

A kill loses the group of questions at work and nothing else.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from isoflop.evaluate.benchmarks import SPLIT, Place
from isoflop.evaluate.config import EvaluateConfig, Samples
from isoflop.evaluate.sampling.ours import OurGenerator
from isoflop.evaluate.tasks.ask import Examinee
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.own import OwnQuestions, load_own
from isoflop.evaluate.testtime.curves import by_problem, curve, sample_numbers
from isoflop.evaluate.testtime.rows import CurveRow, SampleRow
from isoflop.evaluate.testtime.samples import SAMPLES_FILE, draw_samples, sample_run
from isoflop.model.transformer import Transformer
from isoflop.records import read_rows, write_rows
from isoflop.sandbox import Sandbox
from isoflop.stage_records import SampledRow
from isoflop.tokens.tokenizer import Tokenizer

SAMPLED_FILE = "sampled.jsonl"

PLACES = 128
"""Samples decoded together, and of a group at least, as `isoflop sample` has it."""


def draw_all_samples(
    model: Transformer,
    tokenizer: Tokenizer,
    items: Sequence[Path],
    config: EvaluateConfig,
    place: Place,
) -> None:
    """Draw the samples of every task of `config.samples`; nothing where there is none.

    Args:
        items: files of the study's own questions.

    Raises:
        UserError: unusable data, a task without answers to generate, or see `draw_samples`.
    """
    if not config.samples:
        return
    rows: list[SampledRow] = []
    with Sandbox() as sandbox:
        examinee = Examinee(
            model=model,
            tokenizer=tokenizer,
            generator=OurGenerator(model, tokenizer, batch_sequences=PLACES),
            sandbox=sandbox,
            context_start=config.context_start,
            batch_items=config.batch_items,
        )
        for asked in config.samples:
            for questions in _questions(asked, items):
                found = _curve(examinee, asked, questions, place)
                rows += [_row(one, questions, place.step) for one in found]
    write_rows(place.out / SAMPLED_FILE, rows)


def _questions(asked: Samples, items: Sequence[Path]) -> list[OwnQuestions]:
    if asked.data is None:
        return load_own(asked.task, items, asked.max_items)
    loaded = load_task(asked.task, data=Path(asked.data), shots=0, limit=asked.max_items)
    return [OwnQuestions(task=asked.task, split=SPLIT, loaded=loaded)]


def _curve(
    examinee: Examinee,
    asked: Samples,
    questions: OwnQuestions,
    place: Place,
) -> list[CurveRow]:
    sampling = replace(
        questions.loaded.task.sampling,
        max_new_tokens=asked.max_new_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
    )
    run = sample_run(
        examinee,
        questions.loaded,
        sampling,
        checkpoint=place.checkpoint,
        generator="isoflop",
        num_samples=asked.num_samples,
        seed=asked.seed,
        group_samples=PLACES,
    )
    folder = draw_samples(
        examinee,
        questions.loaded,
        run,
        out=place.out,
        progress=lambda *_: None,
        device=place.device,
    )
    problems = by_problem(list(read_rows(folder / SAMPLES_FILE, SampleRow)))
    return curve(problems, sample_numbers(asked.num_samples))


def _row(found: CurveRow, questions: OwnQuestions, step: int) -> SampledRow:
    return SampledRow(
        step=step,
        task=questions.task,
        split=questions.split,
        num_samples=found.num_samples,
        num_items=found.num_problems,
        coverage=found.coverage,
        coverage_standard_error=found.coverage_standard_error,
        majority=found.majority,
        majority_standard_error=found.majority_standard_error,
    )
