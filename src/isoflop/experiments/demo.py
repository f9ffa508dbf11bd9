"""The whole chain in a few minutes: seven small models on real code and two probes."""

from dataclasses import replace

from isoflop.corpus.config import Corpus, StdlibSource
from isoflop.corpus.filters.config import FilterConfig
from isoflop.evaluate.config import EvaluateConfig
from isoflop.experiments.desk import FACTS, PEAK_LEARNING_RATE, PROBLEMS, SMALL_INIT_STD
from isoflop.experiments.family import small_family
from isoflop.sweep.config import Experiment
from isoflop.tokens.config import TokenizerConfig
from isoflop.train.config import TrainConfig


def demo() -> Experiment:
    """Five sparse numbers of experts, a dense model and another k, all of the same active parameters.

    One seed and few tokens: it shows that the chain works and what comes out of
    it. The experiment that can tell sparsities apart is `desk`.
    """
    return small_family(
        name="demo",
        summary="the whole chain on real code and two probes: 7 cells, minutes on 2 cores",
        corpus=Corpus(
            sources=(
                StdlibSource(share=0.2, max_bytes=1_000_000, filters=FilterConfig()),
                replace(
                    FACTS,
                    share=0.4,
                    num_facts=3000,
                    num_words=96,
                    num_symbols=64,
                    num_statements=30_000,
                    num_items=256,
                ),
                replace(PROBLEMS, share=0.4, num_items=256),
            )
        ),
        tokenizer=TokenizerConfig(vocabulary_size=768),
        train=TrainConfig(
            train_tokens=2_000_000,
            batch_sequences=32,
            sequence_length=64,
            peak_learning_rate=PEAK_LEARNING_RATE,
            warmup_steps=100,
            num_checkpoints=4,
        ),
        evaluate=EvaluateConfig(max_items=256, max_items_between=128, max_new_tokens=16),
        num_experts=(2, 4, 8, 16, 32, 64),
        finer=16,
        init_std=SMALL_INIT_STD,
    )
