"""Next-token cross-entropy that never holds the logits of all tokens at once.

A vocabulary of 100,000 makes the logits the largest tensor of a small model by far.
Here the head's product runs over as many tokens as fit in CHUNK_BYTES.

Shapes in this file:
    tokens      every position of every sequence, flattened
    vocabulary  tokens of the vocabulary, padding included
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from isoflop.model.ops import Ops

CHUNK_BYTES = 1 << 27
"""Most of one chunk's logits, 128 MiB: small against the weights of a model whose vocabulary needs
chunks, large enough for full speed (docs/log.md)."""

NEAR_BYTES = 1 << 21
"""Logits that stay in a core's own cache between the product and what is made of it. Measured."""

NEAR_ROWS = 512
"""Fewer rows make the products slow: then a chunk is as large as it may be. Chosen."""

KEPT_BYTES = 1 << 26
"""Logits of all tokens that a backward pass finds as they were, 64 MiB; more are computed again. Chosen."""


def token_losses(
    hidden: Float[Tensor, "tokens d_model"],
    head: Float[Tensor, "vocabulary d_model"],
    targets: Int[Tensor, " tokens"],
    ops: Ops,
) -> Float[Tensor, " tokens"]:
    """Cross-entropy of each token in nats; the backward pass computes many tokens' logits again."""
    grad = torch.is_grad_enabled()
    losses: Tensor = _TokenLosses.apply(hidden, head, targets, ops, False, grad)[0]
    return losses


def token_losses_and_entropies(
    hidden: Float[Tensor, "tokens d_model"],
    head: Float[Tensor, "vocabulary d_model"],
    targets: Int[Tensor, " tokens"],
    ops: Ops,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """As `token_losses`, and the entropy of each token's distribution in nats, without gradients."""
    grad = torch.is_grad_enabled()
    found: tuple[Tensor, Tensor] = _TokenLosses.apply(hidden, head, targets, ops, True, grad)
    return found


def mean_loss(
    hidden: Float[Tensor, "tokens d_model"],
    head: Float[Tensor, "vocabulary d_model"],
    targets: Int[Tensor, " tokens"],
    ops: Ops,
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats; gradients are made with the loss, while a chunk is at hand.

    The weight of each token is known beforehand, 1 / tokens, so that nothing is computed twice.
    """
    loss: Tensor = _MeanLoss.apply(hidden, head, targets, ops, torch.is_grad_enabled())
    return loss


def _row_bytes(hidden: Tensor, weights: Tensor) -> int:
    """Of one token's logits."""
    return weights.shape[0] * hidden.element_size()


def _cuts(hidden: Tensor, weights: Tensor) -> Iterator[slice]:
    """Some rows after others."""
    row_bytes = _row_bytes(hidden, weights)
    near = NEAR_BYTES // row_bytes
    rows = max(1, min(near if near >= NEAR_ROWS else hidden.shape[0], CHUNK_BYTES // row_bytes))
    for start in range(0, hidden.shape[0], rows):
        yield slice(start, min(start + rows, hidden.shape[0]))


def _chunks(
    hidden: Tensor, weights: Tensor, ops: Ops, kept: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Some rows after others with their logits: in `kept`, or where the next may be written over them."""
    place: Tensor | None = None
    for chunk in _cuts(hidden, weights):
        part = hidden[chunk]
        if kept is not None:
            place = kept[chunk]
        elif place is None:
            place = hidden.new_empty(len(part), weights.shape[0])
        yield chunk, ops.product_into(place[: len(part)], part, weights, True)


def _spread(
    slope: Tensor,
    chunk: slice,
    hidden: Tensor,
    weights: Tensor,
    gradients: tuple[Tensor, Tensor],
    ops: Ops,
) -> None:
    """From the gradient of a chunk's logits to those of its hidden states and of the head."""
    hidden_gradient, head_gradient = gradients
    ops.product_into(hidden_gradient[chunk], slope, weights, False)
    ops.add_outer(head_gradient, slope, hidden[chunk])


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        ops: Ops,
        with_entropy: bool,
        switched_on: bool,
    ) -> tuple[Tensor, Tensor]:
        weights = head.to(hidden.dtype)
        # Inside a Function gradients are always off; leaves tell what they want even so.
        needs_gradient = switched_on and any(ctx.needs_input_grad)
        small = hidden.shape[0] * _row_bytes(hidden, weights) <= KEPT_BYTES
        kept = hidden.new_empty(len(hidden), len(weights)) if needs_gradient and small else None
        losses: list[Tensor] = []
        log_totals: list[Tensor] = []
        entropies: list[Tensor] = []
        for chunk, logits in _chunks(hidden, weights, ops, kept):
            for part, found in zip(
                (losses, log_totals, entropies),
                ops.row_losses(logits, targets[chunk], with_entropy),
                strict=True,
            ):
                part.append(found)
        ctx.save_for_backward(hidden, head, targets, torch.cat(log_totals))
        ctx.ops, ctx.kept = ops, kept
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(losses), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        hidden, head, targets, log_totals = ctx.saved_tensors
        weights, scale = head.to(hidden.dtype), gradients[0].contiguous()
        found = torch.empty_like(hidden), torch.zeros_like(head)
        # The slopes are written over the logits: a second pass through the same graph makes them anew.
        kept, ctx.kept = ctx.kept, None
        if kept is None:
            chunks = _chunks(hidden, weights, ctx.ops)
        else:
            chunks = ((chunk, kept[chunk]) for chunk in _cuts(hidden, weights))
        for chunk, logits in chunks:
            slope = ctx.ops.row_losses_slope_(
                logits, targets[chunk], log_totals[chunk], scale[chunk]
            )
            _spread(slope, chunk, hidden, weights, found, ctx.ops)
        return *found, None, None, None, None


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, ops: Ops, switched_on: bool
    ) -> Tensor:
        weights = head.to(hidden.dtype)
        scale = torch.full(targets.shape, 1 / targets.numel(), device=hidden.device)
        # Inside a Function gradients are always off; leaves tell what they want even so.
        needs_gradient = switched_on and any(ctx.needs_input_grad)
        gradients = (torch.empty_like(hidden), torch.zeros_like(head)) if needs_gradient else None
        losses = []
        for chunk, logits in _chunks(hidden, weights, ops):
            found, log_total, _ = ops.row_losses(logits, targets[chunk])
            losses.append(found)
            if gradients is not None:
                slope = ops.row_losses_slope_(logits, targets[chunk], log_total, scale[chunk])
                _spread(slope, chunk, hidden, weights, gradients, ops)
        ctx.save_for_backward(*(gradients or ()))
        return torch.cat(losses).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        hidden_gradient, head_gradient = ctx.saved_tensors
        # In place: a second head gradient would cost 204 MB at the paper's shape.
        return *(part.mul_(gradients[0]) for part in (hidden_gradient, head_gradient)), *[None] * 3
