"""How one model is trained. Defaults are the study's (arXiv:2508.18672, section 3.1, launch scripts)."""

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

from isoflop.config import UserError

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Budget, optimiser and measurements of one pre-training run."""

    train_tokens: int
    """Training tokens; rounded down to whole batches."""
    batch_sequences: int
    """Sequences in one optimiser step."""
    sequence_length: int
    """Tokens in one sequence."""
    micro_batch_sequences: int | None = None
    """Sequences in one forward pass; gradients are summed over them. None: the whole batch."""
    peak_learning_rate: float = 4e-4
    final_learning_rate_share: float = 0.1
    """The cosine ends at this share of the peak."""
    warmup_steps: int = 2000
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """On matrices only; norms have none."""
    max_gradient_norm: float = 1.0
    """L2 norm to which gradients are clipped."""
    balance_coefficient: float = 1e-2
    """Of the Switch balance loss, summed over layers."""
    balance_scope: Literal["micro", "sequence", "global"] = "global"
    """Over which tokens the balance loss asks for even use, see `isoflop.model.router.balance_loss`.
    Global, because only then the loss does not depend on how a batch is split: memory forces
    smaller micro-batches for more experts, and "micro" (the study's) then asks sparser models for
    a stricter balance. With one micro-batch a step the two are the same."""
    z_coefficient: float = 1e-3
    """Of the router z-loss, summed over layers."""
    precision: Precision = "float32"
    """Of the matrix products; weights, gradients and optimiser are float32."""
    reset_attention: bool = False
    """Whether attention stops at document ends. The study lets it run across."""
    log_steps: int = 50
    """Steps between training rows."""
    num_checkpoints: int = 5
    """Checkpoints kept, evenly spaced, the last at the end; each is validated and evaluated."""
    resume_seconds: float = 20.0
    """Time between saved states from which a killed run goes on. No influence on results."""
    validation_sequences: int = 32
    """Sequences a source for one validation loss."""
    experts: Literal["grouped", "padded", "loop", "auto"] = "grouped"
    """How experts are computed: grouped or padded products, or the plain loop that defines them.
    "auto" times the first two before the first step and records the choice in engine.jsonl,
    which a resumed run reads: they differ by rounding."""
    ops: Literal["auto", "native", "torch"] = "auto"
    """What computes between the products, see `isoflop.model.ops`. Auto: C where it compiles."""
    recompute: Literal["none", "layers"] = "none"
    """"layers" computes each layer again in the backward pass: less memory, same results."""

    def __post_init__(self) -> None:
        for field in fields(self):
            allowed = get_args(field.type)
            if get_origin(field.type) is Literal and getattr(self, field.name) not in allowed:
                raise UserError(
                    f"{field.name}={getattr(self, field.name)!r} must be one of "
                    + ", ".join(map(repr, allowed))
                )
        counts = ("batch_sequences", "sequence_length", "log_steps", "num_checkpoints")
        for name in (*counts, "validation_sequences", "train_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if self.num_steps < 1:
            raise UserError(
                f"train_tokens={self.train_tokens} is less than one batch of {self.batch_tokens} tokens"
            )
        micro = self.micro_batch_sequences
        if micro is not None and (micro < 1 or self.batch_sequences % micro):
            raise UserError(
                f"micro_batch_sequences={micro} must divide batch_sequences={self.batch_sequences}"
            )
        if not 0 <= self.warmup_steps < self.num_steps:
            raise UserError(
                f"warmup_steps={self.warmup_steps} must be less than the run's {self.num_steps} steps"
            )
        if not (self.peak_learning_rate > 0 and 0 <= self.final_learning_rate_share <= 1):
            raise UserError(
                "peak_learning_rate must be above 0 and final_learning_rate_share in [0, 1]"
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.epsilon > 0):
            raise UserError("beta1 and beta2 must be in [0, 1) and epsilon above 0")
        for name in ("weight_decay", "balance_coefficient", "z_coefficient", "resume_seconds"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must be 0 or more")
        if not self.max_gradient_norm > 0:
            raise UserError(f"max_gradient_norm={self.max_gradient_norm} must be above 0")
        if self.num_checkpoints > self.num_steps:
            raise UserError(
                f"num_checkpoints={self.num_checkpoints} must be at most the run's {self.num_steps} steps"
            )

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimiser step."""
        return self.batch_sequences * self.sequence_length

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the run."""
        return self.train_tokens // self.batch_tokens

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """Steps after which a checkpoint is kept; the last is the end."""
        return tuple(
            round(self.num_steps * (i + 1) / self.num_checkpoints)
            for i in range(self.num_checkpoints)
        )
