"""Sequences that begin alike, with what they share computed once.

Answers to one prompt differ only behind it. Norms, products and experts look at one token at a
time, so that they run over the different tokens alone; only attention looks at whole sequences,
and learns from a `Packing` where their tokens stand.

Shapes in this file:
    tokens    tokens that differ: each prompt once, each answer's own
    batch     sequences
    position  tokens of the longest
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from isoflop.model.ops.packing import Packing


@dataclass(frozen=True)
class Packed:
    """Sequences, each a prompt and what is read behind it."""

    tokens: Int[Tensor, "1 tokens"]
    packing: Packing
    last_of_prompt: Int[Tensor, " batch"]
    """For each sequence the place of its prompt's last token in `tokens`."""
    first_own: Int[Tensor, " batch"]
    """The place at which the tokens behind its prompt begin there."""


def pack(
    prompts: Sequence[tuple[int, ...]], others: Sequence[tuple[int, ...]], device: torch.device
) -> Packed:
    """Pack sequences; neighbours with equal prompts share theirs. Prompts must not be empty."""
    tokens: list[int] = []
    begins, own, firsts = np.zeros((3, len(prompts)), dtype=np.int64)
    for number, (prompt, other) in enumerate(zip(prompts, others, strict=True)):
        if number and prompt == prompts[number - 1]:
            begins[number], firsts[number] = begins[number - 1], len(prompt)
        else:
            begins[number] = len(tokens)
            tokens += prompt
        own[number] = len(tokens)
        tokens += other
    asked = np.array([len(prompt) for prompt in prompts])
    lengths = asked + [len(other) for other in others]
    place = np.arange(lengths.max())
    within = place < asked[:, None]
    spread = np.where(within, begins[:, None], own[:, None] - asked[:, None]) + place
    spread[place >= lengths[:, None]] = 0
    # Written from behind, so that of several places of a token the first stays.
    places = np.zeros(len(tokens), dtype=np.int64)
    flat = np.flatnonzero(place < lengths[:, None])[::-1]
    places[spread.reshape(-1)[flat]] = flat

    def sent(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return Packed(
        tokens=torch.tensor([tokens], device=device),
        packing=Packing(sent(spread), sent(places), sent(lengths), sent(firsts)),
        last_of_prompt=sent(begins + asked - 1),
        first_own=sent(own),
    )
