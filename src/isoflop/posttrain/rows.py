"""Rows of a run of GRPO. What was not measured is None, never 0.

Units: log-probabilities, divergences and entropies in nats a token; times in seconds.
"""

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation"]
"""What a source's problems are for."""


@dataclass(frozen=True, kw_only=True)
class GrpoStepRow:
    """One step: its rollouts and its updates. Written by posttrain."""

    step: int
    num_answers: int
    reward: float
    """Mean over answers."""
    reward_standard_deviation: float
    """Over answers."""
    reward_deviation_within: float
    """Mean over problems of the standard deviation among its answers."""
    share_without_signal: float
    """Of problems whose answers all earned the same: they teach nothing."""
    share_ungradable: float
    share_truncated: float
    """Of answers that reached the longest length allowed."""
    response_tokens: float
    """Mean of an answer, the end of text counted."""
    policy_loss: float
    """Mean over updates of the clipped objective's loss."""
    clip_share: float
    """Of answer tokens whose gradient the clip held back, mean over updates."""
    largest_ratio_deviation: float
    """Of the first update's tokens, the largest |new / old probability - 1| in the loss. 0 by construction
    with old_log_probs "trainer": that update's own are the old ones. What the sampler's were is
    `largest_sampler_deviation`."""
    divergence: float | None
    """From the reference, mean over answer tokens and updates. None: no reference is kept."""
    entropy: float
    """Of the next token's distribution before the updates, mean over answer tokens."""
    gradient_l2_norm: float
    """Mean over updates, before clipping."""
    gradient_l1_norm: float
    update_l2_norm: float
    """Of the change of all weights by the whole step."""
    balance_loss: tuple[float, ...]
    """Of each layer over the answers' micro-batches, prompts included, mean; 1 is even use."""
    z_loss: tuple[float, ...]
    max_expert_load: float
    """Largest share of a layer's tokens that one expert received, in units of even use."""
    sampler_log_prob_difference: float
    """Mean over answer tokens of |sampler's - trainer's log-probability| at equal weights."""
    largest_sampler_deviation: float | None = None
    """Of the step's answer tokens, the largest |sampler's / trainer's probability - 1| at the weights that
    sampled. None: a row of an earlier version."""
    routing_disagreement: float
    """Share of (token, layer), prompts included, for which the trainer's routers would choose other
    experts than the sampler's did, at equal weights."""


@dataclass(frozen=True, kw_only=True)
class GrpoValidationRow:
    """Greedy answers to one source of problems. Written by posttrain."""

    step: int
    """Steps done; 0 is the model before GRPO."""
    source: str
    num_problems: int
    num_left_out: int
    """Problems whose prompt is too long."""
    num_set_aside: int
    """Rows of the data that could not be read as problems."""
    reward: float | None
    reward_standard_error: float | None
    share_ungradable: float | None
    response_tokens: float | None


@dataclass(frozen=True, kw_only=True)
class GrpoTimingRow:
    """Where the time of one step went. Apart from GrpoStepRow, since times differ from run to run."""

    step: int
    rollout_seconds: float
    """Sampling and rewards. After a kill, of the parts that were not there yet."""
    score_seconds: float
    """Old and reference log-probabilities."""
    update_seconds: float
    validation_seconds: float


@dataclass(frozen=True, kw_only=True)
class RolloutRow:
    """One sampled answer. Written by posttrain, read by people."""

    step: int
    problem: str
    sample: int
    seed: int
    prompt_tokens: tuple[int, ...]
    response_tokens: tuple[int, ...]
    """The end of text, where it was sampled, is the last."""
    text: str
    finish: str
    reward: float
    gradable: bool
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class LeftOutRow:
    """A problem that is not asked, or a row of the data that is none. Written by posttrain."""

    source: str
    split: Split
    problem: str
    """Its id; of a row that could not be read, the file and line."""
    reason: str
    """That can be counted, e.g. "prompt too long"; `detail` says what exactly."""
    detail: str
    prompt_tokens: int | None
    """None: the row could not be read."""
    most_tokens: int | None
    """Longest prompt allowed. None: as above."""
