"""AdamW, its schedule, and which weights decay.

Source: arXiv:2508.18672, launch scripts: linear warm-up, cosine to a tenth,
decay on matrices only (Megatron-LM leaves one-dimensional weights out).
"""

import math

import torch
from torch import nn

from isoflop.train.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of step 1 to num_steps: linear up to the peak, then a cosine to its end.

    >>> config = TrainConfig(train_tokens=100, batch_sequences=1, sequence_length=1, warmup_steps=10,
    ...     peak_learning_rate=1.0)
    >>> [round(learning_rate(step, config), 3) for step in (1, 10, 55, 100)]
    [0.1, 1.0, 0.55, 0.1]
    """
    peak = config.peak_learning_rate
    if step <= config.warmup_steps:
        return peak * step / config.warmup_steps
    end = peak * config.final_learning_rate_share
    progress = (step - config.warmup_steps) / (config.num_steps - config.warmup_steps)
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all weights; matrices decay, norms do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.peak_learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
