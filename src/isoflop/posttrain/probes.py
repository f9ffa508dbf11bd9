"""Second moments of what goes into the matrices and of the gradients that come out: K-FAC's factors.

For a matrix W with y = W x, the factors are A = E[x x^T] over inputs and G = E[g g^T] over gradients of
the loss by y; K-FAC takes their product for W's block of the Fisher matrix, so that the block's
largest eigenvalue is about that of A times that of G. They are taken on a fixed text, of which the
model's own next-token cross-entropy is the loss. Of a layer's experts, which are one weight, they are taken
once, over the rows of all of them: the block of a single expert has no row of its own. The embedding is
looked up, not multiplied, and has none.

Sources: K-FAC, Martens and Grosse (arXiv:1503.05671); the probes every 25 steps of arXiv:2508.18672,
released code, whose two texts are not given in the paper: these here are our own. The expectation
of G is over the text's own tokens (the empirical Fisher), as there.

Shapes in this file:
    tokens  of the probing text, or rows of the experts' product
    width   of a matrix's input or output
"""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from isoflop.model.attention import Attention
from isoflop.model.moe import MoE
from isoflop.model.ops import TORCH_OPS, Ops
from isoflop.model.transformer import Layer, Transformer
from isoflop.tokens.tokenizer import Tokenizer

PROBE_TEXTS = (
    "Question: A farmer sells 3 baskets of 12 eggs at 2 dollars an egg. How much does he earn?\n"
    "<llm-code>\neggs = 3 * 12\neggs * 2\n</llm-code>\nHe earns 72 dollars.\n",
    "The river rises in the hills and reaches the sea after some two hundred miles of quiet fields.",
)
"""One with a program, one plain: the two kinds that the study's probes had."""


@dataclass(frozen=True, kw_only=True)
class SecondMomentRow:
    """One matrix at one step. Written by posttrain.probes."""

    step: int
    matrix: str
    """Name of the weight."""
    num_rows: int
    """Inputs over which the moments are means; of experts, of all of them together."""
    input_trace: float
    """Of A: the mean squared length of an input."""
    input_largest_eigenvalue: float
    gradient_trace: float
    """Of G, gradients of the summed loss."""
    gradient_largest_eigenvalue: float
    fisher_largest_eigenvalue: float
    """Their product: K-FAC's estimate for the matrix's block."""


class _Tape:
    """Inputs and output gradients of every matrix, by name, over all texts."""

    def __init__(self) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.gradients: dict[str, list[Tensor]] = {}

    def note(self, name: str, inputs: Tensor, out: Tensor) -> Tensor:
        """Remember the inputs now and the gradients of `out` when they come."""
        self.inputs.setdefault(name, []).append(inputs.detach().flatten(0, -2))
        out.register_hook(lambda gradient: self._take(name, gradient))
        return out

    def _take(self, name: str, gradient: Tensor) -> None:
        self.gradients.setdefault(name, []).append(gradient.detach().flatten(0, -2))


def probe_second_moments(
    model: Transformer, tokenizer: Tokenizer, *, step: int, texts: Sequence[str] = PROBE_TEXTS
) -> list[SecondMomentRow]:
    """A row for each matrix of attention, routers, experts (a layer's together) and head; the model and its
    gradients stay as they are.

    Texts are cut to the model's length; what has fewer than two tokens is left out.
    """
    tape = _Tape()
    listening = _listening_copy(model, tape)
    for text in texts:
        tokens = tokenizer.encode(text)[: model.config.sequence_length + 1]
        if len(tokens) < 2:
            continue
        row = torch.tensor([tokens], device=model.embedding.device)
        hidden, _ = listening.hidden(row[:, :-1])
        logits = tape.note("head", hidden[0], listening.logits(hidden[0]))
        loss = functional.cross_entropy(logits, row[0, 1:], reduction="sum")
        # Asked for the embedding's alone: on its way back the gradient passes every product.
        torch.autograd.grad(loss, listening.embedding)
    return [_row(tape, name, step) for name in tape.inputs]


def _listening_copy(model: Transformer, tape: _Tape) -> Transformer:
    """The same weights in plain PyTorch, every product heard."""
    shared: dict[int, Any] = {id(value): value for value in (*model.parameters(), *model.buffers())}
    listening = copy.deepcopy(model, shared)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ops = _heard(TORCH_OPS, tape, names)
    for module in listening.modules():
        if isinstance(module, Transformer | Layer | Attention | MoE):
            module.ops = ops
        if isinstance(module, MoE):
            _hear_router(module, tape, names[id(module.router)])
    return listening


def _hear_router(moe: MoE, tape: _Tape, name: str) -> None:
    """Note the router's product, which has no operation of its own: what the layer reads goes in, and what
    is routed by comes out."""
    read: list[Tensor] = []
    moe.register_forward_pre_hook(lambda _, given: read.append(given[0].flatten(0, -2)))
    ops = moe.ops

    def route_tokens(logits: Tensor, *others: Any) -> Any:
        return ops.route_tokens(tape.note(name, read.pop(), logits), *others)

    moe.ops = dataclasses.replace(ops, route_tokens=route_tokens)


def _heard(ops: Ops, tape: _Tape, names: dict[int, str]) -> Ops:
    def linear(x: Tensor, weight: Tensor) -> Tensor:
        return tape.note(names[id(weight)], x, ops.linear(x, weight))

    def expert_product(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        return tape.note(names[id(weight)], rows, ops.expert_product(rows, weight, ends))

    return dataclasses.replace(ops, linear=linear, expert_product=expert_product)


def _row(tape: _Tape, name: str, step: int) -> SecondMomentRow:
    inputs, gradients = torch.cat(tape.inputs[name]), torch.cat(tape.gradients[name])
    input_trace, input_largest = trace_and_largest(inputs)
    gradient_trace, gradient_largest = trace_and_largest(gradients)
    return SecondMomentRow(
        step=step,
        matrix=name,
        num_rows=len(inputs),
        input_trace=input_trace,
        input_largest_eigenvalue=input_largest,
        gradient_trace=gradient_trace,
        gradient_largest_eigenvalue=gradient_largest,
        fisher_largest_eigenvalue=input_largest * gradient_largest,
    )


def trace_and_largest(rows: Float[Tensor, "tokens width"]) -> tuple[float, float]:
    """Trace and largest eigenvalue of the rows' second moment, E[x x^T].

    By the smaller of the two Gram matrices: both have the same eigenvalues but for zeros.
    """
    rows = rows.double()
    gram = rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows
    eigenvalues = torch.linalg.eigvalsh(gram / rows.shape[0])
    return eigenvalues.sum().item(), eigenvalues[-1].item()
