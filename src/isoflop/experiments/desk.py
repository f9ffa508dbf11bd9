"""PLACEHOLDER"""

from isoflop.corpus.config import ArithmeticProbe, Corpus, PhoneBookProbe, StdlibSource
from isoflop.evaluate.config import EvaluateConfig
from isoflop.experiments.family import small_family
from isoflop.sweep.config import Experiment
from isoflop.tokens.config import TokenizerConfig
from isoflop.train.config import TrainConfig


def desk() -> Experiment:
    """Five numbers of experts, a dense model and another k, all of the same active parameters."""
    return small_family(
        name="desk",
        summary="the whole chain at toy scale: 7 cells, minutes on 2 cores",
        corpus=Corpus(
            sources=(
                StdlibSource(share=0.2, max_bytes=2_000_000),
                PhoneBookProbe(share=0.4, num_facts=4000, num_statements=4000, num_items=256),
                ArithmeticProbe(share=0.4, num_problems=500, num_items=256),
            )
        ),
        tokenizer=TokenizerConfig(vocabulary_size=768),
        train=TrainConfig(
            train_tokens=2_000_000,
            batch_sequences=16,
            sequence_length=64,
            peak_learning_rate=6e-3,
            warmup_steps=100,
            num_checkpoints=4,
        ),
        evaluate=EvaluateConfig(max_items=256, max_items_between=128, max_new_tokens=40),
        num_experts=(2, 4, 8, 16, 32, 64),
        finer=16,
        init_std=0.088,
    )
