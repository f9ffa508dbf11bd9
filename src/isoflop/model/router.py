"""The router: where each token goes, and what the router is penalised for.

Shapes in this file:
    tokens     every position of every sequence, flattened
    sequences  sequences of one micro-batch
    experts    routed experts, E
    top_k      experts that see one token, k

Sources: router and losses of the optimal-sparsity study (arXiv:2508.18672,
sections 2.1 and 3.1): dropless token choice, top-k on the logits, softmax over
the chosen; balance loss, Switch Transformer eq. 4 (arXiv:2101.03961) divided by
k so that even use costs 1 for every k; its scope over the whole batch, "Demons
in the Detail" (arXiv:2501.11873); z-loss, ST-MoE eq. 5 (arXiv:2202.08906).
"""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from isoflop.model.config import RouterOrder

BalanceScope = Literal["micro", "sequence", "global"]


class Routing(NamedTuple):
    """Where each token goes, and how much each expert's answer counts."""

    weights: Float[Tensor, "tokens top_k"]
    experts: Int[Tensor, "tokens top_k"]


class RouterStatistics(NamedTuple):
    """Sums over counted tokens, of which both losses are made.

    The layers' axis is missing in what one layer returns.
    """

    probability_sum: Float[Tensor, "*layers sequences experts"]
    """Softmax over all experts, summed over the tokens of each sequence; carries the gradient."""
    counts: Int[Tensor, "*layers sequences experts"]
    """How often each expert was chosen."""
    z_sum: Float[Tensor, "*layers"]
    """Squared logsumexp of the logits; carries the gradient."""
    num_tokens: Int[Tensor, " sequences"]
    """Counted tokens of each sequence."""

    @property
    def expert_counts(self) -> Int[Tensor, "*layers experts"]:
        """How often each expert was chosen in the micro-batch."""
        return self.counts.sum(dim=-2)


def route(
    logits: Float[Tensor, "tokens experts"],
    top_k: int,
    order: RouterOrder,
    given: Int[Tensor, "tokens top_k"] | None = None,
) -> Routing:
    """Send each token to its `top_k` experts of highest logit; of equals, any.

    With `given` experts they are weighed as if they had been chosen.
    """
    # float32: in bfloat16 two close logits tie, and the tie decides the expert.
    logits = logits.float()
    experts = logits.topk(top_k, dim=-1).indices if given is None else given
    if order == "topk_then_softmax":
        return Routing(logits.gather(-1, experts).softmax(dim=-1), experts)
    return Routing(logits.softmax(dim=-1).gather(-1, experts), experts)


def router_statistics(
    logits: Float[Tensor, "tokens experts"],
    experts: Int[Tensor, "tokens top_k"],
    num_sequences: int,
    counted: Bool[Tensor, " tokens"] | None = None,
) -> RouterStatistics:
    """Sums over the tokens of each sequence; tokens that are not `counted` are left out."""
    num_experts = logits.shape[-1]
    probability = logits.float().softmax(dim=-1)
    squares = logits.float().logsumexp(dim=-1).square()
    chosen = experts.view(num_sequences, -1)
    ones = torch.ones_like(chosen)
    if counted is None:
        num_tokens = experts.new_full((num_sequences,), logits.shape[0] // num_sequences)
    else:
        probability, squares = probability * counted[:, None], squares * counted
        ones = counted.repeat_interleave(experts.shape[-1]).view_as(chosen).long()
        num_tokens = counted.view(num_sequences, -1).sum(dim=-1)
    # Not bincount, which waits for a GPU to learn how long its answer is.
    counts = chosen.new_zeros(num_sequences, num_experts).scatter_add_(1, chosen, ones)
    return RouterStatistics(
        probability.view(num_sequences, -1, num_experts).sum(dim=1),
        counts,
        squares.sum(),
        num_tokens,
    )


def stack_layers(layers: list[RouterStatistics]) -> RouterStatistics:
    """The statistics of all layers as one."""
    return RouterStatistics(
        torch.stack([layer.probability_sum for layer in layers]),
        torch.stack([layer.counts for layer in layers]),
        torch.stack([layer.z_sum for layer in layers]),
        layers[0].num_tokens,
    )


def balance_loss(
    statistics: RouterStatistics,
    scope: BalanceScope,
    batch_counts: Int[Tensor, "*layers experts"] | None = None,
) -> Float[Tensor, "*layers"]:
    """E x sum over experts of share chosen x mean probability: exactly 1 for even use, any k.

    Layers are never pooled: one layer's imbalance cannot cancel another's.

    Args:
        scope: Over which tokens use must be even. "micro": those of this forward pass, so that
            the loss depends on how a batch is split (the study's scripts). "sequence": each
            sequence for itself, then the mean. "global": those of the whole optimiser batch.
        batch_counts: For "global", choices of the whole batch, added up over micro-batches and
            ranks; the mean of the losses over micro-batches of equal numbers of tokens is then
            the loss of the whole batch, value and gradient. None: this forward pass is the batch.

    Returns:
        A loss a layer; NaN where no token is counted at all, which is no balance.

    Raises:
        ValueError: an unknown scope.
    """
    if scope not in get_args(BalanceScope):
        raise ValueError(f"scope={scope!r} must be one of {', '.join(get_args(BalanceScope))}")
    num_experts = statistics.counts.shape[-1]
    if scope == "sequence":
        filled = statistics.num_tokens.clamp(min=1)[:, None]
        share = statistics.counts / statistics.counts.sum(dim=-1, keepdim=True).clamp(min=1)
        losses = num_experts * (share * statistics.probability_sum / filled).sum(dim=-1)
        # A sequence of padding alone says nothing of balance.
        return losses.sum(dim=-1) / (statistics.num_tokens > 0).sum()
    own = statistics.expert_counts
    counts = batch_counts if scope == "global" and batch_counts is not None else own
    share = counts / counts.sum(dim=-1, keepdim=True)
    probability = statistics.probability_sum.sum(dim=-2) / statistics.num_tokens.sum()
    return num_experts * (share * probability).sum(dim=-1)


def z_loss(statistics: RouterStatistics) -> Float[Tensor, "*layers"]:
    """Mean over counted tokens of the squared logsumexp of the router's logits."""
    return statistics.z_sum / statistics.num_tokens.sum()


def router_logits(
    x: Float[Tensor, "tokens d_model"], router: Float[Tensor, "experts d_model"]
) -> Float[Tensor, "tokens experts"]:
    """The router's product, float32 whatever the precision of the others."""
    # The logits decide which expert learns, so they do not follow the products to bfloat16.
    return functional.linear(x.float(), router)
