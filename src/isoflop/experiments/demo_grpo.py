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

ASKED_ITEMS = 256
"""Questions of each split that every checkpoint is asked; GRPO trains on the others."""

TRAINED = ProblemSource(
    task="probes_held_out",
    source=PROBLEMS.name,
    prompt="{question}",
    skip_problems=ASKED_ITEMS,
)
"""Problems that pre-training never read: those it read it soon knows by heart, and they teach nothing."""

LEARNING_RATES = (1e-4, 1e-3)
"""20 and 200 times the study's 5e-6: these models are 16 to 64 times narrower. Chosen."""

NEW_TOKENS = 16
"""Of an answer: a gold one has fewer."""


def demo_grpo() -> Experiment:
    """Three sparsities, pre-trained until they solve some problems, then rewarded for right answers."""
    settings = GrpoConfig(
        train=TRAINED,
        reward="answer",
        num_steps=60,
        prompts_per_step=32,
        mini_batch_prompts=32,
        samples_per_prompt=8,
        micro_batch_answers=256,
        max_response_tokens=NEW_TOKENS,
        checkpoint_steps=20,
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
            max_items=ASKED_ITEMS,
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
