"""The decoder: embedding, layers of attention and Mixture-of-Experts, head.

Shapes in this file:
    batch       sequences
    position    tokens of a sequence
    vocabulary  tokens of the vocabulary, padding included

Source: Mixtral (arXiv:2401.04088) as the optimal-sparsity study trains it
(arXiv:2508.18672, section 3.1): RMSNorm before each part, every feed-forward
part is a Mixture of Experts, no biases, no dropout, untied head.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from isoflop.model.attention import Attention, LayerCache, document_mask, rotary_tables
from isoflop.model.config import ModelConfig
from isoflop.model.moe import ExpertsImplementation, MoE, RouterLosses


class Output(NamedTuple):
    """What the model says of the next token, and each layer's router losses."""

    logits: Float[Tensor, "batch position vocabulary"]
    router: list[RouterLosses]


class RMSNorm(nn.Module):
    """Scale each vector to root mean square 1, then by a learned weight; in float32."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """The normalised vectors."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)


class Layer(nn.Module):
    """Attention, then experts, each added to the residual stream."""

    def __init__(self, config: ModelConfig, experts: ExpertsImplementation):
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.attention = Attention(config)
        self.moe_norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.moe = MoE(config, experts)


class Transformer(nn.Module):
    """A Mixtral-type decoder.

    The residual stream, norms, router and losses are float32; matrix products
    run in `compute_dtype`. Weights are drawn from `seed` alone, in the order of
    `named_parameters`, so that the same config and seed give the same model.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self,
        config: ModelConfig,
        *,
        seed: int = 0,
        compute_dtype: torch.dtype = torch.float32,
        experts: ExpertsImplementation = "grouped",
    ):
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.embedding = nn.Parameter(torch.empty(config.vocabulary_size, config.d_model))
        self.layers = nn.ModuleList(Layer(config, experts) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.head = nn.Parameter(torch.empty(config.vocabulary_size, config.d_model))
        cosine, sine = rotary_tables(config, config.sequence_length)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw all weights: normal, `init_std`; a layer's two outputs by 1/sqrt(2 layers) smaller.

        Smaller outputs keep the residual stream's variance independent of depth
        (Megatron-LM's scaled initialisation, used by the study's scripts).
        """
        generator = torch.Generator().manual_seed(seed)
        output_std = self.config.init_std / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                continue
            scaled = name.endswith(("attention.output", "moe.down"))
            std = output_std if scaled else self.config.init_std
            values = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
            parameter.copy_(values)

    def forward(
        self,
        tokens: Int[Tensor, "batch position"],
        *,
        documents: Int[Tensor, "batch position"] | None = None,
    ) -> Output:
        """Logits of the next token at every position.

        With `documents` (a number for each position's document) attention stops
        at document ends; positions are counted through in both cases.
        """
        length = tokens.shape[1]
        mask = None if documents is None else document_mask(documents)
        return self._run(tokens, self.cosine[:length], self.sine[:length], mask, None, None)

    def forward_cached(
        self,
        tokens: Int[Tensor, "batch position"],
        positions: Int[Tensor, "batch position"],
        cache: list[LayerCache],
    ) -> Output:
        """Logits for new tokens at each sequence's own `positions`, reading and filling `cache`.

        A position sees every stored key at or before it, so a sequence must have
        been stored without gaps up to its first new position.
        """
        keys = torch.arange(cache[0].keys.shape[2], device=tokens.device)
        mask = (keys <= positions[:, :, None])[:, None]
        # One more axis for the heads: every sequence stands at its own positions.
        cosine, sine = self.cosine[positions][:, None], self.sine[positions][:, None]
        return self._run(tokens, cosine, sine, mask, cache, positions)

    def _run(
        self,
        tokens: Tensor,
        cosine: Tensor,
        sine: Tensor,
        mask: Tensor | None,
        cache: list[LayerCache] | None,
        positions: Tensor | None,
    ) -> Output:
        x = functional.embedding(tokens, self.embedding)
        router = []
        for number, layer in enumerate(cast(Iterable[Layer], self.layers)):
            stored = None if cache is None else cache[number]
            normed = layer.attention_norm(x).to(self.compute_dtype)
            x = x + layer.attention(normed, cosine, sine, mask, stored, positions)
            normed = layer.moe_norm(x).to(self.compute_dtype).flatten(0, 1)
            mixed, losses = layer.moe(normed)
            x = x + mixed.view_as(x)
            router.append(losses)
        normed = self.norm(x).to(self.compute_dtype)
        logits = functional.linear(normed, self.head.to(self.compute_dtype))
        return Output(logits.float(), router)


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy by row, with a backward that touches the logits once.

    In a whole step of a small model on a CPU it was faster than torch's per-token
    loss; alone it is not (docs/log.md), so whether it is worth its lines is open.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        log_total = logits.logsumexp(dim=-1)
        ctx.save_for_backward(logits, targets, log_total)
        return log_total - logits.gather(-1, targets[:, None]).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        logits, targets, log_total = ctx.saved_tensors
        # d loss / d logits = softmax(logits) - 1 at the target, times the row's gradient.
        slope = (logits - log_total[:, None]).exp_().mul_(gradients[0][:, None])
        return slope.scatter_add_(-1, targets[:, None], -gradients[0][:, None]), None


def next_token_loss(
    logits: Float[Tensor, "batch position vocabulary"], targets: Int[Tensor, "batch position"]
) -> Float[Tensor, "batch position"]:
    """Cross-entropy of each next token in nats."""
    losses: Tensor = _CrossEntropy.apply(logits.flatten(0, 1), targets.flatten())
    return losses.view_as(targets)
