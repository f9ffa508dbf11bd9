"""A small training run of ours, in one go and killed in the middle: do both leave the same bytes?"""

from pathlib import Path

import numpy as np
import torch

from isoflop.model.config import ModelConfig
from isoflop.tokens.batches import Mixture
from isoflop.tokens.shards import Shard, write_shard
from isoflop.train.config import TrainConfig
from isoflop.train.loop import TrainingRun, ValidationSet, train_run
from isoflop.train.state import forget_state

STEPS = 5
KILLED_AFTER = 3
BATCH = 4
POSITIONS = 16
DOCUMENTS = 64
"""Of the shard that the run reads; more than the run needs, so that it repeats nothing."""


class _KilledError(Exception):
    """Stands for the end of the process."""


def resume_differences(
    config: ModelConfig, folder: Path, seed: int, device: str
) -> tuple[int, str]:
    """Files of rows and weights that differ, and what was compared."""
    whole, stopped = folder / "whole", folder / "stopped"
    whole.mkdir()
    stopped.mkdir()
    run = _run(config, folder, seed, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        train_run(run, whole, lambda *_: None)
        torch.manual_seed(seed)
        try:
            train_run(run, stopped, _kill)
        except _KilledError:
            # Another global state than before the kill: what depends on it will show.
            torch.manual_seed(seed + 1)
            train_run(run, stopped, lambda *_: None)
    for done in (whole, stopped):
        forget_state(done)
    first, second = _results(whole), _results(stopped)
    changed = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
    what = (
        f"{len(first)} files of rows and checkpoints after {STEPS} steps from fresh weights, killed "
        f"after step {KILLED_AFTER}; weights, optimiser, data position and rows"
    )
    return len(changed), what


def _kill(done: int, total: int, speed: float) -> None:
    if done >= KILLED_AFTER:
        raise _KilledError


def _run(config: ModelConfig, folder: Path, seed: int, device: str) -> TrainingRun:
    positions = min(POSITIONS, config.sequence_length)
    train = TrainConfig(
        train_tokens=STEPS * BATCH * positions,
        batch_sequences=BATCH,
        sequence_length=positions,
        micro_batch_sequences=BATCH // 2,
        warmup_steps=2,
        log_steps=1,
        num_checkpoints=2,
        resume_seconds=0.0,
        validation_sequences=2,
        experts="padded",
    )
    generator = np.random.default_rng(seed)
    lengths = [positions + 1] * DOCUMENTS
    documents = [generator.integers(0, config.vocabulary_size, n).tolist() for n in lengths]
    ids = [f"document-{number}" for number in range(DOCUMENTS)]
    write_shard(folder / "probe", iter(documents), config.vocabulary_size, iter(ids))
    shard = Shard(folder / "probe")
    mixture = Mixture(
        shards={"probe": shard},
        shares=(1.0,),
        seed=seed,
        batch_sequences=BATCH,
        sequence_length=positions,
    )
    return TrainingRun(
        model=config,
        train=train,
        mixture=mixture,
        validation={("probe", "validation"): ValidationSet.of(shard, train)},
        seed=seed,
        digest="doctor",
        device=device,
    )


def _results(folder: Path) -> dict[str, bytes]:
    """Every file but the times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timings.jsonl"
    }
