"""What a model says of answers: log-probabilities and entropy of their tokens, with gradients.

Shapes in this file:
    batch          answers computed together
    response       tokens of the longest answer
    answer_tokens  tokens of all answers, one after another
    tokens         tokens read: each prompt once, and the answers' without their last
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from isoflop.model.packed import Packed, pack
from isoflop.model.router import RouterStatistics
from isoflop.model.transformer import Transformer

ENTROPY_CHUNK = 2**24
"""Logits held at once where entropy has gradients: 64 MiB in float32. Chosen."""

EntropyWanted = Literal["none", "value", "gradient"]
"""Whether entropy is computed, and whether gradients flow through it."""


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
    """Answers side by side; neighbours' equal prompts are computed once."""

    packed: Packed
    """Prompts and answers without their last token."""
    predicted: Int[Tensor, " answer_tokens"]
    """Where in the packed tokens each answer token is predicted."""
    targets: Int[Tensor, " answer_tokens"]
    mask: Bool[Tensor, "batch response"]
    """True where an answer has a token."""
    experts: Int[Tensor, "layers 1 tokens top_k"] | None
    """Those that the sampler chose. None: not recorded."""

    @classmethod
    def of(cls, answers: Sequence[Answer], device: torch.device) -> "AnswerBatch":
        """These answers; experts are recorded for all of them or for none."""
        read = [one.response[:-1] for one in answers]
        packed = pack([one.prompt for one in answers], read, device)
        lengths = torch.tensor([len(one.response) for one in answers], device=device)
        place = torch.arange(int(lengths.max()), device=device)
        mask = place < lengths[:, None]
        # The first token is predicted by the prompt's last, each other by the one before it.
        predicted = packed.first_own[:, None] + place - 1
        predicted[:, 0] = packed.last_of_prompt
        return cls(
            packed=packed,
            predicted=predicted[mask],
            targets=torch.tensor([t for one in answers for t in one.response], device=device),
            mask=mask,
            experts=_experts(answers, packed, device),
        )

    def spread(self, values: Float[Tensor, " answer_tokens"]) -> Float[Tensor, "batch response"]:
        """Values of the answers' tokens at their places, 0 where there is none."""
        spread = values.new_zeros(self.mask.shape)
        return spread.masked_scatter(self.mask, values)


def _experts(answers: Sequence[Answer], packed: Packed, device: torch.device) -> Tensor | None:
    given = [one.experts for one in answers if one.experts is not None]
    if not given:
        return None
    longest = packed.packing.spread.shape[1]
    layers, _, top_k = given[0].shape
    filled = np.zeros((layers, len(answers), longest, top_k), dtype=np.int64)
    for place, experts in enumerate(given):
        filled[:, place, : experts.shape[1]] = experts
    flat = torch.from_numpy(filled).to(device).flatten(1, 2)
    return flat[:, packed.packing.places][:, None]


@dataclass(frozen=True)
class Said:
    """What the model says of a batch's answers."""

    log_probs: Float[Tensor, "batch response"]
    """Of every answer token in nats, at the temperature it was drawn at."""
    entropy: Float[Tensor, "batch response"] | None
    """Of the distribution at each answer token, in nats. None: not wanted."""
    router: RouterStatistics
    experts: Int[Tensor, "layers 1 tokens top_k"]
    """That the routers chose, also where the sampler's were followed."""


def say(
    model: Transformer,
    batch: AnswerBatch,
    *,
    temperature: float,
    replay: bool = False,
    entropy: EntropyWanted = "none",
) -> Said:
    """Log-probabilities of the answers' tokens, with gradients, and the entropy at each.

    The same function makes the old, the new and the reference's log-probabilities, so that equal
    weights give equal bits.

    Args:
        replay: send each token to the experts that the sampler chose.
    """
    record: list[Tensor] = []
    hidden, router = model.hidden(
        batch.packed.tokens,
        packing=batch.packed.packing,
        experts=batch.experts if replay else None,
        record=record,
    )
    asked = model.ops.take_rows(hidden[0], batch.predicted)
    if temperature != 1.0:
        asked = asked / temperature
    entropies = None
    if entropy == "value":
        losses, entropies = model.losses_and_entropies_of(asked, batch.targets)
    else:
        losses = model.losses_of(asked, batch.targets)
        if entropy == "gradient":
            entropies = _entropies(model, asked)
    spread = None if entropies is None else batch.spread(entropies)
    return Said(batch.spread(-losses), spread, router, torch.stack(record))


def _entropies(
    model: Transformer, asked: Float[Tensor, "answer_tokens d_model"]
) -> Float[Tensor, " answer_tokens"]:
    """With gradients; in parts, so that logits and their softmax are not held twice at once."""
    size = max(1, ENTROPY_CHUNK // model.config.vocabulary_size)
    parts = []
    for part in asked.split(size):
        log_p = model.logits(part).log_softmax(dim=-1)
        parts.append(-(log_p.exp() * log_p).sum(dim=-1))
    return torch.cat(parts)
