"""GRPO on every cell of a small family: two learning rates, before and after, votes among samples."""

from dataclasses import replace

from isoflop.corpus.config import Corpus
from isoflop.evaluate.config import EvaluateConfig, Samples
from isoflop.experiments.desk import PEAK_LEARNING_RATE, PROBLEMS, SMALL_INIT_STD
from isoflop.experiments.family import small_family
from isoflop.posttrain.config import GrpoConfig, ProblemSource, grpo_sweep
from isoflop.sweep.config import Experiment
from isoflop.tokens.config import TokenizerConfig
from isoflop.train.config import TrainConfig

ASKED = ProblemSource(task="probes_seen", source=PROBLEMS.name, prompt="{question}")
"""Rewarded on the problems that pre-training read; scores on the others say what carries over."""

LEARNING_RATES = (1e-4, 1e-3)
"""20 and 200 times the study's 5e-6: these models are 16 to 64 times narrower. Chosen."""

NEW_TOKENS = 16
"""Of an answer: a gold one has fewer."""


def demo_grpo() -> Experiment:
    """Three sparsities, pre-trained until they solve some problems, then rewarded for right answers."""
    settings = GrpoConfig(
        train=ASKED,
        reward="answer",
        num_steps=30,
        prompts_per_step=32,
        mini_batch_prompts=32,
        samples_per_prompt=8,
        micro_batch_answers=256,
        max_response_tokens=NEW_TOKENS,
        checkpoint_steps=10,
    )
    family = small_family(
        name="demo-grpo",
        summary="GRPO on 3 cells at two learning rates, before and after: minutes on 2 cores",
        corpus=Corpus(sources=(PROBLEMS,)),
        tokenizer=TokenizerConfig(vocabulary_size=384),
        train=TrainConfig(
            train_tokens=1_000_000,
            batch_sequences=32,
            sequence_length=64,
            peak_learning_rate=PEAK_LEARNING_RATE,
            warmup_steps=50,
            num_checkpoints=2,
        ),
        evaluate=EvaluateConfig(
            max_items=256,
            max_items_between=128,
            max_new_tokens=NEW_TOKENS,
            samples=(
                Samples(
                    task="probes_held_out", num_samples=8, max_new_tokens=NEW_TOKENS, max_items=128
                ),
            ),
        ),
        num_experts=(2, 8, 32),
        init_std=SMALL_INIT_STD,
    )
    return replace(family, grpo=grpo_sweep(settings, learning_rates=LEARNING_RATES))
