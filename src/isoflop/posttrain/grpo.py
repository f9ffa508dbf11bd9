"""The method of GRPO as pure functions of tensors.

Shapes in this file:
    problem   problems of a batch
    sample    answers to one problem, its group
    batch     answers, of all problems
    position  tokens of the longest answer

Sources: group advantage and objective, DeepSeekMath (arXiv:2402.03300), section 4.1; clipped ratio, PPO
(arXiv:1707.06347), equation 7; the three divergence estimators, Schulman 2020, "Approximating KL
divergence"; sums divided by a constant, Dr. GRPO (arXiv:2503.20783); the settings of the
optimal-sparsity study, arXiv:2508.18672, appendix A.2 and its released scripts.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from isoflop.posttrain.settings import MAX_REWARD, AdvantageScale, Aggregation, Divergence

STD_EPSILON = 1e-6
"""Added to a group's standard deviation. arXiv:2508.18672, released code (core_algos)."""

MAX_LOG_RATIO = 60.0
"""Bound of differences of log-probabilities before they are raised to a power: far beyond any clip, and
e^60 times an advantage is still a float32 number with a gradient."""

MAX_DIVERGENCE = 10.0
"""Bound of a token's k3 estimate, either side. The same."""


def group_advantages(
    rewards: Float[Tensor, "problem sample"], *, scale: AdvantageScale = "group_std"
) -> Float[Tensor, "problem sample"]:
    """How much better each answer is than the others to the same problem.

    Exactly zero for a group whose answers all earn the same: such a group teaches nothing. The
    standard deviation is the sample's, n - 1 in the denominator; of a group of one it is taken as 1.

    Raises:
        ValueError: a reward that is not finite, or beyond MAX_REWARD.
    """
    if not bool((rewards.abs() <= MAX_REWARD).all()):
        raise ValueError(f"every reward must be a finite number within +-{MAX_REWARD:g}")
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    # Rounding of the mean would leave a residue that the division makes large.
    same = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    centred = centred.masked_fill(same, 0.0)
    if scale == "none" or rewards.shape[1] == 1:
        return centred
    return centred / (rewards.std(dim=1, keepdim=True) + STD_EPSILON)


def ratio_of(
    log_probs: Float[Tensor, "batch position"], old_log_probs: Float[Tensor, "batch position"]
) -> Float[Tensor, "batch position"]:
    """Each token's new over old probability, bounded by e^MAX_LOG_RATIO and its inverse."""
    return (log_probs - old_log_probs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_objective(
    log_probs: Float[Tensor, "batch position"],
    old_log_probs: Float[Tensor, "batch position"],
    advantages: Float[Tensor, " batch"],
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
    """Each token's loss, and where the clip holds its gradient back.

    The loss is -min(ratio x advantage, clipped ratio x advantage); the ratio is of the new to the old
    probability of the token, clipped to 1 - clip_low .. 1 + clip_high.
    """
    ratio = ratio_of(log_probs, old_log_probs)
    free = ratio * advantages[:, None]
    held = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages[:, None]
    return -torch.minimum(free, held), held < free


def divergence(
    log_probs: Float[Tensor, "batch position"],
    reference_log_probs: Float[Tensor, "batch position"],
    estimator: Divergence,
    *,
    old_log_probs: Float[Tensor, "batch position"] | None = None,
) -> Float[Tensor, "batch position"]:
    """An estimate, from one token, of the divergence of the policy from the reference, in nats.

    With d = log p_reference - log p: k1 is -d (unbiased, may be negative), k2 is d^2 / 2 (biased, low
    variance), k3 is e^d - d - 1 (unbiased, never negative), bounded by MAX_DIVERGENCE.

    Args:
        old_log_probs: None, or of the policy that the tokens were drawn from: each estimate is then
            multiplied by the ratio of the new to the old probability, so that k1 and k3 stay unbiased
            after the first update, and their gradient is the divergence's own. TRL's default,
            not the released code's.
    """
    difference = (reference_log_probs - log_probs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    match estimator:
        case "k1":
            estimate = -difference
        case "k2":
            estimate = difference.square() / 2
        case "k3":
            estimate = (difference.exp() - difference - 1).clamp(-MAX_DIVERGENCE, MAX_DIVERGENCE)
    return estimate if old_log_probs is None else estimate * ratio_of(log_probs, old_log_probs)


def aggregate(
    values: Float[Tensor, "batch position"],
    mask: Bool[Tensor, "batch position"],
    how: Aggregation,
    *,
    num_tokens: int,
    num_sequences: int,
    max_tokens: int,
) -> Float[Tensor, ""]:
    """One number from all tokens' values; parts of a batch add up to the whole batch's.

    Args:
        how: "token_mean", every token of the batch weighs the same; "sequence_mean", every answer
            does, whatever its length; "constant", the sum over answers and `max_tokens`, so that no
            answer's length changes the weight of its tokens.
        num_tokens: answer tokens of the whole batch, of which this may be a part.
        num_sequences: answers of the whole batch.
        max_tokens: longest answer allowed.
    """
    kept = torch.where(mask, values, 0.0)
    if how == "token_mean":
        return kept.sum() / num_tokens
    if how == "sequence_mean":
        lengths = mask.sum(dim=1).clamp(min=1)
        return (kept.sum(dim=1) / lengths).sum() / num_sequences
    return kept.sum() / (num_sequences * max_tokens)


def clip_by_norm(
    gradients: list[Tensor], *, max_l2_norm: float, max_l1_norm: float | None
) -> tuple[float, float]:
    """Scale gradients in place to an L2 norm of at most `max_l2_norm`; their norms before.

    Args:
        max_l1_norm: None, or a bound on the L1 norm of what is left, applied second. The released code
            of arXiv:2508.18672 does that with 1.0, by a call that was meant to log the norm: with N
            weights the mean size of a gradient is then at most 1/N, so that updates shrink with the
            size of the model. Off by default; here to measure what it does.

    Returns:
        The L2 and the L1 norm before any scaling.
    """
    l2 = torch.nn.utils.get_total_norm(gradients, norm_type=2.0)
    l1 = torch.nn.utils.get_total_norm(gradients, norm_type=1.0)
    found = float(l2), float(l1)
    scale = min(1.0, max_l2_norm / (found[0] + STD_EPSILON))
    if max_l1_norm is not None:
        scale *= min(1.0, max_l1_norm / (found[1] * scale + STD_EPSILON))
    if scale < 1.0:
        torch._foreach_mul_(gradients, scale)
    return found
