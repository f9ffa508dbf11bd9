"""Who is compared: our training step, and transformers' Mixtral with the same weights and recipe."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from isoflop.bench.shapes import Device, Shape
from isoflop.config import UserError
from isoflop.model.huggingface import mixtral_model
from isoflop.model.transformer import Transformer
from isoflop.train.config import TrainConfig
from isoflop.train.engine import build_model, choose_engine
from isoflop.train.optim import make_optimizer
from isoflop.train.step import train_step

Family = Literal["ours", "transformers"]
BenchPrecision = Literal["float32", "bfloat16", "bfloat16 autocast"]
Step = Callable[[Tensor], float]
"""Trains once on tokens (sequences, position + 1); returns the next-token loss before the step."""

OUR_EXPERTS = ("grouped", "padded")
PEER_EXPERTS = ("eager", "grouped_mm", "batched_mm")
"""transformers' implementations of the experts that run on both devices."""

MAX_GATHERED_BYTES = 4 << 30
"""Of weights that batched_mm may copy, one matrix a row and layer, before it is skipped. Chosen."""

SEED = 0
"""Of the weights."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way to train the model."""

    family: Family
    experts: str
    """The implementation of the experts, by its name in its family."""
    precision: BenchPrecision
    """For transformers "bfloat16" has everything in it, weights and optimiser too, and "bfloat16
    autocast" float32 weights; ours in bfloat16 has float32 weights and bfloat16 products."""

    @property
    def name(self) -> str:
        """For people, e.g. "transformers grouped_mm float32"."""
        return f"{self.family} {self.experts} {self.precision}"

    @property
    def products(self) -> Literal["float32", "bfloat16"]:
        """Precision of the matrix products."""
        return "float32" if self.precision == "float32" else "bfloat16"


def check_peers(peers: list[str] | None) -> None:
    """
    Raises:
        UserError: an implementation that transformers does not have, or is not compared here.
    """
    for name in peers or ():
        if name not in PEER_EXPERTS:
            raise UserError(f"no peer {name!r}; there are {', '.join(PEER_EXPERTS)}, or none")


def contestants(shape: Shape, peers: list[str] | None) -> list[Contestant]:
    """All that are tried at a shape: the reference of the losses first.

    Args:
        peers: transformers' implementations; None: those of the shape; empty: none.
    """
    ours = [
        Contestant(family="ours", experts=experts, precision=precision)
        for precision in ("float32", "bfloat16")
        for experts in OUR_EXPERTS
    ]
    theirs = [
        Contestant(family="transformers", experts=experts, precision=precision)
        for experts in (shape.implementations if peers is None else peers)
        for precision in ("float32", "bfloat16", "bfloat16 autocast")
    ]
    return theirs + ours


def skip_reason(contestant: Contestant, shape: Shape) -> str | None:
    """Why a contestant is not tried at a shape; None: it is."""
    if contestant.experts != "batched_mm":
        return None
    model = shape.model
    matrix = 3 * model.d_model * model.d_expert * (4 if contestant.precision != "bfloat16" else 2)
    gathered = model.num_layers * shape.batch_tokens * model.top_k * matrix
    if gathered <= MAX_GATHERED_BYTES:
        return None
    return (
        f"it copies an expert's weights for every row: {gathered / 1e9:.0f} GB a step, over the "
        f"{MAX_GATHERED_BYTES / 1e9:.1f} GB allowed here"
    )


def build(contestant: Contestant, shape: Shape, device: Device) -> Step:
    """The contestant's step, from the same weights for all.

    Raises:
        UserError: transformers is not installed.
    """
    if contestant.family == "ours":
        return _build_ours(contestant, shape, device)
    config = shape.train_config("float32")
    peer = mixtral_model(Transformer(shape.model, seed=SEED), contestant.experts).train()
    peer.to(device=device, dtype=torch.bfloat16 if contestant.precision == "bfloat16" else None)
    return _peer_step(peer, contestant, shape, config)


def _build_ours(contestant: Contestant, shape: Shape, device: Device) -> Step:
    config = shape.train_config(contestant.products, contestant.experts)  # type: ignore[arg-type]
    engine = choose_engine(shape.model, config, device)
    model = build_model(shape.model, config, engine, SEED).to(device)
    optimizer = make_optimizer(model, config)
    return lambda tokens: train_step(model, optimizer, config, tokens).train_loss


def _peer_step(peer: nn.Module, contestant: Contestant, shape: Shape, config: TrainConfig) -> Step:
    """A training step as transformers' users write it, with the balance loss on its way.

    Theirs is one loss over all layers, k at even use; the coefficient makes it weigh as much as
    ours, 1 a layer. Mixtral has no z-loss.
    """
    optimizer = make_optimizer(peer, config)
    coefficient = config.balance_coefficient * shape.model.num_layers / shape.model.top_k

    def step(tokens: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(contestant, tokens.device.type):
            output: Any = peer(input_ids=tokens[:, :-1], output_router_logits=True, use_cache=False)
            logits = output.logits.float().flatten(0, 1)
            loss = functional.cross_entropy(logits, tokens[:, 1:].flatten())
        (loss + coefficient * output.aux_loss).backward()
        nn.utils.clip_grad_norm_(peer.parameters(), config.max_gradient_norm)
        optimizer.step()
        return float(loss.item())

    return step


def _autocast(contestant: Contestant, device: str) -> AbstractContextManager[Any]:
    if contestant.precision == "bfloat16 autocast":
        return torch.autocast(device, torch.bfloat16)
    return nullcontext()
