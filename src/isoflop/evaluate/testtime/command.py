"""`isoflop sample`: a checkpoint sampled at every combination of a sweep's values."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from isoflop.config import UserError
from isoflop.evaluate.config import EvaluateConfig
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.ours import OurGenerator
from isoflop.evaluate.sampling.samples import Generator
from isoflop.evaluate.tasks.ask import Examinee
from isoflop.evaluate.tasks.load import load_task
from isoflop.evaluate.tasks.problem import LoadedTask, Style
from isoflop.evaluate.testtime.samples import Shard, draw_samples, sample_run
from isoflop.model.checkpoint import load_checkpoint
from isoflop.model.transformer import Transformer
from isoflop.sandbox import Sandbox
from isoflop.terminal import show_count
from isoflop.tokens.tokenizer import Tokenizer

PLACES = 128
"""Samples decoded together, and of a group at least: the papers' number of samples a problem."""

Engine = Literal["isoflop", "vllm"]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to sample; a tuple of several values is one run for each."""

    task: str
    data: Path | None = None
    style: Style | None = None
    shots: tuple[int, ...] = (0,)
    """Zero-shot by default, as arXiv:2508.18672, appendix C.2."""
    shots_data: Path | None = None
    shots_seed: int | None = None
    limit: int | None = None
    num_samples: int = 128
    temperature: tuple[float, ...] = (0.6,)
    """With `top_p`, the settings of arXiv:2508.18672, released test-time-compute code."""
    top_p: float = 0.95
    top_k: int | None = None
    max_new_tokens: tuple[int, ...] = (1024,)
    experts_per_token: tuple[int | None, ...] = (None,)
    seed: int = 0
    shard: Shard
    engine: Engine = "isoflop"


def sample_checkpoint(
    checkpoint: Path, tokenizer: Tokenizer, sweep: Sweep, *, out: Path, device: str = "cpu"
) -> list[Path]:
    """A folder of samples for each combination, in the order of the sweep's values.

    Raises:
        UserError: no checkpoint there, unusable data, or see `draw_samples`.
    """
    model = load_checkpoint(checkpoint, device=device)
    folders = []
    with ExitStack() as stack:
        name, generator = _generator(stack, checkpoint, model, tokenizer, sweep.engine)
        for loaded, sampling in combinations(sweep):
            runs_code = loaded.task.scorer in ("program", "output")
            examinee = Examinee(
                model=model,
                tokenizer=tokenizer,
                generator=generator,
                sandbox=stack.enter_context(Sandbox()) if runs_code else None,
                context_start=EvaluateConfig().context_start,
                batch_items=EvaluateConfig().batch_items,
            )
            run = sample_run(
                examinee,
                loaded,
                sampling,
                checkpoint=checkpoint,
                generator=name,
                num_samples=sweep.num_samples,
                seed=sweep.seed,
                group_samples=PLACES,
                shard=sweep.shard,
            )
            folders.append(
                draw_samples(
                    examinee,
                    loaded,
                    run,
                    out=out,
                    progress=partial(show_count, unit="problems"),
                    device=device,
                )
            )
    return folders


def combinations(sweep: Sweep) -> Iterator[tuple[LoadedTask, Sampling]]:
    """Each task with its shots, and each way to draw from it.

    Raises:
        UserError: unusable data, or a value that is not allowed.
    """
    for shots in sweep.shots:
        loaded = load_task(
            sweep.task,
            data=sweep.data,
            style=sweep.style,
            shots=shots,
            shots_data=sweep.shots_data,
            shots_seed=sweep.shots_seed,
            limit=sweep.limit,
        )
        for temperature, tokens, experts in itertools.product(
            sweep.temperature, sweep.max_new_tokens, sweep.experts_per_token
        ):
            yield (
                loaded,
                replace(
                    loaded.task.sampling,
                    max_new_tokens=tokens,
                    temperature=temperature,
                    top_p=1.0 if temperature == 0.0 else sweep.top_p,
                    top_k=None if temperature == 0.0 else sweep.top_k,
                    experts_per_token=experts,
                ),
            )


def _generator(
    stack: ExitStack, checkpoint: Path, model: Transformer, tokenizer: Tokenizer, engine: Engine
) -> tuple[str, Generator]:
    """The engine's name, as the rows' folder records it, and the engine."""
    if engine == "isoflop":
        return "isoflop", OurGenerator(model, tokenizer, batch_sequences=PLACES)
    from isoflop.evaluate.sampling.vllm import VllmGenerator

    generator = stack.enter_context(VllmGenerator.of_checkpoint(checkpoint, tokenizer))
    return generator.name, generator


def parse_shard(text: str) -> Shard:
    """A share written I/N.

    Raises:
        UserError: it is not written so, or I is not within 1 to N.
    """
    place, slash, of = text.partition("/")
    if not (slash and place.isdecimal() and of.isdecimal()):
        raise UserError(f"--shard {text!r} must have the form I/N, e.g. 2/8")
    return Shard(place=int(place), of=int(of))
