"""The grid of the optimal-sparsity study: 65 models of three widths.

Source: arXiv:2508.18672, section 3.1, and the launch scripts released with its
65 checkpoints.
"""

from isoflop.corpus.config import Corpus, TextSource
from isoflop.design.family import Cell, grid
from isoflop.evaluate.config import EvaluateConfig
from isoflop.model.config import ModelConfig
from isoflop.sweep.config import Experiment
from isoflop.tokens.config import TokenizerConfig
from isoflop.train.config import TrainConfig

SEQUENCE_LENGTH = 4096
BATCH_SEQUENCES = 1024
"""Sequences of one optimiser step: 4,194,304 tokens."""
MICRO_BATCH_SEQUENCES = 8
"""Sequences on one GPU at once in three of the five launch scripts read; 1 to 16 in the others."""
NUM_STEPS = 29_803
TRAIN_TOKENS = NUM_STEPS * BATCH_SEQUENCES * SEQUENCE_LENGTH
"""125,002,842,112: the study's "125 B"."""
VOCABULARY_SIZE = 99_584
"""99,487 tokens of the llm-jp v3.0 tokenizer, padded to a multiple of 128."""
NUM_LAYERS = 16
NUM_CHECKPOINTS = 60
"""One about every 500 steps, as the launch scripts save them."""
MEGATRON_SEED = 1234
"""Megatron-LM's default; the study has one seed a cell."""
TOP_KS = (2, 4, 8, 16)
EXPERTS_BY_WIDTH = {
    512: (8, 16, 32, 64, 128, 256),
    1024: (8, 16, 32, 64, 128, 256),
    2048: (8, 16, 32, 64, 128),
}
"""Numbers of experts trained at each width; 256 at the largest width were not trained."""

CORPUS_WEIGHTS = {
    "dclm-dedup": 67_615.9,
    "pes2o": 62_853.8,
    "arxiv": 22_219.5,
    "flan-decontaminated": 18_485.5,
    "open-web-math": 13_395.3,
    "algebraic-stack": 13_280.2,
    "finemath-4plus": 10_335.6,
    "mathpile-commercial": 9_176.5,
    "tinygsm-mind": 6_944.3,
    "dolma-books": 5_494.3,
    "open-math-instruct-2": 5_168.6,
    "wikipedia-llm-jp": 4_744.3,
    "mathcoder2-synthetic": 4_098.2,
    "wikipedia-wikibooks": 3_897.0,
    "stackexchange": 1_464.8,
    "stackmathqa": 1_070.0,
    "natural-reasoning": 1_022.2,
    "numinamath-cot": 446.4,
    "open-math-instruct-1": 340.2,
    "tulu-math": 250.4,
    "metamath": 85.4,
    "orca-math": 67.7,
    "dolmino-synthmath": 31.7,
    "web-instruct-full": 29.7,
    "gsm8k-train-dolmino": 2.84,
    "gsm8k-train-openai": 2.78,
    "code-search-net": 2.17,
}
"""Millions of tokens available from each source: its weight in the mixture (launch scripts).
The run reads half of them, so nothing is repeated."""


def paper() -> Experiment:
    """The study's grid with its corpus and recipe, one seed a cell.

    It plans on any machine. To run it, put each source at
    ``corpus/<source>.jsonl.gz`` and the tokenizer at ``corpus/tokenizer.json``.
    """
    return Experiment(
        name="paper",
        summary="the 65 cells of arXiv:2508.18672 on 125 B tokens; plan it here, run it on a cluster",
        corpus=Corpus(
            sources=tuple(
                TextSource(name=name, path=f"corpus/{name}.jsonl.gz", share=weight)
                for name, weight in CORPUS_WEIGHTS.items()
            )
        ),
        tokenizer=TokenizerConfig(path="corpus/tokenizer.json", end_of_text="</s>"),
        cells=tuple(paper_cells()),
        train=TrainConfig(
            train_tokens=TRAIN_TOKENS,
            batch_sequences=BATCH_SEQUENCES,
            sequence_length=SEQUENCE_LENGTH,
            micro_batch_sequences=MICRO_BATCH_SEQUENCES,
            precision="bfloat16",
            balance_scope="micro",
            num_checkpoints=NUM_CHECKPOINTS,
        ),
        evaluate=EvaluateConfig(),
        seeds=(MEGATRON_SEED,),
        active_tolerance=None,
    )


def paper_cells() -> list[Cell]:
    """The 65 cells, by width, then k, then E: each run of equal width and k shares its FLOPs."""
    cells: list[Cell] = []
    for d_model, num_experts in EXPERTS_BY_WIDTH.items():
        cells += grid(_base(), d_models=(d_model,), num_experts=num_experts, top_ks=TOP_KS)
    return sorted(cells, key=lambda c: (c.model.d_model, c.model.top_k, c.model.num_experts))


def _base() -> ModelConfig:
    """The smallest cell, from which the grid is varied."""
    return ModelConfig(
        vocabulary_size=VOCABULARY_SIZE,
        num_layers=NUM_LAYERS,
        d_model=512,
        num_heads=4,
        d_expert=1024,
        num_experts=8,
        top_k=2,
        sequence_length=SEQUENCE_LENGTH,
    )
