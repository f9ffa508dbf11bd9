"""What a model says of answers: log-probabilities and entropy of their tokens, with gradients.

Shapes in this file:
    batch     answers computed together
    position  tokens of the longest prompt and answer, or of the longest answer
    tokens    tokens of all answers, one after another
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from isoflop.model.router import RouterStatistics
from isoflop.model.transformer import Transformer

ENTROPY_CHUNK = 2**24
"""Logits held at once where entropy is computed: 64 MiB in float32. Chosen."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prompt with one sampled answer, as the policy is trained on it."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    """What was sampled; the end of text, where it was, is its last token."""
    experts: NDArray[np.int16] | None = None
    """Chosen by the rollout's routers: (layers, tokens read, top_k). None: not recorded."""


@dataclass(frozen=True)
class AnswerBatch:
    """Answers side by side, filled up on the right, where causal attention never looks."""

    inputs: Int[Tensor, "batch position"]
    """Prompts and answers without their last token."""
    rows: Int[Tensor, " tokens"]
    columns: Int[Tensor, " tokens"]
    """Where in `inputs` each answer token is predicted."""
    targets: Int[Tensor, " tokens"]
    mask: Bool[Tensor, "batch response"]
    """True where an answer has a token."""
    counted: Bool[Tensor, "batch position"]
    """True where `inputs` holds a token, not filling."""
    experts: Int[Tensor, "layers batch position top_k"] | None
    """Those that the sampler chose. None: not recorded."""

    @classmethod
    def of(cls, answers: Sequence[Answer], device: torch.device) -> "AnswerBatch":
        """These answers; experts are recorded for all of them or for none."""
        inputs = [(*one.prompt, *one.response)[:-1] for one in answers]
        longest = max(map(len, inputs))
        filled = [[*row, *[0] * (longest - len(row))] for row in inputs]
        lengths = torch.tensor([len(one.response) for one in answers])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        rows, place = mask.nonzero(as_tuple=True)
        starts = torch.tensor([len(one.prompt) - 1 for one in answers])
        read = torch.tensor([len(row) for row in inputs])
        return cls(
            inputs=torch.tensor(filled, device=device),
            rows=rows.to(device),
            columns=(starts[rows] + place).to(device),
            targets=torch.tensor([t for one in answers for t in one.response], device=device),
            mask=mask.to(device),
            counted=(torch.arange(longest) < read[:, None]).to(device),
            experts=_experts(answers, longest, device),
        )

    def spread(self, values: Float[Tensor, " tokens"]) -> Float[Tensor, "batch response"]:
        """Values of the answers' tokens at their places, 0 where there is none."""
        spread = values.new_zeros(self.mask.shape)
        return spread.masked_scatter(self.mask, values)


def _experts(answers: Sequence[Answer], longest: int, device: torch.device) -> Tensor | None:
    given = [one.experts for one in answers if one.experts is not None]
    if not given:
        return None
    layers, _, top_k = given[0].shape
    filled = np.zeros((layers, len(answers), longest, top_k), dtype=np.int64)
    for place, experts in enumerate(given):
        filled[:, place, : experts.shape[1]] = experts
    return torch.from_numpy(filled).to(device)


@dataclass(frozen=True)
class Said:
    """What the model says of a batch's answers."""

    log_probs: Float[Tensor, "batch response"]
    """Of every answer token in nats, at the temperature it was drawn at."""
    entropy: Float[Tensor, "batch response"] | None
    """Of the distribution at each answer token, in nats. None: not asked for."""
    router: RouterStatistics
    experts: Int[Tensor, "layers batch position top_k"]
    """That the routers chose, also where the sampler's were followed."""


def say(
    model: Transformer,
    batch: AnswerBatch,
    *,
    temperature: float,
    replay: bool = False,
    with_entropy: bool = False,
) -> Said:
    """Log-probabilities of the answers' tokens, with gradients; entropy, with gradients too.

    The same function makes the old, the new and the reference's log-probabilities, so that equal
    weights give equal bits.

    Args:
        replay: send each token to the experts that the sampler chose.
        with_entropy: compute it.
    """
    record: list[Tensor] = []
    hidden, router = model.hidden(
        batch.inputs,
        counted=batch.counted,
        experts=batch.experts if replay else None,
        record=record,
    )
    asked = hidden[batch.rows, batch.columns] / temperature
    log_probs = batch.spread(-model.losses_of(asked, batch.targets))
    entropy = batch.spread(_entropy(model, asked)) if with_entropy else None
    return Said(log_probs, entropy, router, torch.stack(record))


def _entropy(
    model: Transformer, asked: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, " tokens"]:
    """In parts, so that without gradients all logits are never held at once."""
    size = max(1, ENTROPY_CHUNK // model.config.vocabulary_size)
    parts = []
    for part in asked.split(size):
        log_p = model.logits(part).log_softmax(dim=-1)
        parts.append(-(log_p.exp() * log_p).sum(dim=-1))
    return torch.cat(parts)
