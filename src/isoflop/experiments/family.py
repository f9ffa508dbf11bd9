"""A small study from a few choices: the ladder of experts at one width, and two controls."""

from collections.abc import Sequence
from dataclasses import replace

from isoflop.corpus.config import Corpus
from isoflop.design.family import (
    Cell,
    sorted_by_total,
    vary_experts,
    vary_top_k_matched,
)
from isoflop.evaluate.config import EvaluateConfig
from isoflop.model.config import ModelConfig
from isoflop.sweep.config import Experiment
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import padded_vocabulary_size
from isoflop.train.config import TrainConfig

SMALL_HEAD_WIDTH = 16
"""Width of an attention head in small models; at width 32 two heads learn what one cannot. Chosen."""


def ladder(
    base: ModelConfig, num_experts: Sequence[int], *, finer: int | None = None
) -> list[Cell]:
    """Cells that differ in E alone, all with the active parameters of `base`.

    E = k is the dense model. With `finer`, one more cell has twice as many
    experts as that E, half as wide, and twice the k: total and active parameters
    are those of E = `finer`, and only k differs (the router apart).
    """
    cells = vary_experts(base, num_experts)
    if finer is not None:
        many = replace(base, num_experts=2 * finer)
        cells += vary_top_k_matched(many, (2 * base.top_k,))
    models = [cell.model for cell in cells]
    return sorted_by_total(Cell(name=f"E{m.num_experts}-k{m.top_k}", model=m) for m in models)


def small_family(
    *,
    name: str,
    summary: str,
    corpus: Corpus,
    train: TrainConfig,
    tokenizer: TokenizerConfig | None = None,
    evaluate: EvaluateConfig | None = None,
    num_experts: Sequence[int] = (2, 4, 8, 16, 32),
    top_k: int = 2,
    finer: int | None = None,
    d_model: int = 32,
    num_layers: int = 2,
    init_std: float = 0.02,
    seeds: Sequence[int] = (0,),
) -> Experiment:
    """An experiment over numbers of experts at one width, everything else held fixed."""
    tokenizer = tokenizer or TokenizerConfig()
    base = ModelConfig(
        vocabulary_size=padded_vocabulary_size(tokenizer),
        num_layers=num_layers,
        d_model=d_model,
        num_heads=max(1, d_model // SMALL_HEAD_WIDTH),
        d_expert=2 * d_model,
        num_experts=top_k,
        top_k=top_k,
        sequence_length=train.sequence_length,
        init_std=init_std,
    )
    return Experiment(
        name=name,
        summary=summary,
        corpus=corpus,
        tokenizer=tokenizer,
        cells=tuple(ladder(base, num_experts, finer=finer)),
        train=train,
        evaluate=evaluate or EvaluateConfig(),
        seeds=tuple(seeds),
    )
