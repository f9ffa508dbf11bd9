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
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isoflop.model.router import RouterStatistics, balance_loss, z_loss
from isoflop.train.config import TrainConfig
from isoflop.train.ranks import ALONE, Ranks


@runtime_checkable
class Decoder(Protocol):
    """What a training step asks of a model: a `Transformer`, whole or spread over ranks."""

    def mean_loss(
        self, tokens: Tensor, targets: Tensor, *, documents: Tensor | None = None
    ) -> tuple[Tensor, RouterStatistics]:
        """As `Transformer.mean_loss`."""

    def hidden(
        self, tokens: Tensor, *, documents: Tensor | None = None
    ) -> tuple[Tensor, RouterStatistics]:
        """As `Transformer.hidden`."""

    def token_losses(
        self, tokens: Tensor, targets: Tensor, *, documents: Tensor | None = None
    ) -> tuple[Tensor, RouterStatistics]:
        """As `Transformer.token_losses`."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""


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
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    tokens: Int[Tensor, "batch position"],
    documents: Int[Tensor, "batch position-1"] | None = None,
    ranks: Ranks = ALONE,
    micro_batch_sequences: int | None = None,
) -> StepResult:
    """Change the weights once, unless loss or gradient is not finite.

    Args:
        tokens: This rank's sequences, as many as every other rank's.
        documents: As in `Transformer.forward`, for the inputs. None: attention runs across.
        ranks: Who trains together. Each rank's loss is its share of the batch's mean, so that
            gradients are summed over ranks; the result is that of the whole batch.
        micro_batch_sequences: Where a rank's batch is smaller than the config's micro-batch.
    """
    optimizer.zero_grad(set_to_none=True)
    size = micro_batch_sequences or config.micro_batch_sequences or tokens.shape[0]
    micro_batches = list(_micro_batches(size, tokens, documents))
    batch_counts = None
    if config.balance_scope == "global" and len(micro_batches) > 1:
        batch_counts = ranks.total(count_choices(model, micro_batches))
    parts = len(micro_batches) * ranks.parts
    sums = torch.zeros((), device=tokens.device)
    balance, z, counts = [], [], []
    for place, part in enumerate(micro_batches):
        ranks.before_backward(last=place == len(micro_batches) - 1)
        loss, router = model.mean_loss(part.inputs, part.targets, documents=part.documents)
        if config.balance_scope == "global" and batch_counts is None and ranks.parts > 1:
            batch_counts = ranks.total(router.expert_counts)
        balance.append(balance_loss(router, config.balance_scope, batch_counts))
        z.append(z_loss(router))
        counts.append(router.expert_counts)
        router_loss = (
            config.balance_coefficient * balance[-1].sum() + config.z_coefficient * z[-1].sum()
        )
        ((loss + router_loss) / parts).backward()
        sums += loss.detach() / parts
    norm = ranks.gradient_norm(model.parameters())
    means = torch.stack([torch.stack(one).detach().sum(dim=0) / parts for one in (balance, z)])
    told = ranks.total(torch.cat([sums[None], means.flatten()]))
    found = torch.stack([told[0], norm]).tolist()
    if all(map(math.isfinite, found)):
        _clipped_step(optimizer, norm, config.max_gradient_norm)
    balance_mean, z_mean = told[1:].view_as(means)
    return StepResult(
        train_loss=found[0],
        gradient_norm=found[1],
        balance_loss=balance_mean,
        z_loss=z_mean,
        expert_counts=ranks.total(torch.stack(counts).sum(dim=0)),
    )


@torch.no_grad()
def count_choices(
    model: Decoder, micro_batches: list[_MicroBatch]
) -> Int[Tensor, "layers experts"]:
    """How often these micro-batches will choose each expert: a forward pass without gradients.

    The share chosen multiplies each token's probability in the global balance loss, so it must
    be known before the first micro-batch's gradient is. Costs one more forward pass; Megatron-LM's
    `global_aux_loss` uses the micro-batches seen so far instead, which is another loss.
    """
    totals = [
        model.hidden(part.inputs, documents=part.documents)[1].expert_counts
        for part in micro_batches
    ]
    return torch.stack(totals).sum(dim=0)


def _micro_batches(size: int, tokens: Tensor, documents: Tensor | None) -> Iterator[_MicroBatch]:
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
