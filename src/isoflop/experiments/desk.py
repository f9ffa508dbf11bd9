"""Do memory and reasoning want different sparsity? Small enough for a desk, with seeds.

Why these choices (trials in docs/log.md): skills come in sudden steps, at times
that depend on the seed. Facts stated by a power law, first and last names from
words of their own, problems of one length, and weights drawn wider than the
study's 0.02 bring the steps early in every run, so that the end of a run
measures what the model holds and not when its step came. Few different
problems, repeated, let a model learn them by heart instead of the rule.
"""

from isoflop.corpus.config import ArithmeticProbe, Corpus, PhoneBookProbe
from isoflop.evaluate.config import EvaluateConfig
from isoflop.experiments.family import small_family
from isoflop.sweep.config import Experiment
from isoflop.tokens.config import TokenizerConfig
from isoflop.train.config import TrainConfig

SMALL_INIT_STD = 0.088
"""0.5 / sqrt(32): about as wide against the width as 0.02 is at the study's d = 512 to 1024."""

PEAK_LEARNING_RATE = 6e-3
"""Higher than the study's 4e-4, whose models are 16 to 64 times wider. Chosen from few trials."""


FACTS = PhoneBookProbe(
    share=0.6,
    num_facts=12_000,
    num_words=160,
    place_words="own",
    num_symbols=256,
    num_digits=1,
    separator="",
    zipf_exponent=1.0,
    zipf_offset=10.0,
    num_statements=120_000,
    num_items=512,
)
"""12,000 facts of 8 bits: more than the dense model holds."""

PROBLEMS = ArithmeticProbe(
    share=0.4,
    form="running_sums",
    operations="+",
    modulus=7,
    min_steps=3,
    max_steps=3,
    num_problems=160,
    num_items=512,
)
"""160 of the 2,401 problems of four terms: where the rule is found, but not by all runs."""


def desk() -> Experiment:
    """Six sparsities from dense to 31/32 and one other k, five seeds each."""
    return small_family(
        name="desk",
        summary="do memory and reasoning want different sparsity? 7 cells x 5 seeds, an hour on 2 cores",
        corpus=Corpus(sources=(FACTS, PROBLEMS)),
        tokenizer=TokenizerConfig(vocabulary_size=896),
        train=TrainConfig(
            train_tokens=8_000_000,
            batch_sequences=32,
            sequence_length=64,
            peak_learning_rate=PEAK_LEARNING_RATE,
            warmup_steps=200,
            log_steps=100,
            num_checkpoints=8,
        ),
        evaluate=EvaluateConfig(max_items=512, max_items_between=256, max_new_tokens=24),
        num_experts=(2, 4, 8, 16, 32, 64),
        finer=16,
        init_std=SMALL_INIT_STD,
        seeds=(0, 1, 2, 3, 4),
    )
