"""Which source each sample comes from: shares are met at every moment of a run.

After n samples a source with share s has given more than s n - 1 and fewer than
s n + 1 of them. The rule: among the sources that are behind (samples so far <
s (n + 1)), the one whose next sample falls due first, at (samples + 1) / s. These
are the windows of Pfair scheduling on one processor (Baruah et al. 1996,
"Proportionate progress", Algorithmica 15), where earliest deadline first never
misses. Megatron-LM's rule, always the largest deficit, has no such bound: from four
sources on it can fall more than a sample behind (1.03 with shares 0.4556, 0.003,
0.5182, 0.0232, found by random search).
"""

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from isoflop.config import UserError

BLOCK_SAMPLES = 4096
"""Samples decided together. No influence on the order. Chosen."""


class Blend:
    """The endless sequence of sources for given shares; random access by sample number.

    The order is worked out up to the farthest sample asked for, about a second and
    two megabytes per million samples, once per object. It depends on the shares only.
    """

    def __init__(self, shares: Sequence[float]):
        """Shares are relative; they need not sum to 1.

        Raises:
            UserError: no share, or one that is not above 0.
        """
        if not shares or min(shares) <= 0:
            raise UserError(f"shares={list(shares)} must be one or more numbers above 0")
        total = sum(shares)
        self.shares: tuple[float, ...] = tuple(share / total for share in shares)
        """Share of each source; they sum to 1."""
        self._blocks: list[Int[np.ndarray, " samples"]] = []
        self._counts = [np.zeros(len(shares), np.int64)]
        # Each source lies in one heap: waiting until it is behind, or behind and due.
        self._waiting = [(0.0, source) for source in range(len(shares))]
        self._due: list[tuple[float, int]] = []
        self._given = [0] * len(shares)

    def counts(self, num_samples: int) -> Int[np.ndarray, " sources"]:
        """How many of the first `num_samples` samples come from each source."""
        block, offset = divmod(num_samples, BLOCK_SAMPLES)
        self._decide(num_samples)
        if not offset:
            return self._counts[block].copy()
        head = self._blocks[block][:offset]
        return self._counts[block] + np.bincount(head, minlength=len(self.shares))

    def samples(
        self, first: int, num_samples: int
    ) -> tuple[Int[np.ndarray, " samples"], Int[np.ndarray, " samples"]]:
        """Source of each sample from `first` on, and which of its source's samples it is."""
        end = first + num_samples
        self._decide(end)
        start_block = first // BLOCK_SAMPLES
        stop_block = -(-end // BLOCK_SAMPLES)
        sources = np.concatenate([np.empty(0, np.int16), *self._blocks[start_block:stop_block]])
        at = first - start_block * BLOCK_SAMPLES
        sources = sources[at : at + num_samples].astype(np.int64)
        numbers = np.empty(num_samples, np.int64)
        for source, before in enumerate(self.counts(first)):
            of_source = sources == source
            numbers[of_source] = before + np.arange(np.count_nonzero(of_source))
        return sources, numbers

    def _decide(self, num_samples: int) -> None:
        """Work out the order up to at least `num_samples` samples."""
        while len(self._blocks) * BLOCK_SAMPLES < num_samples:
            start = len(self._blocks) * BLOCK_SAMPLES
            block = [self._next(start + place) for place in range(BLOCK_SAMPLES)]
            self._blocks.append(np.array(block, np.int16))
            self._counts.append(np.array(self._given, np.int64))

    def _next(self, sample: int) -> int:
        waiting, due, given = self._waiting, self._due, self._given
        # The second condition holds for the first source only, and only by rounding.
        while waiting and (waiting[0][0] < sample + 1 or not due):
            _, source = heapq.heappop(waiting)
            heapq.heappush(due, ((given[source] + 1) / self.shares[source], source))
        _, source = heapq.heappop(due)
        given[source] += 1
        heapq.heappush(waiting, (given[source] / self.shares[source], source))
        return source
