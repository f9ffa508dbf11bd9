"""Look for benchmark items in one text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isoflop.corpus.decontaminate.index import (
    NUM_BANDS,
    WINDOW_CLASSES,
    BenchmarkIndex,
    NgramIndex,
    Part,
)
from isoflop.corpus.decontaminate.tokens import (
    PlacedTokens,
    ngrams,
    plain_tokens,
    renamed_tokens,
)
from isoflop.corpus.minhash import SHINGLES_AT_ONCE, band_keys, shingles

KINDS = ("exact", "ngram", "renamed", "minhash")
"""The surest first."""

STRETCH = 2
"""A part's n-grams count in a stretch of the text so many times as long as the part."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One item found in one text. Written to hits.jsonl."""

    id: str
    """Of the text."""
    where: str
    benchmark: str
    item: str
    part: str
    """"question", "answer" or "both"."""
    found_as: str
    """"exact": all its tokens in a row; "ngram"; "renamed": but for the names it chose; "minhash"."""
    overlap: float
    """Share of the item's n-grams; of "minhash", the similarity of item and window."""
    start: int
    """Character of the text at which the stretch begins."""
    end: int
    excerpt: str
    """The stretch."""
    item_text: str


def find_items(
    text: str, text_id: str, where: str, index: BenchmarkIndex, begin: Callable[[str], bool]
) -> list[Hit]:
    """Every item that the text holds, each once, in the surest way that finds it.

    `begin` hears of each of the steps and says whether it may be made.
    """
    found: dict[tuple[str, str], Hit] = {}

    def add(part: Part, kind: str, overlap: float, span: tuple[int, int]) -> None:
        key = (part.item.benchmark, part.item.item)
        hit = Hit(
            id=text_id,
            where=where,
            benchmark=part.item.benchmark,
            item=part.item.item,
            part=part.name,
            found_as=kind,
            overlap=overlap,
            start=span[0],
            end=span[1],
            excerpt=text[span[0] : span[1]],
            item_text=part.text,
        )
        known = found.get(key)
        if known is None or _sureness(hit) > _sureness(known):
            found[key] = hit

    if not begin("ngram"):
        return []
    plain = plain_tokens(text)
    config = index.config
    for part, overlap, low, high in _contained(
        plain, config.ngram_tokens, index.plain_index, index.plain, config.min_containment
    ):
        kind = "exact" if _holds_in_a_row(plain, part.tokens, low, high) else "ngram"
        if kind == "ngram" and len(part.tokens) < config.min_tokens:
            continue
        add(part, kind, overlap, (int(plain.starts[low]), int(plain.ends[high])))
    if begin("renamed") and index.renamed:
        code = renamed_tokens(text)
        for part, overlap, low, high in _contained(
            code,
            config.renamed_ngram_tokens,
            index.renamed_index,
            index.renamed,
            config.min_renamed_containment,
        ):
            add(part, "renamed", overlap, (int(code.starts[low]), int(code.ends[high])))
    if begin("minhash"):
        for part, overlap, low, high in _similar_windows(plain, index):
            add(part, "minhash", overlap, (int(plain.starts[low]), int(plain.ends[high])))
    return sorted(found.values(), key=lambda hit: (hit.start, hit.benchmark, hit.item))


def _sureness(hit: Hit) -> tuple[int, float]:
    return -KINDS.index(hit.found_as), hit.overlap


def _contained(
    found: PlacedTokens, n: int, index: NgramIndex, parts: list[Part], least: float
) -> Iterator[tuple[Part, float, int, int]]:
    """Parts whose n-grams stand close together: share, first and last token of the stretch."""
    grams = ngrams(found, n)
    places, owners = index.find(grams)
    # Most texts share an n-gram with a part or two, by chance.
    for owner in np.flatnonzero(np.bincount(owners, minlength=len(parts)) > 0).tolist():
        part = parts[owner]
        total = int(index.num_grams[owner])
        own = places[owners == owner]
        if len(np.unique(grams[own])) < least * total:
            continue
        count, low, high = _densest(own, grams[own], STRETCH * len(part.tokens))
        if count >= least * total:
            yield part, count / total, low, high + n - 1


def _densest(
    places: npt.NDArray[np.int64], grams: npt.NDArray[np.uint64], width: int
) -> tuple[int, int, int]:
    """Most different n-grams in a stretch of `width` places: how many, first and last place."""
    best = (0, 0, 0)
    inside: dict[int, int] = {}
    left = 0
    listed, kinds = places.tolist(), grams.tolist()
    for place, kind in zip(listed, kinds, strict=True):
        inside[kind] = inside.get(kind, 0) + 1
        while place - listed[left] >= width:
            inside[kinds[left]] -= 1
            if not inside[kinds[left]]:
                del inside[kinds[left]]
            left += 1
        if len(inside) > best[0]:
            best = (len(inside), listed[left], place)
    return best


def _holds_in_a_row(text: PlacedTokens, part: PlacedTokens, low: int, high: int) -> bool:
    """Whether all tokens of the part stand in the stretch one after the other."""
    size = len(part)
    for start in range(low, high - size + 2):
        if np.array_equal(text.hashes[start : start + size], part.hashes):
            return True
    return False


def _similar_windows(
    found: PlacedTokens, index: BenchmarkIndex
) -> Iterator[tuple[Part, float, int, int]]:
    """Parts like a window of the text: similarity, first and last token of the window."""
    n = index.config.window_shingle_tokens
    grams = shingles(found.hashes, n)
    if not len(grams):
        return
    small = np.empty((len(grams), index.functions.shape[1]), dtype=np.uint32)
    for start in range(0, len(grams), SHINGLES_AT_ONCE):
        stop = start + SHINGLES_AT_ONCE
        values = grams[start:stop, None] * index.functions[0] + index.functions[1]
        small[start:stop] = values >> np.uint64(32)
    for window in WINDOW_CLASSES:
        table = index.bands.get(window)
        if table is None:
            continue
        half = window // 2
        starts = np.arange(0, max(1, len(grams)), half)
        halves = np.minimum.reduceat(small, starts, axis=0)
        # A window is two halves; the last one may be the end of the text alone.
        windows = np.minimum(halves, np.roll(halves, -1, axis=0))
        windows[-1] = halves[-1]
        for place, keys in enumerate(band_keys(windows, NUM_BANDS).tolist()):
            numbers = {n for band, key in enumerate(keys) for n in table.get((band, key), ())}
            if not numbers:
                continue
            low = place * half
            own = np.unique(grams[low : low + window])
            for number in sorted(numbers):
                overlap = _jaccard(own, index.shingles[number])
                if overlap >= index.config.min_similarity:
                    last = min(low + window + n - 2, len(found) - 1)
                    yield index.plain[number], overlap, low, last


def _jaccard(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> float:
    both = len(np.intersect1d(first, second, assume_unique=True))
    return both / (len(first) + len(second) - both)
