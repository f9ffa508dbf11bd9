"""The kept texts that share a key, one leading to the one before it: in a file, not in memory."""

import os
import struct
from pathlib import Path

import numpy as np

from isoflop.corpus.row_files import write_whole


class KeptChains:
    """A context manager; texts are taken up in their order, so many at once.

    A text's record is the kept text that it repeats, then for each band the last kept text before it
    with the same key: all counted from 1, 0 for none.
    """

    def __init__(self, path: Path, num_bands: int):
        self._file = path.open("w+b", buffering=0)
        self._width = 1 + num_bands
        self._start = 0
        self._held = np.zeros((0, self._width), dtype=np.int64)
        """Records of the texts in work."""

    def __enter__(self) -> "KeptChains":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def begin(self, start: int, count: int) -> None:
        """Take up the texts from `start` on; those before are written down."""
        write_whole(self._file, self._held.tobytes())
        self._start = start
        self._held = np.zeros((count, self._width), dtype=np.int64)

    def candidates(self, text: int, befores: list[int]) -> list[int]:
        """Kept texts before the text that share a key with it, ascending.

        Args:
            befores: of each band the last text before with the same key, counted from 1.
        """
        known: dict[int, list[int]] = {}
        """Records that were looked at, by number counted from 1."""
        found: set[int] = set()
        for band, before in enumerate(befores, start=1):
            kept = before
            if before and (record := self._record(before, known))[0]:
                kept = record[band]  # `before` was dropped: the kept one before it stands for it.
            self._held[text - self._start, band] = kept
            while kept:
                found.add(kept - 1)
                kept = self._record(kept, known)[band]
        return sorted(found)

    def drop(self, text: int, original: int) -> None:
        """Note that the text repeats another."""
        self._held[text - self._start, 0] = original + 1

    def originals(self) -> list[int]:
        """Of the texts in work, what they repeat; -1: they are kept."""
        originals: list[int] = (self._held[:, 0] - 1).tolist()
        return originals

    def _record(self, number: int, known: dict[int, list[int]]) -> list[int]:
        """The record of a text counted from 1, which is then known."""
        if number not in known:
            text = number - 1
            if text >= self._start:
                known[number] = self._held[text - self._start].tolist()
            else:
                size = 8 * self._width
                raw = os.pread(self._file.fileno(), size, text * size)
                known[number] = list(struct.unpack(f"={self._width}q", raw))
        return known[number]
