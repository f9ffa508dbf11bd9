"""Choose how a run is computed, once; a resumed run goes on in the same way.

Ways to compute differ by rounding alone, but after a thousand steps that is another model, so
the choice is a row of the run: `<folder>/engine.jsonl`.
"""

import time
from pathlib import Path
from typing import cast, get_args

import torch

from isoflop.config import UserError
from isoflop.model.config import ModelConfig
from isoflop.model.moe import ExpertsImplementation
from isoflop.model.ops import OpsImplementation, select_ops
from isoflop.model.ops.build import kernels_digest
from isoflop.model.transformer import DTYPES, Transformer
from isoflop.records import EngineRow, read_rows, write_rows
from isoflop.train.config import TrainConfig
from isoflop.train.optim import make_optimizer
from isoflop.train.step import train_step

ENGINE_FILE = "engine.jsonl"

TIMED = ("grouped", "padded")
"""Ways that "auto" chooses from; the loop is a definition, not a competitor."""

TIMED_STEPS = 4
"""Steps timed of each way, after one that is not; chosen, seconds at most for a model of this
machine's size."""


def build_model(
    model: ModelConfig, config: TrainConfig, engine: EngineRow, seed: int
) -> Transformer:
    """The model as `engine` computes it, with weights from `seed`."""
    assert engine.experts in get_args(ExpertsImplementation), engine.experts
    assert engine.ops in get_args(OpsImplementation), engine.ops
    return Transformer(
        model,
        seed=seed,
        compute_dtype=DTYPES[config.precision],
        experts=cast(ExpertsImplementation, engine.experts),
        ops=cast(OpsImplementation, engine.ops),
        recompute=config.recompute,
    )


def choose_engine(model: ModelConfig, config: TrainConfig, device: str) -> EngineRow:
    """What the config asks for, with "auto" decided on this machine."""
    if device != "cpu" and config.ops == "native":
        raise UserError(f"ops='native' computes on a CPU, and device={device!r}; use ops='auto'")
    # Compiled kernels would hand everything on to PyTorch there.
    ops = select_ops(config.ops).name if device == "cpu" else "torch"
    kernels = kernels_digest() if ops == "native" else None
    if config.experts != "auto":
        return EngineRow(ops=ops, kernels=kernels, experts=config.experts, timed=None)
    timed = []
    for experts in TIMED:
        engine = EngineRow(ops=ops, kernels=kernels, experts=experts, timed=None)
        try:
            timed.append((experts, _seconds_per_step(model, config, engine, device)))
        except UserError:
            continue  # A width that this way does not take.
    fastest = min(timed, key=lambda one: one[1])[0]
    return EngineRow(ops=ops, kernels=kernels, experts=fastest, timed=tuple(timed))


def settle_engine(folder: Path, model: ModelConfig, config: TrainConfig, device: str) -> EngineRow:
    """The row of the run in `folder`, chosen and written at its first start.

    Raises:
        UserError: the run began with compiled kernels that are not those of now: another compiler,
            processor or version.
    """
    path = folder / ENGINE_FILE
    if not path.exists():
        write_rows(path, [choose_engine(model, config, device)])
    (engine,) = read_rows(path, EngineRow)
    if engine.ops == "native":
        remedy = f"go on where it began, or delete {folder} to begin again"
        try:
            select_ops("native")
        except UserError as error:
            raise UserError(f"{path}: this run began with compiled kernels, but {error}") from None
        if kernels_digest() != engine.kernels:
            raise UserError(
                f"{path}: this run began with kernels {engine.kernels}, here they are "
                f"{kernels_digest()} (another processor, compiler or version), which round "
                f"otherwise; {remedy}"
            )
    return engine


def _seconds_per_step(
    model: ModelConfig, config: TrainConfig, engine: EngineRow, device: str
) -> float:
    """The fastest of a few steps on random tokens, one micro-batch each."""
    built = build_model(model, config, engine, seed=0).to(device)
    optimizer = make_optimizer(built, config)
    sequences = config.micro_batch_sequences or config.batch_sequences
    size = (sequences, config.sequence_length + 1)
    seconds = []
    for step in range(1 + TIMED_STEPS):
        # New tokens each time, as in training: experts' numbers of rows change.
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(model.vocabulary_size, size, generator=generator).to(device)
        begun = time.perf_counter()
        train_step(built, optimizer, config, tokens)
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])
