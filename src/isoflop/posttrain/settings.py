"""The choices that GRPO's functions offer, by name; no torch, so that configs can be read without it."""

from typing import Literal

AdvantageScale = Literal["group_std", "none"]
"""By what an answer's advantage over its group is divided."""

Divergence = Literal["k1", "k2", "k3"]
"""How the divergence from the reference is estimated from one token."""

Aggregation = Literal["token_mean", "sequence_mean", "constant"]
"""How tokens' losses become one number, see `isoflop.posttrain.grpo.aggregate`."""

MAX_REWARD = 1e15
"""Largest size of a reward: sums of squares of larger ones overflow in float32, and an advantage that is not
divided is a float32 number. Chosen."""
