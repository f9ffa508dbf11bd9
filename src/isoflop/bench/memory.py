"""Peak memory of a training step, measured, beside what `isoflop plan` expects.

Each case runs in a process of its own: two optimiser steps, so that AdamW's moments are there
in the second. Measured is what the process held at most above what it held before the model
was built, after one step of a tiny model that loads what libraries load once.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from isoflop.bench.contestants import SEED
from isoflop.bench.machine import ContestantError, PeakMemory, free_memory, run_apart
from isoflop.bench.shapes import WARM_UP_MODEL, Shape, cpu_model, paper_model
from isoflop.bench.text import Text
from isoflop.config import UserError
from isoflop.design.estimate import FLOAT32_BYTES, MemoryEstimate, estimate_memory
from isoflop.design.processor import fuses_experts
from isoflop.model.router import RouterStatistics
from isoflop.model.transformer import Transformer, next_token_loss
from isoflop.train.engine import build_model, choose_engine
from isoflop.train.optim import make_optimizer
from isoflop.train.step import train_step

LossForm = Literal["chunked", "whole"]

STEPS = 2
"""The second has the optimiser's moments from its beginning."""

FREE_SHARE = 0.85
"""Of the free memory that a case may be expected to need. Chosen."""

LOGITS_COPIES = 3
"""A whole cross-entropy holds logits, their log-probabilities and a gradient, float32."""


@dataclass(frozen=True, kw_only=True)
class MemoryCase:
    """One model, batch and way of training whose peak is measured."""

    name: str
    shape: Shape
    precision: Literal["float32", "bfloat16"]
    recompute: Literal["none", "layers"] = "none"
    loss: LossForm = "chunked"
    """"whole" computes the logits of all tokens at once: what the chunked loss saves."""

    @property
    def expected(self) -> MemoryEstimate:
        """The plan's estimate, which knows the chunked loss alone."""
        return estimate_memory(
            self.shape.model,
            micro_batch_tokens=self.shape.batch_tokens,
            precision=self.precision,
            recompute=self.recompute,
            fused_experts=fuses_experts(),
        )


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """One case and its figures in bytes."""

    case: str
    precision: str
    recompute: str
    loss: LossForm
    tokens: int
    """Of the step."""
    measured: int | None
    """None: not measured, see reason."""
    planned: int | None
    """The plan's estimate; None where it has none (the whole loss)."""
    reason: str | None = None

    @property
    def planned_share(self) -> float | None:
        """Planned / measured."""
        if self.planned is None or self.measured is None:
            return None
        return self.planned / self.measured


def _case(shape: Shape, precision: Literal["float32", "bfloat16"], **others: str) -> MemoryCase:
    parts = [shape.name, precision, *(f"{name}={value}" for name, value in others.items())]
    return MemoryCase(name=" ".join(parts), shape=shape, precision=precision, **others)  # type: ignore[arg-type]


def _cpu(d_model: int, num_layers: int, num_experts: int) -> Shape:
    return Shape(
        name=f"d{d_model}-L{num_layers}-E{num_experts}-k2",
        model=cpu_model(d_model, num_layers, num_experts),
        batch_sequences=16,
        device="cpu",
    )


_PAPER = Shape(name="d512-L16-E8-k2", model=paper_model(512, 8), batch_sequences=1, device="cpu")

MEMORY_CASES = (
    _case(_cpu(64, 4, 64), "float32"),
    _case(_cpu(128, 4, 32), "float32"),
    _case(_cpu(256, 8, 16), "bfloat16"),
    _case(_cpu(512, 8, 8), "bfloat16"),
    _case(_cpu(512, 8, 8), "float32", recompute="layers"),
    _case(_PAPER, "bfloat16"),
    _case(_PAPER, "bfloat16", recompute="layers"),
    _case(_PAPER, "bfloat16", loss="whole"),
)
"""Small and large, both precisions; the study's smallest model, one sequence of 4,096 tokens and a
vocabulary of 99,584, with and without the chunked loss."""


def chosen_cases(names: list[str] | None) -> list[MemoryCase]:
    """The cases of the shapes of these names; None: all.

    Raises:
        UserError: an unknown shape.
    """
    known = list(dict.fromkeys(case.shape.name for case in MEMORY_CASES))
    for name in names or ():
        if name not in known:
            raise UserError(f"no shape {name!r}; there are {', '.join(known)}")
    return [case for case in MEMORY_CASES if not names or case.shape.name in names]


def measure_case(case: MemoryCase, threads: int) -> MemoryRow:
    """One case, measured apart; a case without room is not begun."""
    planned = case.expected.total
    logits = LOGITS_COPIES * FLOAT32_BYTES * case.shape.batch_tokens
    needed = planned + (logits * case.shape.model.vocabulary_size if case.loss == "whole" else 0)
    free, measured, reason = free_memory("cpu"), None, None
    if free is not None and needed > FREE_SHARE * free:
        reason = f"needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
    else:
        try:
            measured = run_apart(peak_bytes, case, device="cpu", threads=threads)
            reason = "this system does not tell" if measured is None else None
        except ContestantError as error:
            reason = str(error)
    return MemoryRow(
        case=case.shape.name,
        precision=case.precision,
        recompute=case.recompute,
        loss=case.loss,
        tokens=case.shape.batch_tokens,
        measured=measured,
        planned=planned if case.loss == "chunked" else None,
        reason=reason,
    )


def peak_bytes(case: MemoryCase) -> int | None:
    """Of two steps of the case in this process; None where the system does not tell."""
    tiny = Shape(name="warm-up", model=WARM_UP_MODEL, batch_sequences=1, device="cpu")
    _train(dataclasses.replace(case, shape=tiny))
    memory = PeakMemory("cpu")
    _train(case)
    return memory.read()


def _train(case: MemoryCase) -> None:
    shape = case.shape
    config = shape.train_config(case.precision, recompute=case.recompute)
    engine = choose_engine(shape.model, config, "cpu")
    model = build_model(shape.model, config, engine, SEED)
    if case.loss == "whole":
        # The one place where the step asks for the loss.
        setattr(model, "mean_loss", _whole_loss(model))  # noqa: B010
    optimizer = make_optimizer(model, config)
    text = Text(shape.model.vocabulary_size)
    for number in range(STEPS):
        tokens = text.batch(
            number, sequences=shape.batch_sequences, length=shape.model.sequence_length
        )
        train_step(model, optimizer, config, tokens)


def _whole_loss(model: Transformer) -> Callable[..., tuple[Tensor, RouterStatistics]]:
    """The mean loss from the logits of all tokens, as without chunks."""

    def mean_loss(
        tokens: Tensor, targets: Tensor, documents: Tensor | None = None
    ) -> tuple[Tensor, RouterStatistics]:
        output = model(tokens, documents=documents)
        return next_token_loss(output.logits, targets).mean(), output.router

    return mean_loss
