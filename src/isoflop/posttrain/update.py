"""From a step's answers to its optimiser updates.

Shapes in this file:
    batch     answers of one micro-batch
    response  tokens of the longest answer
    layers    layers of the model
    experts   experts of a layer
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isoflop.config import UserError
from isoflop.model.router import balance_loss, z_loss
from isoflop.model.transformer import Transformer
from isoflop.posttrain.config import GrpoConfig
from isoflop.posttrain.grpo import (
    aggregate,
    clip_by_norm,
    clipped_objective,
    divergence,
    group_advantages,
    ratio_of,
)
from isoflop.posttrain.policy import Answer, AnswerBatch, EntropyWanted, Said, say
from isoflop.posttrain.rollouts import Rollout


@dataclass(frozen=True, kw_only=True)
class PolicySums:
    """What was seen of answers at the weights that they were sampled by, summed over tokens."""

    num_tokens: int
    """Answer tokens."""
    entropy: float
    sampler_difference: float
    """Of |sampler's - trainer's log-probability|."""
    largest_sampler_deviation: float
    """Over answer tokens, of |sampler's / trainer's probability - 1|: no sum but the largest."""
    num_routed: int
    """Pairs of token and layer, prompts included, once for the answers of a micro-batch."""
    num_disagreeing: int
    """Of them, where the trainer's routers would choose other experts than the sampler's."""

    def __add__(self, other: "PolicySums") -> "PolicySums":
        """Of the answers of both."""
        return PolicySums(
            num_tokens=self.num_tokens + other.num_tokens,
            entropy=self.entropy + other.entropy,
            sampler_difference=self.sampler_difference + other.sampler_difference,
            largest_sampler_deviation=max(
                self.largest_sampler_deviation, other.largest_sampler_deviation
            ),
            num_routed=self.num_routed + other.num_routed,
            num_disagreeing=self.num_disagreeing + other.num_disagreeing,
        )


NOTHING_SEEN = PolicySums(
    num_tokens=0,
    entropy=0.0,
    sampler_difference=0.0,
    largest_sampler_deviation=0.0,
    num_routed=0,
    num_disagreeing=0,
)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Answers computed at once, with what stays fixed while the weights change."""

    batch: AnswerBatch
    advantages: Float[Tensor, " batch"]
    sampler_log_probs: Float[Tensor, "batch response"]
    """Of the answers' tokens, as the sampler noted them."""
    old_log_probs: Float[Tensor, "batch response"] | None
    """That the ratio divides by. None: the update's own, which then is the first at its weights."""
    reference_log_probs: Float[Tensor, "batch response"] | None
    seen: PolicySums | None
    """None: the update looks."""


@dataclass(frozen=True)
class MiniBatch:
    """Answers of one optimiser update."""

    parts: list[MicroBatch]
    num_tokens: int
    """Answer tokens of all parts."""
    num_sequences: int

    @property
    def seen(self) -> PolicySums:
        """What was seen of the parts before the update."""
        return sum((one.seen for one in self.parts if one.seen is not None), NOTHING_SEEN)


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """What one update was. Losses and divergences in nats a token."""

    policy_loss: float
    divergence: float | None
    clip_share: float
    largest_ratio_deviation: float
    """Of the ratio that the loss has, new over old probability, from 1."""
    gradient_l2_norm: float
    gradient_l1_norm: float
    balance_loss: Float[Tensor, " layers"]
    z_loss: Float[Tensor, " layers"]
    expert_counts: Int[Tensor, "layers experts"]
    seen: PolicySums
    """Of the mini-batch at the weights that its answers were sampled by."""


def advantages_of(
    rollouts: Sequence[Rollout], config: GrpoConfig
) -> Float[Tensor, "problem sample"]:
    """Each answer's advantage over its group; problems in order, samples in theirs."""
    rewards = torch.tensor([one.row.reward for one in rollouts], dtype=torch.float64)
    groups = rewards.view(-1, config.samples_per_prompt)
    return group_advantages(groups, scale=config.advantage_scale).float()


def score(
    model: Transformer,
    reference: Transformer | None,
    rollouts: Sequence[Rollout],
    config: GrpoConfig,
    *,
    first_by_update: bool = False,
) -> list[MiniBatch]:
    """Cut a step's answers into mini- and micro-batches and take their log-probabilities before it.

    Args:
        first_by_update: leave the first mini-batch's to its update, which computes the same numbers
            on its way: the weights are still those of the rollouts.
    """
    device = model.embedding.device
    advantages = advantages_of(rollouts, config).flatten().to(device)
    size = config.mini_batch_prompts * config.samples_per_prompt
    mini_batches = []
    for begin in range(0, len(rollouts), size):
        parts = []
        end = min(begin + size, len(rollouts))
        asked = None if first_by_update and begin == 0 else model
        for start in range(begin, end, config.micro_batch_answers):
            rows = slice(start, min(start + config.micro_batch_answers, end))
            part = _score_part(asked, reference, rollouts[rows], advantages[rows], config)
            parts.append(part)
        count = sum(int(part.batch.mask.sum()) for part in parts)
        mini_batches.append(MiniBatch(parts, count, end - begin))
    return mini_batches


@torch.no_grad()
def _score_part(
    model: Transformer | None,
    reference: Transformer | None,
    rollouts: Sequence[Rollout],
    advantages: Tensor,
    config: GrpoConfig,
) -> MicroBatch:
    """A micro-batch; without a model its own log-probabilities are left to the update."""
    device = advantages.device
    batch = AnswerBatch.of([answer_of(one) for one in rollouts], device)
    noted = torch.cat([torch.from_numpy(one.record.log_probs) for one in rollouts])
    sampled = batch.spread(noted.to(device))
    ask = functools.partial(
        say, batch=batch, temperature=config.temperature, replay=config.replay_routing
    )
    said = None if model is None else ask(model, entropy="value")
    old = None if said is None else said.log_probs
    return MicroBatch(
        batch=batch,
        advantages=advantages,
        sampler_log_probs=sampled,
        old_log_probs=sampled if config.old_log_probs == "sampler" else old,
        reference_log_probs=None if reference is None else ask(reference).log_probs,
        seen=None if said is None else _sums(said, batch, sampled),
    )


@torch.no_grad()
def _sums(said: Said, batch: AnswerBatch, sampled: Tensor) -> PolicySums:
    assert said.entropy is not None
    assert batch.experts is not None
    other = (said.experts.sort(dim=-1).values != batch.experts.sort(dim=-1).values).any(dim=-1)
    return PolicySums(
        num_tokens=int(batch.mask.sum()),
        entropy=said.entropy.sum().item(),
        sampler_difference=(sampled - said.log_probs).abs().sum().item(),
        largest_sampler_deviation=(ratio_of(sampled, said.log_probs) - 1).abs().max().item(),
        num_routed=other.numel(),
        num_disagreeing=int(other.sum()),
    )


def answer_of(rollout: Rollout) -> Answer:
    """The tokens of a rollout, with the experts that its sampler's routers chose."""
    return Answer(
        prompt=rollout.row.prompt_tokens,
        response=rollout.row.response_tokens,
        experts=rollout.record.experts,
    )


def update(
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    mini_batch: MiniBatch,
    config: GrpoConfig,
    *,
    step: int,
) -> UpdateResult:
    """Change the weights once.

    Raises:
        UserError: a loss or gradient is not finite; the weights are as before.
    """
    optimizer.zero_grad(set_to_none=True)
    seen = [_backward(model, part, mini_batch, config) for part in mini_batch.parts]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    l2, l1 = clip_by_norm(
        gradients,
        max_l2_norm=config.max_gradient_norm,
        max_l1_norm=config.max_gradient_l1_norm,
    )
    policy_loss = math.fsum(one.policy_loss for one in seen)
    if not (math.isfinite(policy_loss) and math.isfinite(l2)):
        raise UserError(
            f"step {step}: policy loss {policy_loss} and gradient norm {l2} must be finite; lower "
            f"learning_rate={config.learning_rate}, or start from another checkpoint"
        )
    optimizer.step()
    divergences = [one.divergence_sum for one in seen if one.divergence_sum is not None]
    return UpdateResult(
        policy_loss=policy_loss,
        divergence=math.fsum(divergences) / mini_batch.num_tokens if divergences else None,
        clip_share=sum(one.num_held for one in seen) / mini_batch.num_tokens,
        largest_ratio_deviation=max(one.largest_ratio_deviation for one in seen),
        gradient_l2_norm=l2,
        gradient_l1_norm=l1,
        balance_loss=torch.stack([one.balance_loss for one in seen]).mean(dim=0),
        z_loss=torch.stack([one.z_loss for one in seen]).mean(dim=0),
        expert_counts=torch.stack([one.expert_counts for one in seen]).sum(dim=0),
        seen=sum((one.sums for one in seen), NOTHING_SEEN),
    )


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one micro-batch showed."""

    sums: PolicySums
    policy_loss: float
    divergence_sum: float | None
    num_held: int
    largest_ratio_deviation: float
    balance_loss: Tensor
    z_loss: Tensor
    expert_counts: Tensor


def _divergence(
    said: Said, part: MicroBatch, old_log_probs: Tensor, config: GrpoConfig
) -> Tensor | None:
    """Of each answer token from the reference, (batch, response); None without a reference."""
    if part.reference_log_probs is None:
        return None
    return divergence(
        said.log_probs,
        part.reference_log_probs,
        config.divergence,
        old_log_probs=old_log_probs if config.divergence_by_ratio else None,
    )


def _backward(model: Transformer, part: MicroBatch, whole: MiniBatch, config: GrpoConfig) -> _Seen:
    """Add a micro-batch's gradients to the weights'."""
    batch, mask = part.batch, part.batch.mask
    value: EntropyWanted = "none" if part.seen is not None else "value"
    said = say(
        model,
        batch,
        temperature=config.temperature,
        replay=config.replay_routing,
        entropy="gradient" if config.entropy_coefficient > 0 else value,
    )
    old = said.log_probs.detach() if part.old_log_probs is None else part.old_log_probs
    objective, held = clipped_objective(
        said.log_probs,
        old,
        part.advantages,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
    )
    total = functools.partial(
        aggregate,
        mask=mask,
        how=config.aggregation,
        num_tokens=whole.num_tokens,
        num_sequences=whole.num_sequences,
        max_tokens=config.max_response_tokens,
    )
    policy = loss = total(objective)
    estimate = _divergence(said, part, old, config)
    if estimate is not None:
        loss = loss + config.divergence_coefficient * total(estimate)
    if config.entropy_coefficient > 0 and said.entropy is not None:
        loss = loss - config.entropy_coefficient * total(said.entropy)
    balance, z = balance_loss(said.router, "micro"), z_loss(said.router)
    share = len(mask) / whole.num_sequences
    for weight, of_layers in ((config.balance_coefficient, balance), (config.z_coefficient, z)):
        if weight > 0:
            loss = loss + share * weight * of_layers.sum()
    loss.backward()
    ratio = ratio_of(said.log_probs.detach(), old)
    return _Seen(
        sums=part.seen or _sums(said, batch, part.sampler_log_probs),
        policy_loss=policy.item(),
        divergence_sum=None if estimate is None else estimate.detach()[mask].sum().item(),
        num_held=int((held & mask).sum()),
        largest_ratio_deviation=(ratio - 1)[mask].abs().max().item(),
        balance_loss=balance.detach(),
        z_loss=z.detach(),
        expert_counts=said.router.expert_counts,
    )
