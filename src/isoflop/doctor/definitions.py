"""Router losses and gates written out as their papers define them: slow, in float64, no shortcuts.

Shapes in this file:
    tokens    positions of a batch
    experts   experts of one layer

Sources: balance loss, Switch Transformer (arXiv:2101.03961) equations 4 to 6, with the share of
an expert taken over all tokens x k choices; z-loss, ST-MoE (arXiv:2202.08906) equation 5; order of
softmax and choice, Mixtral (arXiv:2401.04088) section 2.1 against Switch Transformer equation 1.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def chosen_experts(
    logits: Float[Tensor, "tokens experts"], top_k: int
) -> Int[Tensor, "tokens top_k"]:
    """The k experts of each token with the largest logits."""
    return logits.double().topk(top_k, dim=-1).indices


def balance_loss(logits: Float[Tensor, "tokens experts"], top_k: int) -> float:
    """E times the sum over experts of share of choices x mean probability; 1 for even use."""
    num_experts = logits.shape[-1]
    counts = torch.bincount(chosen_experts(logits, top_k).flatten(), minlength=num_experts)
    shares = counts.double() / counts.sum()
    probabilities = logits.double().softmax(dim=-1).mean(dim=0)
    return float(num_experts * (shares * probabilities).sum())


def z_loss(logits: Float[Tensor, "tokens experts"]) -> float:
    """Mean over tokens of the squared log of the sum of exponentials."""
    return float(logits.double().logsumexp(dim=-1).square().mean())


def gate_weights(
    logits: Float[Tensor, "tokens experts"],
    experts: Int[Tensor, "tokens top_k"],
    sum_to_one: bool,
) -> Float[Tensor, "tokens top_k"]:
    """Softmax over all experts, taken at the chosen ones, and divided by its sum where declared.

    Divided by its sum it equals a softmax over the chosen logits alone.
    """
    weights = logits.double().softmax(dim=-1).gather(-1, experts)
    return weights / weights.sum(dim=-1, keepdim=True) if sum_to_one else weights
