"""Benchmark items made ready to be looked for in many texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isoflop.corpus.decontaminate.benchmarks import BenchmarkItem
from isoflop.corpus.decontaminate.config import DecontaminateConfig
from isoflop.corpus.decontaminate.tokens import (
    PlacedTokens,
    ngrams,
    plain_tokens,
    renamed_tokens,
)
from isoflop.corpus.minhash import Hashes, band_keys, hash_functions, shingles, signature

NUM_BANDS, ROWS_PER_BAND = 32, 2
"""Of "minhash": 98% of windows at similarity 0.35 are looked at; what is looked at is measured."""

WINDOW_CLASSES = (32, 64, 128, 256, 512, 1024, 2048)
"""Tokens of windows. A part is compared with windows of the least class that holds it."""


@dataclass(frozen=True)
class Part:
    """A question, an answer, or both together, that is looked for."""

    item: BenchmarkItem
    name: str
    """"question", "answer" or "both"."""
    text: str
    tokens: PlacedTokens


class NgramIndex:
    """Which parts hold an n-gram."""

    def __init__(self, grams_of_parts: Sequence[Hashes]):
        distinct = [np.unique(grams) for grams in grams_of_parts]
        self.num_grams = np.array([len(grams) for grams in distinct], dtype=np.int64)
        everything = np.concatenate(distinct) if distinct else np.empty(0, dtype=np.uint64)
        owners = np.repeat(np.arange(len(distinct)), self.num_grams)
        order = np.argsort(everything, kind="stable")
        self._grams, self._owners = everything[order], owners[order]

    def find(self, grams: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(places in `grams`, parts) of every n-gram that a part holds."""
        low = np.searchsorted(self._grams, grams, side="left")
        high = np.searchsorted(self._grams, grams, side="right")
        found = np.flatnonzero(high > low)
        places = np.repeat(found, high[found] - low[found])
        parts = [self._owners[low[place] : high[place]] for place in found.tolist()]
        return places, np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


class BenchmarkIndex:
    """All items, ready to be looked for."""

    def __init__(self, items: Sequence[BenchmarkItem], config: DecontaminateConfig):
        self.config = config
        self.plain = [
            part for item in items for part in _plain_parts(item, config.min_exact_tokens)
        ]
        self.renamed = [
            part for item in items for part in _renamed_parts(item, config.min_renamed_tokens)
        ]
        self.plain_index = NgramIndex([ngrams(p.tokens, config.ngram_tokens) for p in self.plain])
        self.renamed_index = NgramIndex(
            [ngrams(part.tokens, config.renamed_ngram_tokens) for part in self.renamed]
        )
        self.functions = hash_functions(NUM_BANDS * ROWS_PER_BAND)
        self.shingles = [
            np.unique(shingles(part.tokens.hashes, config.window_shingle_tokens))
            for part in self.plain
        ]
        self.bands: dict[int, dict[tuple[int, int], list[int]]] = {}
        for number, part in enumerate(self.plain):
            if len(part.tokens) >= config.min_window_tokens:
                self._add_bands(number, len(part.tokens))
        looked_for = {
            (part.item.benchmark, part.item.item) for part in (*self.plain, *self.renamed)
        }
        self.too_short = [i for i in items if (i.benchmark, i.item) not in looked_for]
        """Items of which neither question nor answer nor both are long enough."""

    def _add_bands(self, number: int, num_tokens: int) -> None:
        """Enter a part's signature under the windows that it is compared with."""
        window = window_class(num_tokens)
        if window is None:
            return
        signed = signature(self.shingles[number], self.functions)
        table = self.bands.setdefault(window, {})
        for band, key in enumerate(band_keys(signed[None, :], NUM_BANDS)[0].tolist()):
            table.setdefault((band, key), []).append(number)


def window_class(num_tokens: int) -> int | None:
    """Tokens of the windows that a part of so many tokens is compared with; None: it is too long."""
    return next((window for window in WINDOW_CLASSES if window >= num_tokens), None)


def _plain_parts(item: BenchmarkItem, min_tokens: int) -> list[Part]:
    """Question and answer where they are long enough, else both together."""
    parts = [
        Part(item, name, text, plain_tokens(text))
        for name, text in (("question", item.question), ("answer", item.answer))
    ]
    long = [part for part in parts if len(part.tokens) >= min_tokens]
    if long:
        return long
    both = item.question + "\n" + item.answer
    whole = Part(item, "both", both, plain_tokens(both))
    return [whole] if len(whole.tokens) >= min_tokens else []


def _renamed_parts(item: BenchmarkItem, min_tokens: int) -> list[Part]:
    """A program's answer; with the prompt where that begins the program."""
    if not item.answer_is_code:
        return []
    text = item.question + item.answer if item.prompt_is_code else item.answer
    part = Part(item, "both" if item.prompt_is_code else "answer", text, renamed_tokens(text))
    return [part] if len(part.tokens) >= min_tokens else []
