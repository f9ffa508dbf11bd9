"""Batches of a text that can be learned: each token has a few likely successors.

Random tokens would not do: the losses of all contestants would stay at chance, and
experts would be used evenly. Batch n is a function of n and the seed alone.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

SUCCESSOR_SHARES = (0.5, 0.25, 0.125, 0.0625)
"""How often each of a token's four usual successors comes; the rest are any tokens. Chosen."""


class Text:
    """An endless text over a vocabulary, cut into batches."""

    def __init__(self, vocabulary_size: int, *, seed: int = 0):
        self._seed = seed
        generator = np.random.default_rng(seed)
        # Zipf's law: token n comes about as often as 1 / n.
        weights = 1 / np.arange(1, vocabulary_size + 1)
        self._shares = np.cumsum(weights / weights.sum())
        drawn = generator.random((vocabulary_size, len(SUCCESSOR_SHARES)))
        self._successors = self._tokens(drawn)

    def batch(
        self, number: int, *, sequences: int, length: int
    ) -> Int[Tensor, "sequences position"]:
        """Batch `number`: `sequences` of `length` + 1 tokens, the last for the last target."""
        generator = np.random.default_rng((self._seed, number))
        choices = np.searchsorted(
            np.cumsum(SUCCESSOR_SHARES), generator.random((sequences, length + 1))
        )
        tokens = self._tokens(generator.random((sequences, length + 1)))
        for position in range(1, length + 1):
            place = choices[:, position]
            usual = place < len(SUCCESSOR_SHARES)
            before = tokens[usual, position - 1]
            tokens[usual, position] = self._successors[before, place[usual]]
        return torch.from_numpy(tokens)

    def _tokens(self, drawn: np.ndarray) -> np.ndarray:
        """Tokens by their frequency from numbers in [0, 1)."""
        found = np.searchsorted(self._shares, drawn)
        return np.minimum(found, len(self._shares) - 1).astype(np.int64)
