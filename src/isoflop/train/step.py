"""One optimiser step: micro-batches forward and backward, clipping, AdamW.

Shapes in this file:
    batch     sequences of one optimiser step
    position  tokens of a sequence, one more than are predicted
    layers    layers of the model
    experts   experts of a layer
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isoflop.model.router import balance_loss, z_loss
from isoflop.model.transformer import Transformer
from isoflop.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Means over the micro-batches of one step. Losses in nats, router losses without coefficient."""

    train_loss: float
    """Next-token cross-entropy alone: no router loss is in it."""
    gradient_norm: float
    """L2 norm of all gradients before clipping."""
    balance_loss: Float[Tensor, " layers"]
    z_loss: Float[Tensor, " layers"]
    expert_counts: Int[Tensor, "layers experts"]
    """Choices of the whole batch."""


class _MicroBatch(NamedTuple):
    """Some sequences of a batch."""

    inputs: Int[Tensor, "batch position"]
    targets: Int[Tensor, "batch position"]
    documents: Int[Tensor, "batch position"] | None


def train_step(
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    tokens: Int[Tensor, "batch position"],
    documents: Int[Tensor, "batch position-1"] | None = None,
) -> StepResult:
    """Change the weights once, unless loss or gradient is not finite.

    Args:
        documents: As in `Transformer.forward`, for the inputs. None: attention runs across.
    """
    optimizer.zero_grad(set_to_none=True)
    micro_batches = list(_micro_batches(config, tokens, documents))
    batch_counts = None
    if config.balance_scope == "global" and len(micro_batches) > 1:
        batch_counts = count_choices(model, micro_batches)
    train_loss = torch.zeros((), device=tokens.device)
    balance, z, counts = [], [], []
    for part in micro_batches:
        loss, router = model.mean_loss(part.inputs, part.targets, documents=part.documents)
        balance.append(balance_loss(router, config.balance_scope, batch_counts))
        z.append(z_loss(router))
        counts.append(router.expert_counts)
        router_loss = (
            config.balance_coefficient * balance[-1].sum() + config.z_coefficient * z[-1].sum()
        )
        ((loss + router_loss) / len(micro_batches)).backward()
        train_loss += loss.detach() / len(micro_batches)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    found = torch.stack([train_loss, norm]).tolist()
    if all(map(math.isfinite, found)):
        _clipped_step(optimizer, norm, config.max_gradient_norm)
    return StepResult(
        train_loss=found[0],
        gradient_norm=found[1],
        balance_loss=torch.stack(balance).detach().mean(dim=0),
        z_loss=torch.stack(z).detach().mean(dim=0),
        expert_counts=torch.stack(counts).sum(dim=0),
    )


@torch.no_grad()
def count_choices(
    model: Transformer, micro_batches: list[_MicroBatch]
) -> Int[Tensor, "layers experts"]:
    """How often the whole batch will choose each expert: a forward pass without gradients.

    The share chosen multiplies each token's probability in the global balance loss, so it must
    be known before the first micro-batch's gradient is. Costs one more forward pass; Megatron-LM's
    `global_aux_loss` uses the micro-batches seen so far instead, which is another loss.
    """
    totals = [
        model.hidden(part.inputs, documents=part.documents)[1].expert_counts
        for part in micro_batches
    ]
    return torch.stack(totals).sum(dim=0)


def _micro_batches(
    config: TrainConfig, tokens: Tensor, documents: Tensor | None
) -> Iterator[_MicroBatch]:
    size = config.micro_batch_sequences or tokens.shape[0]
    # The mean over micro-batches is the mean over tokens only if they are of one size.
    assert tokens.shape[0] % size == 0, (tokens.shape, size)
    for start in range(0, tokens.shape[0], size):
        rows = slice(start, start + size)
        part = tokens[rows]
        yield _MicroBatch(part[:, :-1], part[:, 1:], None if documents is None else documents[rows])


def _clipped_step(
    optimizer: torch.optim.Optimizer, norm: Float[Tensor, ""], max_norm: float
) -> None:
    """Step with gradients scaled so that their L2 norm is at most `max_norm`.

    The fused optimiser divides each gradient where it reads it, by the hook that serves PyTorch's
    `GradScaler`: one pass over all gradients less than `clip_grad_norm_`.
    """
    optimizer.grad_scale = (norm / max_norm).clamp(min=1.0)  # type: ignore[attr-defined]
    optimizer.found_inf = torch.zeros_like(norm)  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        # Left there, they would scale a later step of anyone's.
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
