"""Many samples of each problem of a task, in a folder that a kill cannot spoil.

    <out>/samples/<task>-<style>-<shots>shot-T<temperature>-<digest>/
        config.json, env.json
        parts/samples-<number>.jsonl  finished problems, in groups that fill the generator's places
        set_aside.jsonl               rows of the data that could not be asked
        refused.jsonl                 problems that do not fit the context
        samples.jsonl                 a row for each sample
        counts.json                   how many rows these three hold, see SampleCounts
        DONE

A group is computed by itself and always in the same way, so that the rows of a run that was killed,
or whose groups were shared among machines (`shard`), are those of an undisturbed one.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from isoflop.config import UserError, to_text
from isoflop.corpus.seeds import stable_hash
from isoflop.evaluate.config import ContextStart
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.samples import Request, Sample
from isoflop.evaluate.tasks.ask import Examinee
from isoflop.evaluate.tasks.fit import Fitted, fit
from isoflop.evaluate.tasks.problem import LoadedTask
from isoflop.evaluate.tasks.score import score_samples
from isoflop.evaluate.testtime.rows import SampleRow
from isoflop.folders import file_digest, stage_folder, working_in
from isoflop.graders import Grade
from isoflop.records import SetAside, read_rows, storable, storable_or_none, write_rows, write_text

SAMPLES_FILE = "samples.jsonl"
SAMPLES_FOLDER = "samples"
"""Of the folder given by --out: one folder a run in it."""

COUNTS_FILE = "counts.json"

REFUSED = SetAside(where="", reason="too long", detail="prompt and answer exceed the context")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One machine's share of the groups: those whose number leaves `place` when divided by `of`."""

    place: int
    """From 1 to `of`."""
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.place <= self.of:
            raise UserError(
                f"shard {self.place}/{self.of}: must be 1/{self.of} to {self.of}/{self.of}"
            )


WHOLE = Shard(place=1, of=1)


@dataclass(frozen=True, kw_only=True)
class SampleRun:
    """Everything that the rows depend on."""

    task: str
    version: int
    style: str
    num_shots: int
    data_digest: str
    checkpoint: str
    """Digest of the weights."""
    tokenizer: str
    """Digest of the tokenizer's file."""
    generator: str
    """What generates: "isoflop", or another engine's name and version."""
    sampling: Sampling
    num_samples: int
    seed: int
    context_start: ContextStart
    group_samples: int
    """Samples of a group at least, unless the problems end."""
    shard: Shard


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """Rows of a finished folder, by which one that lost some can be told."""

    num_samples: int
    num_refused: int
    """Problems that do not fit the context, of all shards."""
    num_set_aside: int
    """Rows of the data that cannot be asked, of all shards."""


def sample_seed(seed: int, item: str, sample: int) -> int:
    """The seed of one sample's stream: of the run's seed, the item's name and the place alone."""
    return stable_hash(seed, "sample", item, sample)


def draw_samples(
    examinee: Examinee,
    loaded: LoadedTask,
    run: SampleRun,
    *,
    out: Path,
    progress: Callable[[int, int], None],
    device: str = "cpu",
) -> Path:
    """The folder with the samples, made or found complete.

    `progress` is called with (problems done, problems of this shard).

    Raises:
        UserError: another process works in the folder, no problem fits the context, a task without
            answers to generate, or see `OurGenerator.generate`.
    """
    if loaded.task.scorer in ("choice", "none"):
        raise UserError(f"{loaded.task.name} generates no answers; sample another task")
    shard = "" if run.shard == WHOLE else f"-shard{run.shard.place}of{run.shard.of}"
    name = (
        f"{run.task}-{run.style}-{run.num_shots}shot-T{run.sampling.temperature:g}"
        f"-n{run.num_samples}{shard}"
    )
    folder = stage_folder(out, SAMPLES_FOLDER, name, run)
    if folder.done:
        return folder.path
    with working_in(folder, device=device) as path:
        fitted, refused = _fitted(examinee, loaded)
        write_rows(path / "set_aside.jsonl", loaded.set_aside)
        write_rows(path / "refused.jsonl", refused)
        rows = _rows(examinee, loaded, run, fitted, path / "parts", progress)
        write_rows(path / SAMPLES_FILE, rows)
        num_problems = sum(len(group) for _, group in groups_of(fitted, run))
        counts = SampleCounts(
            num_samples=num_problems * run.num_samples,
            num_refused=len(refused),
            num_set_aside=len(loaded.set_aside),
        )
        write_text(path / COUNTS_FILE, to_text(counts))
        folder.finish()
        shutil.rmtree(path / "parts", ignore_errors=True)
    return folder.path


def _fitted(examinee: Examinee, loaded: LoadedTask) -> tuple[list[Fitted], list[SetAside]]:
    """The problems that fit the context, and a row for each that does not."""
    start = examinee.start
    room = examinee.model.config.sequence_length
    fitted, refused = [], []
    for problem in loaded.problems:
        one = fit(examinee.tokenizer, problem, room, start=start)
        if one is None:
            refused.append(SetAside(where=problem.id, reason=REFUSED.reason, detail=REFUSED.detail))
        else:
            fitted.append(one)
    if not fitted:
        raise UserError(
            f"{loaded.data}: no problem fits the model's {room} tokens with its answer, even "
            "without shots; sample from a model with a longer context"
        )
    return fitted, refused


def groups_of(fitted: Sequence[Fitted], run: SampleRun) -> Iterator[tuple[int, Sequence[Fitted]]]:
    """Each group of the shard with the number of its first problem."""
    size = max(1, -(-run.group_samples // run.num_samples))
    for number, begin in enumerate(range(0, len(fitted), size)):
        if number % run.shard.of == run.shard.place - 1:
            yield begin, fitted[begin : begin + size]


def _rows(
    examinee: Examinee,
    loaded: LoadedTask,
    run: SampleRun,
    fitted: Sequence[Fitted],
    folder: Path,
    progress: Callable[[int, int], None],
) -> Iterator[SampleRow]:
    """The rows of every group; those of a group that a part holds already are read."""
    groups = list(groups_of(fitted, run))
    total, done = sum(len(group) for _, group in groups), 0
    for begin, group in groups:
        progress(done, total)
        part = folder / f"samples-{begin:08d}.jsonl"
        if not part.exists():
            write_rows(part, _group_rows(examinee, loaded, run, group))
        yield from read_rows(part, SampleRow)
        done += len(group)
    progress(total, total)


def _group_rows(
    examinee: Examinee, loaded: LoadedTask, run: SampleRun, group: Sequence[Fitted]
) -> list[SampleRow]:
    assert examinee.generator is not None
    requests = [
        Request(
            prompt=one.prompt,
            seeds=tuple(
                sample_seed(run.seed, one.problem.id, place) for place in range(run.num_samples)
            ),
        )
        for one in group
    ]
    places = [{seed: place for place, seed in enumerate(request.seeds)} for request in requests]
    drawn = sorted(
        examinee.generator.generate(requests, run.sampling),
        key=lambda sample: (sample.request, places[sample.request][sample.seed]),
    )
    task = loaded.task
    answers = [(group[sample.request].problem, sample) for sample in drawn]
    strict: Sequence[Grade] = score_samples(task, answers, examinee.sandbox)
    flexible: Sequence[Grade | None] = [None] * len(drawn)
    if task.scorer == "number":
        flexible = score_samples(task, answers, None, extraction="flexible")
    return [
        _sample_row(group[sample.request], places[sample.request][sample.seed], sample, one, other)
        for sample, one, other in zip(drawn, strict, flexible, strict=True)
    ]


def _sample_row(
    fitted: Fitted, place: int, sample: Sample, strict: Grade, flexible: Grade | None
) -> SampleRow:
    problem = fitted.problem
    return SampleRow(
        task=problem.task,
        item=problem.id,
        sample=place,
        seed=sample.seed,
        num_tokens=len(sample.tokens),
        finish=sample.finish,
        text=storable(sample.text),
        answer=storable_or_none(strict.answer),
        correct=strict.verdict.correct,
        reason=storable_or_none(strict.reason),
        answer_flexible=None if flexible is None else storable_or_none(flexible.answer),
        correct_flexible=None if flexible is None else flexible.verdict.correct,
        num_cut_shots=fitted.num_cut_shots,
    )


def sample_run(
    examinee: Examinee,
    loaded: LoadedTask,
    sampling: Sampling,
    *,
    checkpoint: Path,
    generator: str,
    num_samples: int,
    seed: int,
    group_samples: int,
    shard: Shard = WHOLE,
) -> SampleRun:
    """The run's config, with the digests of what it reads.

    Raises:
        UserError: no samples, or many samples at temperature 0, which would all be the same.
    """
    if num_samples < 1:
        raise UserError(f"samples={num_samples} must be at least 1")
    if num_samples > 1 and sampling.temperature == 0.0:
        raise UserError(
            f"temperature=0 makes all {num_samples} samples of a problem the same; ask for one "
            "sample, or a temperature above 0"
        )
    return SampleRun(
        task=loaded.task.name,
        version=loaded.task.version,
        style=loaded.style,
        num_shots=loaded.num_shots,
        data_digest=loaded.data_digest,
        checkpoint=file_digest(checkpoint / "model.safetensors"),
        tokenizer=file_digest(examinee.tokenizer.path),
        generator=generator,
        sampling=sampling,
        num_samples=num_samples,
        seed=seed,
        context_start=examinee.context_start,
        group_samples=group_samples,
        shard=shard,
    )
