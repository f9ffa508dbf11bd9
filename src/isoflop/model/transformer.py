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
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from isoflop.config import UserError
from isoflop.model.attention import Attention, rotary_tables
from isoflop.model.config import ModelConfig
from isoflop.model.loss import mean_loss, token_losses, token_losses_and_entropies
from isoflop.model.moe import ExpertsImplementation, MoE
from isoflop.model.ops import Ops, OpsImplementation, select_ops
from isoflop.model.ops.cached import LayerCache, NewPositions
from isoflop.model.ops.packing import Packing
from isoflop.model.router import RouterStatistics, stack_layers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""By the names that configs and commands use."""

Recompute = Literal["none", "layers"]


class Output(NamedTuple):
    """What the model says of the next token, and how its routers used their experts."""

    logits: Float[Tensor, "batch position vocabulary"]
    router: RouterStatistics


class RMSNorm(nn.Module):
    """The learned scale of a norm; computed by `ops.add_norm`, together with what comes before it."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon


class Layer(nn.Module):
    """Attention, then experts, each added to the residual stream."""

    def __init__(self, config: ModelConfig, ops: Ops, experts: ExpertsImplementation):
        super().__init__()
        self.ops = ops
        self.attention_norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.attention = Attention(config, ops)
        self.moe_norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.moe = MoE(config, ops, experts)

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        delta: Float[Tensor, "batch position d_model"] | None,
        cosine: Float[Tensor, "length head_width"],
        sine: Float[Tensor, "length head_width"],
        documents: Int[Tensor, "batch position"] | None,
        counted: Bool[Tensor, "batch position"] | None,
        experts: Int[Tensor, "batch position top_k"] | None,
        record: list[Tensor] | None,
        packing: Packing | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, RouterStatistics]:
        """The residual stream without the experts' answer, that answer, and the router's statistics.

        `length` is `position` but with `packing`, where it is that of the longest sequence.

        `delta` is the answer of the layer before: each sum is made where the next norm reads it.
        """
        x, normed = self.norm(self.attention_norm, x, delta, dtype)
        delta = self.attention(normed, cosine, sine, documents, packing)
        x, normed = self.norm(self.moe_norm, x, delta, dtype)
        delta, statistics = self.moe(normed, counted, experts, record)
        return x, delta, statistics

    def norm(
        self, norm: RMSNorm, x: Tensor, delta: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """x + delta, and its norm in `dtype`."""
        return self.ops.add_norm(x, delta, norm.weight, norm.epsilon, dtype)


class Transformer(nn.Module):
    """A Mixtral-type decoder.

    The residual stream, norms, router and losses are float32; matrix products
    run in `compute_dtype`. Weights are drawn from `seed` alone, in the order of
    `named_parameters`, so that the same config and seed give the same model.

    Args:
        experts: How the experts' products are computed, see `isoflop.model.moe`.
        ops: How what stands between the products is computed, see `isoflop.model.ops`.
        recompute: "layers" keeps only each layer's input for the backward pass and computes
            the layer again: less memory, one more forward pass, the same results.
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
        ops: OpsImplementation = "auto",
        recompute: Recompute = "none",
    ):
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.ops = select_ops(ops)
        self.recompute = recompute
        self.embedding = nn.Parameter(torch.empty(config.vocabulary_size, config.d_model))
        self.layers = nn.ModuleList(
            Layer(config, self.ops, experts) for _ in range(config.num_layers)
        )
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
        counted: Bool[Tensor, "batch position"] | None = None,
    ) -> Output:
        """Logits of the next token at every position.

        With `documents` (a number for each position's document) attention stops
        at document ends; positions are counted through in both cases. With
        `counted`, the routers' statistics leave out the positions where it is False.
        """
        hidden, router = self.hidden(tokens, documents=documents, counted=counted)
        return Output(self.logits(hidden), router)

    def hidden(
        self,
        tokens: Int[Tensor, "batch position"],
        *,
        documents: Int[Tensor, "batch position"] | None = None,
        counted: Bool[Tensor, "batch position"] | None = None,
        experts: Int[Tensor, "layers batch position top_k"] | None = None,
        record: list[Tensor] | None = None,
        packing: Packing | None = None,
    ) -> tuple[Float[Tensor, "batch position d_model"], RouterStatistics]:
        """What the head reads, in the precision of the products, and the routers' statistics.

        With `experts`, recorded by another pass, each token goes to them; `record` takes those of
        each layer (see `MoE.forward`). With `packing`, `tokens` are the different tokens of several
        sequences, (1, tokens), and so is what returns.
        """
        length = (tokens if packing is None else packing.spread).shape[1]
        if length > self.config.sequence_length:
            raise UserError(
                f"{length} tokens are more than sequence_length={self.config.sequence_length}; "
                "cut the sequence"
            )
        cosine, sine = self.cosine[:length], self.sine[:length]
        x, delta = functional.embedding(tokens, self.embedding), None
        statistics = []
        for place, layer in enumerate(self._layers()):
            chosen = None if experts is None else experts[place]
            tables = (cosine, sine, documents, counted)
            given = (x, delta, *tables, chosen, record, packing, self.compute_dtype)
            if self.recompute == "layers" and torch.is_grad_enabled():
                x, delta, router = checkpoint(
                    layer, *given, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x, delta, router = layer(*given)
            statistics.append(router)
        _, hidden = self._final_norm(x, delta)
        return hidden, stack_layers(statistics)

    def token_losses(
        self,
        tokens: Int[Tensor, "batch position"],
        targets: Int[Tensor, "batch position"],
        *,
        documents: Int[Tensor, "batch position"] | None = None,
    ) -> tuple[Float[Tensor, "batch position"], RouterStatistics]:
        """Cross-entropy of each target in nats; all logits are never held at once."""
        hidden, router = self.hidden(tokens, documents=documents)
        losses = self.losses_of(hidden.flatten(0, 1), targets.flatten())
        return losses.view_as(targets), router

    def losses_of(
        self, hidden: Float[Tensor, "tokens d_model"], targets: Int[Tensor, " tokens"]
    ) -> Float[Tensor, " tokens"]:
        """Cross-entropy in nats of chosen places, from what the head reads there."""
        return token_losses(hidden, self.head, targets, self.ops)

    def losses_and_entropies_of(
        self, hidden: Float[Tensor, "tokens d_model"], targets: Int[Tensor, " tokens"]
    ) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
        """As `losses_of`, and the entropy of the distribution at each place, without gradients."""
        return token_losses_and_entropies(hidden, self.head, targets, self.ops)

    def mean_loss(
        self,
        tokens: Int[Tensor, "batch position"],
        targets: Int[Tensor, "batch position"],
        *,
        documents: Int[Tensor, "batch position"] | None = None,
    ) -> tuple[Float[Tensor, ""], RouterStatistics]:
        """Mean cross-entropy in nats, for training; all logits are never held at once."""
        hidden, router = self.hidden(tokens, documents=documents)
        return mean_loss(hidden.flatten(0, 1), self.head, targets.flatten(), self.ops), router

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
        hidden, router = self.hidden_cached(tokens, positions, cache)
        return Output(self.logits(hidden), router)

    def hidden_cached(
        self,
        tokens: Int[Tensor, "batch position"],
        positions: Int[Tensor, "batch position"],
        cache: list[LayerCache],
        record: list[Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch position d_model"], RouterStatistics]:
        """As `forward_cached`, up to what the head reads.

        `record` takes the experts of each layer, (batch, position, top_k).
        """
        new = NewPositions(positions, self.cosine, self.sine, cache[0].keys.shape[2])
        x, delta = functional.embedding(tokens, self.embedding), None
        statistics = []
        for layer, stored in zip(self._layers(), cache, strict=True):
            x, normed = layer.norm(layer.attention_norm, x, delta, self.compute_dtype)
            delta = layer.attention.forward_cached(normed, new, stored)
            x, normed = layer.norm(layer.moe_norm, x, delta, self.compute_dtype)
            delta, router = layer.moe(normed, record=record)
            statistics.append(router)
        _, hidden = self._final_norm(x, delta)
        return hidden, stack_layers(statistics)

    def empty_cache(self, batch: int, capacity: int) -> list[LayerCache]:
        """Room for `batch` sequences of at most `capacity` tokens, a cache a layer."""
        like = torch.empty(0, dtype=self.compute_dtype, device=self.embedding.device)
        return [LayerCache.empty(self.config, batch, capacity, like) for _ in self.layers]

    def logits(
        self, hidden: Float[Tensor, "*tokens d_model"]
    ) -> Float[Tensor, "*tokens vocabulary"]:
        """What the head says, in float32."""
        return functional.linear(hidden, self.head.to(hidden.dtype)).float()

    def _layers(self) -> Iterable[Layer]:
        return cast(Iterable[Layer], self.layers)

    def _final_norm(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        epsilon = self.config.norm_epsilon
        return self.ops.add_norm(x, delta, self.norm.weight, epsilon, self.compute_dtype)


def next_token_loss(
    logits: Float[Tensor, "batch position vocabulary"], targets: Int[Tensor, "batch position"]
) -> Float[Tensor, "batch position"]:
    """Cross-entropy of each next token in nats, from logits at hand."""
    losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view_as(targets)
