"""From a step's answers to its optimiser updates.

Shapes in this file:
    batch     answers of one micro-batch
    response  tokens of the longest answer
    layers    layers of the model
    experts   experts of a layer
"""

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
)
from isoflop.posttrain.policy import Answer, AnswerBatch, Said, say
from isoflop.posttrain.rollouts import Rollout


@dataclass(frozen=True)
class MicroBatch:
    """Answers computed at once, with what stays fixed while the weights change."""

    batch: AnswerBatch
    advantages: Float[Tensor, " batch"]
    old_log_probs: Float[Tensor, "batch response"]
    reference_log_probs: Float[Tensor, "batch response"] | None


@dataclass(frozen=True)
class MiniBatch:
    """Answers of one optimiser update."""

    parts: list[MicroBatch]
    num_tokens: int
    """Answer tokens of all parts."""
    num_sequences: int


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A step's mini-batches, and what was seen of them before any update."""

    mini_batches: list[MiniBatch]
    entropy: float
    sampler_log_prob_difference: float
    routing_disagreement: float


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """What one update was. Losses and divergences in nats a token."""

    policy_loss: float
    divergence: float | None
    clip_share: float
    largest_ratio_deviation: float
    gradient_l2_norm: float
    gradient_l1_norm: float
    balance_loss: Float[Tensor, " layers"]
    z_loss: Float[Tensor, " layers"]
    expert_counts: Int[Tensor, "layers experts"]


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
) -> Scored:
    """Cut a step's answers into mini- and micro-batches and take their log-probabilities before it."""
    device = model.embedding.device
    advantages = advantages_of(rollouts, config).flatten().to(device)
    size = config.mini_batch_prompts * config.samples_per_prompt
    mini_batches, seen, tokens = [], [], 0
    for begin in range(0, len(rollouts), size):
        parts = []
        end = min(begin + size, len(rollouts))
        for start in range(begin, end, config.micro_batch_answers):
            rows = slice(start, min(start + config.micro_batch_answers, end))
            part, sums = _score_part(model, reference, rollouts[rows], advantages[rows], config)
            parts.append(part)
            seen.append(sums)
        count = sum(int(part.batch.mask.sum()) for part in parts)
        tokens += count
        mini_batches.append(MiniBatch(parts, count, end - begin))
    return Scored(
        mini_batches=mini_batches,
        entropy=math.fsum(one.entropy for one in seen) / tokens,
        sampler_log_prob_difference=math.fsum(one.difference for one in seen) / tokens,
        routing_disagreement=sum(one.disagreeing for one in seen) / sum(one.routed for one in seen),
    )


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Over the tokens of a micro-batch."""

    entropy: float
    difference: float
    disagreeing: int
    """Of `routed`, pairs of token and layer, prompts included."""
    routed: int


@torch.no_grad()
def _score_part(
    model: Transformer,
    reference: Transformer | None,
    rollouts: Sequence[Rollout],
    advantages: Tensor,
    config: GrpoConfig,
) -> tuple[MicroBatch, _Sums]:
    """A micro-batch, and what its tokens add to the step's means."""
    device = advantages.device
    batch = AnswerBatch.of([answer_of(one) for one in rollouts], device)

    def ask(asked: Transformer, *, with_entropy: bool) -> Said:
        return say(
            asked,
            batch,
            temperature=config.temperature,
            replay=config.replay_routing,
            with_entropy=with_entropy,
        )

    said = ask(model, with_entropy=True)
    sampled = batch.spread(
        torch.cat([torch.from_numpy(one.record.log_probs) for one in rollouts]).to(device)
    )
    assert said.entropy is not None
    assert batch.experts is not None
    other = (said.experts.sort(dim=-1).values != batch.experts.sort(dim=-1).values).any(dim=-1)
    sums = _Sums(
        entropy=said.entropy.sum().item(),
        difference=(sampled - said.log_probs).abs().sum().item(),
        disagreeing=int(other[:, batch.counted].sum()),
        routed=len(other) * int(batch.counted.sum()),
    )
    part = MicroBatch(
        batch=batch,
        advantages=advantages,
        old_log_probs=sampled if config.old_log_probs == "sampler" else said.log_probs,
        reference_log_probs=(
            None if reference is None else ask(reference, with_entropy=False).log_probs
        ),
    )
    return part, sums


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
    )


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one micro-batch showed."""

    policy_loss: float
    divergence_sum: float | None
    num_held: int
    largest_ratio_deviation: float
    balance_loss: Tensor
    z_loss: Tensor
    expert_counts: Tensor


def _divergence(said: Said, part: MicroBatch, config: GrpoConfig) -> Tensor | None:
    """Of each answer token from the reference, (batch, response); None without a reference."""
    if part.reference_log_probs is None:
        return None
    return divergence(
        said.log_probs,
        part.reference_log_probs,
        config.divergence,
        old_log_probs=part.old_log_probs if config.divergence_by_ratio else None,
    )


def _backward(model: Transformer, part: MicroBatch, whole: MiniBatch, config: GrpoConfig) -> _Seen:
    """Add a micro-batch's gradients to the weights'."""
    batch, mask = part.batch, part.batch.mask
    said = say(
        model,
        batch,
        temperature=config.temperature,
        replay=config.replay_routing,
        with_entropy=config.entropy_coefficient > 0,
    )
    objective, held = clipped_objective(
        said.log_probs,
        part.old_log_probs,
        part.advantages,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
    )

    def total(values: Float[Tensor, "batch response"]) -> Float[Tensor, ""]:
        return aggregate(
            values,
            mask,
            config.aggregation,
            num_tokens=whole.num_tokens,
            num_sequences=whole.num_sequences,
            max_tokens=config.max_response_tokens,
        )

    policy, estimate = total(objective), _divergence(said, part, config)
    loss = policy
    if estimate is not None:
        loss = loss + config.divergence_coefficient * total(estimate)
    if said.entropy is not None:
        loss = loss - config.entropy_coefficient * total(said.entropy)
    balance, z = balance_loss(said.router, "micro"), z_loss(said.router)
    share = len(mask) / whole.num_sequences
    loss = loss + share * config.balance_coefficient * balance.sum()
    loss = loss + share * config.z_coefficient * z.sum()
    loss.backward()
    ratio = (said.log_probs.detach() - part.old_log_probs).exp()
    return _Seen(
        policy_loss=policy.item(),
        divergence_sum=None if estimate is None else estimate.detach()[mask].sum().item(),
        num_held=int((held & mask).sum()),
        largest_ratio_deviation=(ratio - 1)[mask].abs().max().item(),
        balance_loss=balance.detach(),
        z_loss=z.detach(),
        expert_counts=said.router.expert_counts,
    )
