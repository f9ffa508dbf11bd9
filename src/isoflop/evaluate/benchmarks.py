"""Benchmarks asked of every checkpoint of a study, as rows like those of its own probes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isoflop.evaluate.config import Benchmark, EvaluateConfig
from isoflop.evaluate.sampling.ours import OurGenerator
from isoflop.evaluate.statistics import mean_and_error
from isoflop.evaluate.tasks.ask import BATCH_SEQUENCES, Examinee
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.problem import LoadedTask
from isoflop.evaluate.tasks.results import TaskItemRow, TaskScoreRow
from isoflop.evaluate.tasks.run import run_task
from isoflop.model.transformer import Transformer
from isoflop.records import ScoreRow, read_rows
from isoflop.sandbox import Sandbox
from isoflop.tokens.tokenizer import Tokenizer

SPLIT = "test"
"""Of a benchmark's rows: nothing says whether the training text holds them."""


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark with its problems read, as the last checkpoint and as the others are asked."""

    config: Benchmark
    whole: LoadedTask
    between: LoadedTask


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which checkpoint is asked, and where its rows go."""

    checkpoint: Path
    step: int
    tokens: int
    """Read by pre-training up to there."""
    out: Path
    device: str = "cpu"


def load_benchmarks(config: EvaluateConfig) -> list[LoadedBenchmark]:
    """Read the problems of all benchmarks.

    Raises:
        UserError: unusable data; the file is named.
    """
    return [
        LoadedBenchmark(one, _load(one, one.max_items), _load(one, one.max_items_between))
        for one in config.benchmarks
    ]


def _load(benchmark: Benchmark, limit: int | None) -> LoadedTask:
    return load_task(
        benchmark.task,
        data=Path(benchmark.data),
        style=benchmark.style,
        shots=benchmark.shots,
        shots_data=None if benchmark.shots_data is None else Path(benchmark.shots_data),
        limit=limit,
    )


def ask_benchmarks(
    benchmarks: Sequence[LoadedBenchmark],
    model: Transformer,
    tokenizer: Tokenizer,
    config: EvaluateConfig,
    place: Place,
    *,
    last: bool,
) -> list[ScoreRow]:
    """A score row for each benchmark; the rows of its problems lie under `place.out`/benchmarks.

    Raises:
        UserError: see `isoflop.evaluate.tasks.ask.ask`.
    """
    rows = []
    for benchmark in benchmarks:
        loaded = benchmark.whole if last else benchmark.between
        sampling = loaded.task.sampling
        if benchmark.config.max_new_tokens is not None:
            sampling = replace(sampling, max_new_tokens=benchmark.config.max_new_tokens)
        runs_code = benchmark.config.generate and loaded.task.scorer in ("program", "output")
        generator = OurGenerator(model, tokenizer, batch_sequences=BATCH_SEQUENCES)
        sandbox = Sandbox() if runs_code else None
        examinee = Examinee(
            model=model,
            tokenizer=tokenizer,
            generator=generator if benchmark.config.generate else None,
            sandbox=sandbox,
            context_start=config.context_start,
            batch_items=config.batch_items,
        )
        try:
            score, folder = run_task(
                examinee,
                loaded,
                sampling,
                checkpoint=place.checkpoint,
                out=place.out / "benchmarks" / place.checkpoint.name,
                progress=lambda done, total: None,
                device=place.device,
            )
        finally:
            if sandbox is not None:
                sandbox.close()
        assert folder is not None
        items = list(read_rows(folder / "items.jsonl", TaskItemRow))
        rows.append(score_row_of(score, items, step=place.step, tokens=place.tokens))
    return rows


def score_row_of(
    score: TaskScoreRow, items: Sequence[TaskItemRow], *, step: int, tokens: int
) -> ScoreRow:
    """A benchmark's score in the form in which a study's ledger joins scores."""
    bits = [item.bits for item in items if item.bits is not None and not item.not_finite]
    return ScoreRow(
        step=step,
        tokens=tokens,
        task=score.task,
        split=SPLIT,
        num_items=score.num_items,
        num_scored=score.num_scored,
        num_ungradable=score.num_ungradable,
        accuracy=score.accuracy,
        accuracy_standard_error=score.accuracy_standard_error,
        bits_per_byte=score.bits_per_byte,
        bits_per_byte_standard_error=score.bits_per_byte_standard_error,
        bits_per_token=score.bits_per_token,
        bits_per_token_standard_error=score.bits_per_token_standard_error,
        answer_bits=mean_and_error(bits)[0],
        answer_probability=mean_and_error([2.0**-one for one in bits])[0],
        num_joined=score.num_joined,
        num_not_finite=score.num_not_finite,
    )
