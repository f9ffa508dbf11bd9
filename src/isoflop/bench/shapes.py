"""The shapes that are measured, by name."""

from dataclasses import dataclass
from typing import Any, Literal

from isoflop.config import UserError
from isoflop.experiments import load_experiment
from isoflop.model.config import ModelConfig
from isoflop.train.config import TrainConfig

Device = Literal["cpu", "cuda"]

CPU_VOCABULARY_SIZE = 512
CPU_BATCH_SEQUENCES = 16
CPU_SEQUENCE_LENGTH = 128
"""The CPU shapes' vocabulary and batch: 2,048 tokens a step. Chosen so that a step takes seconds at
most, and that the head is no larger a part of the work than in a large model."""

PAPER_VOCABULARY_SIZE = 99_584
PAPER_SEQUENCE_LENGTH = 4096
PAPER_LAYERS = 16
PAPER_HEAD_WIDTH = 128
"""Of the optimal-sparsity study (arXiv:2508.18672, launch scripts)."""

CUDA_BATCH_SEQUENCES = 4
"""As many as fit on 139 GB at d = 2048 in every contestant. Chosen by counting, not tuned."""

SMALL_HEAD_WIDTH, LARGE_HEAD_WIDTH, LARGE_WIDTH = 32, 64, 128
"""Heads of the CPU shapes are 64 wide from d = 128 on, 32 below. Chosen."""

PEAK_LEARNING_RATE = 3e-4
"""High enough that ten steps take two nats off the loss, so that equal losses say something; at 1e-3
and d = 256 training is so violent that rounding alone parts them (docs/log.md)."""

ROUTER_COEFFICIENT = 1e-8
"""Of both router losses: they are computed and differentiated, but so light that the two formulas
(transformers pools the layers and has no z-loss) do not part the losses. Without any, float32 losses
agree to 1e-4 nats after five steps; with the study's 1e-2 they part by 0.02 (docs/log.md)."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One model and batch on which contestants are compared."""

    name: str
    model: ModelConfig
    batch_sequences: int
    device: Device
    """Where it is measured unless asked otherwise."""
    screen_steps: int = 3
    """Steps of each contestant before the best are chosen; the first is not timed."""
    loss_steps: int = 20
    """Steps after which the two best must have equal losses before their speeds are told."""
    implementations: tuple[str, ...] = ("eager", "grouped_mm", "batched_mm")
    """transformers' implementations that are tried unless asked otherwise."""
    by_name_only: bool = False
    """Whether it is measured only when asked for."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of one step."""
        return self.batch_sequences * self.model.sequence_length

    def train_config(
        self,
        precision: Literal["float32", "bfloat16"],
        experts: Literal["grouped", "padded", "loop"] = "grouped",
        recompute: Literal["none", "layers"] = "none",
    ) -> TrainConfig:
        """The recipe of every contestant: the study's, at a constant rate."""
        return TrainConfig(
            train_tokens=self.batch_tokens,
            batch_sequences=self.batch_sequences,
            sequence_length=self.model.sequence_length,
            peak_learning_rate=PEAK_LEARNING_RATE,
            warmup_steps=0,
            balance_coefficient=ROUTER_COEFFICIENT,
            z_coefficient=ROUTER_COEFFICIENT,
            num_checkpoints=1,
            precision=precision,
            experts=experts,
            recompute=recompute,
        )


def cpu_model(d_model: int, num_layers: int, num_experts: int, top_k: int = 2) -> ModelConfig:
    """A model of the CPU shapes' vocabulary and sequence, experts twice as wide as the stream."""
    head_width = LARGE_HEAD_WIDTH if d_model >= LARGE_WIDTH else SMALL_HEAD_WIDTH
    return ModelConfig(
        vocabulary_size=CPU_VOCABULARY_SIZE,
        num_layers=num_layers,
        d_model=d_model,
        num_heads=d_model // head_width,
        d_expert=2 * d_model,
        num_experts=num_experts,
        top_k=top_k,
        sequence_length=CPU_SEQUENCE_LENGTH,
    )


WARM_UP_MODEL = cpu_model(64, 1, 4)
"""Small enough to cost nothing; its step loads what the first step of any model loads."""


def paper_model(d_model: int, num_experts: int, top_k: int = 2) -> ModelConfig:
    """A cell of the study's grid."""
    return ModelConfig(
        vocabulary_size=PAPER_VOCABULARY_SIZE,
        num_layers=PAPER_LAYERS,
        d_model=d_model,
        num_heads=d_model // PAPER_HEAD_WIDTH,
        d_expert=2 * d_model,
        num_experts=num_experts,
        top_k=top_k,
        sequence_length=PAPER_SEQUENCE_LENGTH,
    )


def _cpu(d_model: int, num_layers: int, num_experts: int, **others: Any) -> Shape:
    return Shape(
        name=f"d{d_model}-L{num_layers}-E{num_experts}-k2",
        model=cpu_model(d_model, num_layers, num_experts),
        batch_sequences=CPU_BATCH_SEQUENCES,
        device="cpu",
        **others,
    )


def _cuda(d_model: int, num_experts: int) -> Shape:
    return Shape(
        name=f"d{d_model}-L{PAPER_LAYERS}-E{num_experts}-k2",
        model=paper_model(d_model, num_experts),
        batch_sequences=CUDA_BATCH_SEQUENCES,
        device="cuda",
    )


def _demo() -> Shape:
    demo = load_experiment("demo")
    largest = max(demo.cells, key=lambda cell: cell.model.num_experts)
    batch = demo.train.batch_sequences
    return Shape(
        name="demo",
        model=largest.model,
        batch_sequences=batch,
        device="cpu",
        by_name_only=True,
    )


SPEED_SHAPES = (
    _cpu(64, 4, 8),
    _cpu(64, 4, 64),
    _cpu(128, 4, 32),
    _cpu(256, 8, 16, loss_steps=10),
    _cpu(512, 8, 8, screen_steps=2, loss_steps=3),
    _cpu(
        512,
        8,
        64,
        screen_steps=2,
        loss_steps=2,
        implementations=("grouped_mm",),
        by_name_only=True,
    ),
    _cuda(512, 8),
    _cuda(1024, 16),
    _cuda(2048, 8),
    _demo(),
)
"""d512-L8-E64-k2 has 0.8 B parameters, 13 GB of training state: it takes longer than all others
together, so it is measured, and transformers' slower implementations there, when asked for."""


def chosen_shapes(names: list[str] | None, device: Device) -> list[Shape]:
    """The shapes of these names, or all of the device that need not be asked for.

    Raises:
        UserError: an unknown name.
    """
    known = {shape.name: shape for shape in SPEED_SHAPES}
    if not names:
        return [s for s in SPEED_SHAPES if s.device == device and not s.by_name_only]
    for name in names:
        if name not in known:
            raise UserError(f"no shape {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names]
