"""What a law may ask of a model: the one interface that both adapters fill.

Shapes in this file:
    batch, position   sequences and their tokens
    tokens            every position of every sequence, flattened
    layers            layers that have experts
    experts, top_k    experts of a layer, experts that see one token
    parts             balance losses the model reports: one a layer, or one for all layers
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

NO_Z_LOSS = "the model has no router z-loss"


class NotApplicableError(Exception):
    """The law has no meaning for this model; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the probing inputs depend on."""

    vocabulary_size: int
    d_model: int
    num_layers: int
    """Layers that have experts."""
    num_experts: int
    top_k: int
    max_positions: int
    """Longest sequence the model takes."""
    window: int | None = None
    """Positions, its own included, that one attention layer lets a position see. None: all."""
    weights_sum_to_one: bool | None
    """Whether a token's k weights are normalised, as declared. None: not declared."""


class RouterSite(NamedTuple):
    """Where one layer's router can be reached."""

    module: nn.Module
    """Its first argument is the router's input."""
    weight: nn.Parameter
    """experts x d_model."""
    bias: nn.Parameter | None = None
    """experts; None: there is none."""

    def exact_logits(
        self, inputs: Float[Tensor, "tokens d_model"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "tokens experts"]:
        """What the router should compute from its input, in float64, with weights kept in `dtype`."""
        logits = inputs.double() @ self.weight.detach().to(dtype).double().T
        return logits if self.bias is None else logits + self.bias.detach().to(dtype).double()


class Choices(NamedTuple):
    """How one layer routed the tokens of one forward pass."""

    inputs: Float[Tensor, "tokens d_model"]
    """The router's input, in the dtype it came in."""
    logits: Float[Tensor, "tokens experts"]
    weights: Float[Tensor, "tokens top_k"]
    """By which the experts' answers are multiplied."""
    experts: Int[Tensor, "tokens top_k"]


class RouterLosses(NamedTuple):
    """The model's own router losses on one batch, with their gradient."""

    balance: Float[Tensor, " parts"]
    z: Float[Tensor, " layers"] | None
    """None: the model has no z-loss."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """How one training batch is computed; the gradient should not depend on it."""

    balance_coefficient: float | None = 0.0
    """None: as the model and its training come, without anything switched on by us."""
    z_coefficient: float = 0.0
    micro_batches: int = 1
    """Forward passes of the batch, one after the other."""
    ranks: int = 1
    """Data-parallel processes that share the batch."""
    recompute: bool = False
    """Whether activations are computed again in the backward pass."""


class StepReport(NamedTuple):
    """What one training batch left, before any optimiser."""

    gradients: dict[str, Tensor]
    """Of the whole objective; a weight without gradient is left out."""
    train_loss: float
    """What the trainer reports as its loss."""
    expert_counts: Int[Tensor, "layers experts"]
    """Choices of every expert, as the balance loss counts them."""


@runtime_checkable
class Subject(Protocol):
    """A Mixture-of-Experts language model in float32, ready to be probed."""

    name: str
    stands_for: str | None
    """Says that this is a small model of the same class as a large one; None: the model itself."""
    shape: Shape

    @property
    def model(self) -> nn.Module:
        """The weights, by name."""
        ...

    def router_sites(self) -> list[RouterSite]:
        """One for each layer that has experts, in order."""
        ...

    def logits(
        self,
        tokens: Int[Tensor, "batch position"],
        counted: Bool[Tensor, "batch position"] | None = None,
    ) -> Float[Tensor, "batch position vocabulary"]:
        """One full forward pass; `counted` is False at padding, on either side."""
        ...

    def choices(self, tokens: Int[Tensor, "batch position"]) -> list[Choices]:
        """How each layer routes the tokens."""
        ...

    def router_losses(
        self,
        tokens: Int[Tensor, "batch position"],
        counted: Bool[Tensor, "batch position"] | None = None,
    ) -> RouterLosses:
        """The losses of one batch as the model's own code computes them.

        Raises:
            NotApplicableError: the model has no balance loss.
        """
        ...

    def step(self, tokens: Int[Tensor, "batch position_and_one"], how: Step) -> StepReport:
        """Forward and backward over one training batch; weights stay as they are."""
        ...

    def balance_coefficient(self) -> float:
        """The coefficient that the model, or its training, comes with.

        Raises:
            NotApplicableError: there is none.
        """
        ...

    def input_gradient(
        self, tokens: Int[Tensor, "1 position"], position: int, pull: Float[Tensor, " vocabulary"]
    ) -> Float[Tensor, "position d_model"]:
        """Gradient of pull . logits[position] by the embedding of every position.

        The tokens must differ from each other.
        """
        ...

    def cached_logits(
        self, tokens: Int[Tensor, "batch position"], prefill: int
    ) -> Float[Tensor, "batch position vocabulary"]:
        """Logits by the decoding cache: `prefill` positions at once, the rest one by one."""
        ...

    def experts_implementations(self) -> tuple[str, ...]:
        """Ways to compute the experts, the plain loop first."""
        ...

    def experts_as(self, name: str) -> AbstractContextManager[None]:
        """Compute the experts in this way for a while."""
        ...

    def bfloat16_implementations(self) -> tuple[str, ...]:
        """Those of `experts_implementations` that take bfloat16 rows, the plain loop first.

        Raises:
            NotApplicableError: the model is not made for bfloat16 products of float32 weights.
        """
        ...

    def bfloat16_as(self, name: str, choices: list[Choices]) -> AbstractContextManager[None]:
        """Compute in this way with bfloat16 products for a while, every token by the experts of
        `choices`; weights and their gradients stay float32."""
        ...

    def bfloat16_choices(self, tokens: Int[Tensor, "batch position"]) -> list[Choices]:
        """`choices` of a copy of the model that computes in bfloat16."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model as its own format has it."""
        ...

    def load(self, folder: Path) -> "Subject":
        """Read back what `save` wrote."""
        ...

    def converted_logits(self, tokens: Int[Tensor, "batch position"], folder: Path) -> Tensor:
        """Logits of the same weights in the other program: ours in transformers, theirs in ours.

        May write to `folder`.

        Raises:
            NotApplicableError: the other program does not have this model.
        """
        ...

    def resume_differences(self, folder: Path, seed: int) -> tuple[int, str]:
        """Tensors and rows that differ between a training run in one go and one that was stopped
        and resumed, with a sentence on what was compared; works in the empty `folder`."""
        ...

    def counted_parameters(self) -> int:
        """Parameters by arithmetic on the config alone.

        Raises:
            NotApplicableError: there is no formula for this class.
        """
        ...

    def counted_forward_flops(self, batch: int, length: int) -> int:
        """FLOPs of the matrix products of a forward pass, by arithmetic on the config alone.

        Raises:
            NotApplicableError: there is no formula for this class.
        """
        ...

    def reduced(self) -> "Subject":
        """A small model of the same class with fresh weights, for laws that need gradients."""
        ...
