"""What is asked of a generator, and what it answers: values only, no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from isoflop.evaluate.sampling.config import Sampling

Finish = Literal["stop", "end_of_text", "length", "not_finite"]
"""Why a sample ended; "not_finite": the model had no finite logits for its next token."""

NOT_FINITE = "the model's logits are not finite"
"""Reason of an answer that cannot be graded for it: training diverged or weights are damaged."""

UNKNOWN_TOKEN = "it holds a token that the tokenizer does not have"
"""Reason of an answer that cannot be graded for it: its text lacks what the model said."""

GREEDY_SEED = 0
"""Of a prompt's one sample at temperature 0, which draws nothing."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt, and the seeds of its samples: one sample a seed."""

    prompt: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """What the generator's model did for a sample, kept where it is asked for."""

    log_probs: NDArray[np.float32]
    """Of each chosen token under the distribution it was drawn from before any cut by top_k and
    top_p, in nats: the end of text, where it ended the sample, is the last."""
    experts: NDArray[np.int16]
    """Chosen experts (layers, positions, top_k) of every token that was read: prompt and sample, all
    but the last chosen token."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One finished sample."""

    request: int
    """Place of its request, from 0."""
    seed: int
    tokens: tuple[int, ...]
    text: str
    """Up to and without the stop text."""
    finish: Finish
    unknown_token: bool = False
    """Whether one of its tokens is none of the tokenizer's, but of a row that pads the vocabulary, or of
    another tokenizer's: the text lacks it."""
    record: SampleRecord | None = field(default=None, compare=False)
    """None: not asked for."""


@runtime_checkable
class Generator(Protocol):
    """Whatever can answer requests."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Sample]:
        """Samples as they finish, in any order."""
        ...
