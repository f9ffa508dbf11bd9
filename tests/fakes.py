"""Tiny real objects for tests: nothing here stands in for the code under test."""

from pathlib import Path

import numpy as np

from isoflop.corpus.config import ArithmeticProbe, Corpus, PhoneBookProbe, TextSource
from isoflop.design.family import Cell
from isoflop.evaluate.config import EvaluateConfig
from isoflop.model.config import ModelConfig
from isoflop.posttrain.config import GrpoConfig, ProblemSource, grpo_sweep
from isoflop.sweep.config import Experiment
from isoflop.tokens.batches import Mixture
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.shards import Shard, write_shard
from isoflop.train.config import TrainConfig
from isoflop.train.loop import TrainingRun, ValidationSet

VOCABULARY_SIZE = 288


def tiny_model(**changes: object) -> ModelConfig:
    """A model of about 15,000 parameters."""
    fields: dict[str, object] = {
        "vocabulary_size": VOCABULARY_SIZE,
        "num_layers": 1,
        "d_model": 16,
        "num_heads": 1,
        "d_expert": 32,
        "num_experts": 4,
        "top_k": 2,
        "sequence_length": 32,
        "init_std": 0.1,
    }
    return ModelConfig(**{**fields, **changes})  # type: ignore[arg-type]


def tiny_train(**changes: object) -> TrainConfig:
    """Twenty steps of 8 x 32 tokens; a state is saved after every training row."""
    fields: dict[str, object] = {
        "train_tokens": 20 * 8 * 32,
        "batch_sequences": 8,
        "sequence_length": 32,
        "peak_learning_rate": 1e-2,
        "warmup_steps": 4,
        "log_steps": 3,
        "num_checkpoints": 2,
        "resume_seconds": 0.0,
        "validation_sequences": 4,
    }
    return TrainConfig(**{**fields, **changes})  # type: ignore[arg-type]


def tiny_experiment(folder: Path, **changes: object) -> Experiment:
    """Two cells, E=2 and E=4, on two probes and a folder of text that is written to `folder`."""
    texts = folder / "texts"
    texts.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        words = " ".join(f"word{number * place % 17}" for place in range(40))
        (texts / f"note-{number:02d}.txt").write_text(f"note {number}: {words}\n", encoding="utf-8")
    fields: dict[str, object] = {
        "name": "tiny",
        "summary": "two cells for tests",
        "corpus": Corpus(
            sources=(
                PhoneBookProbe(num_facts=20, num_statements=80, num_validation=20, num_items=8),
                ArithmeticProbe(
                    form="running_sums",
                    operations="+",
                    max_steps=3,
                    num_problems=60,
                    num_validation=20,
                    num_items=8,
                ),
                TextSource(name="notes", path=str(texts), validation_share=0.25, max_epochs=None),
            )
        ),
        "tokenizer": TokenizerConfig(vocabulary_size=VOCABULARY_SIZE, pad_to_multiple=32),
        "cells": tuple(Cell(name=f"E{e}-k2", model=tiny_model(num_experts=e)) for e in (2, 4)),
        "train": tiny_train(),
        "evaluate": EvaluateConfig(max_items=8, max_items_between=4, max_new_tokens=8),
    }
    return Experiment(**{**fields, **changes})  # type: ignore[arg-type]


def tiny_grpo(**changes: object) -> tuple[GrpoConfig, ...]:
    """Two steps at two learning rates on the questions of the reasoning probe that were read."""
    source = ProblemSource(task="probes_seen", source="reasoning", prompt="{question}")
    fields: dict[str, object] = {
        "train": source,
        "reward": "answer",
        "num_steps": 2,
        "prompts_per_step": 4,
        "samples_per_prompt": 2,
        "mini_batch_prompts": 4,
        "max_prompt_tokens": 32,
        "max_response_tokens": 6,
        "batch_sequences": 8,
    }
    settings = GrpoConfig(**{**fields, **changes})  # type: ignore[arg-type]
    return grpo_sweep(settings, learning_rates=(1e-4, 1e-3))


def tiny_shard(folder: Path, name: str, seed: int, num_documents: int = 30) -> Shard:
    """A shard of documents that count upwards from a seeded start, so there is a rule to learn."""
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, VOCABULARY_SIZE - 1, num_documents)
    documents = [(start + np.arange(40)) % (VOCABULARY_SIZE - 1) for start in starts.tolist()]
    write_shard(
        folder / name,
        (document.tolist() for document in documents),
        VOCABULARY_SIZE,
        (f"document-{number}" for number in range(num_documents)),
    )
    return Shard(folder / name)


def tiny_run(
    folder: Path,
    train: TrainConfig | None = None,
    model: ModelConfig | None = None,
    seed: int = 3,
    digest: str = "0123abcd",
) -> TrainingRun:
    """A run on two shards that are written to `folder`, validated on both."""
    train, model = train or tiny_train(), model or tiny_model()
    shards = {name: tiny_shard(folder, name, seed) for seed, name in enumerate(("first", "second"))}
    mixture = Mixture(
        shards=shards,
        shares=(3.0, 1.0),
        seed=seed,
        batch_sequences=train.batch_sequences,
        sequence_length=train.sequence_length,
    )
    validation = {
        (name, "validation"): ValidationSet.of(shard, train) for name, shard in shards.items()
    }
    return TrainingRun(
        model=model, train=train, mixture=mixture, validation=validation, seed=seed, digest=digest
    )


def names_in(folder: Path) -> list[str]:
    """Names of all that lies in a folder."""
    return sorted(path.name for path in folder.iterdir())
