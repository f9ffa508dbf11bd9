"""Near-duplicate removal: of texts that share most shingles, the first is kept.

    1. a signature of every text, into signatures.bin: the only file that grows with the corpus
    2. bands of signatures are sorted, one band at a time; equal keys make candidates
    3. in the order of the corpus, a text is a duplicate if a kept candidate is similar enough

Comparing with kept texts alone avoids chains, in which the last text need not be like the first.
Memory: 32 bytes a text for sorting one band, and 32 bytes for each band that a text shares.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isoflop.config import UserError
from isoflop.corpus.filters.config import Limits
from isoflop.corpus.filters.run import usable_cores
from isoflop.corpus.intake import CorpusInput, input_digest, open_input
from isoflop.corpus.minhash import (
    band_keys,
    hash_functions,
    shingles,
    signature,
    token_hashes,
    tokens,
)
from isoflop.corpus.pool import Changes, Pool
from isoflop.corpus.rows import ID_HEX_DIGITS, TextRow
from isoflop.corpus.shards import Counts, OutputConfig, Stage, write_stage
from isoflop.folders import locked

STAGE = "deduplicate"
SIGNATURES = "signatures.bin"

ROWS_AT_ONCE = 1 << 14
"""Signatures looked at in one go. Chosen."""


@dataclass(frozen=True, kw_only=True)
class DeduplicateConfig:
    """When two texts are near-duplicates."""

    threshold: float = 0.8
    """Estimated Jaccard similarity of their shingles. SwallowCode's contamination check uses 0.8 too."""
    shingle_tokens: int = 5
    """The same script; FineWeb (arXiv:2406.17557) as well."""
    num_bands: int = 20
    rows_per_band: int = 6
    """20 x 6 hash functions find 99.8% of pairs at similarity 0.8 and look at 27% of those at 0.5;
    FineWeb's 14 x 8 find 92%."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold={self.threshold} must be above 0 and at most 1")
        for name in ("shingle_tokens", "num_bands", "rows_per_band"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class SignatureJob:
    """What the workers of the pool do: one signature a row."""

    config: DeduplicateConfig

    def prepare(self) -> "Signer":
        """Draw the hash functions."""
        return Signer(self.config)


class Signer:
    """Signatures of one row after the other."""

    def __init__(self, config: DeduplicateConfig):
        self._config = config
        self._functions = hash_functions(config.num_bands * config.rows_per_band)

    def __call__(self, row: TextRow, begin: Callable[[str], bool]) -> Changes:
        """The signature as bytes."""
        if not begin(STAGE):
            return {}
        found = shingles(token_hashes(tokens(row.text)), self._config.shingle_tokens)
        return {"signature": signature(found, self._functions).tobytes()}

    def close(self) -> None:
        """Nothing to leave."""


def deduplicate_corpus(
    source: CorpusInput,
    folder: Path,
    config: DeduplicateConfig | None = None,
    *,
    output: OutputConfig | None = None,
    num_workers: int | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Counts:
    """Keep the first of every group of near-duplicates; goes on where a killed run stopped.

    Args:
        num_workers: processes that make signatures; None: one a usable core.
        tell: hears how many texts are done: first signed, then written.

    Raises:
        UserError: the input or the folder is not there or not usable.
    """
    config = config or DeduplicateConfig()
    stage = Stage(
        name=STAGE,
        config=config,
        input_digest=input_digest(source),
        output=output or OutputConfig(),
        tools={},
    )

    def rows_from(done: int) -> Iterator[TextRow]:
        path = folder / SIGNATURES
        _sign(source, path, config, num_workers or usable_cores(), tell)
        records = _records(path, config)
        original = duplicates(records["signature"], config)
        rows = islice(open_input(source), done, None)
        for number, row in enumerate(rows, start=done):
            yield _judged(row, records, int(original[number]), number)

    counts = write_stage(folder, stage, rows_from, tell)
    with locked(folder):
        (folder / SIGNATURES).unlink(missing_ok=True)
    return counts


def duplicates(
    signatures: npt.NDArray[np.uint32], config: DeduplicateConfig
) -> npt.NDArray[np.int64]:
    """For every text the number of the kept text that it repeats; -1: it is kept.

    A signature of nothing but zeros belongs to a text that was not signed; it is kept.
    """
    original = np.full(len(signatures), -1, dtype=np.int64)
    kept: dict[int, list[int]] = defaultdict(list)
    for text, groups in _memberships(signatures, config.num_bands):
        candidates = sorted({other for group in groups for other in kept.get(group, ())})
        if candidates and signatures[text].any():
            shares = np.mean(signatures[candidates] == signatures[text], axis=1)
            best = int(np.argmax(shares))  # of equals the first
            if shares[best] >= config.threshold:
                original[text] = candidates[best]
                continue
        for group in groups:
            kept[group].append(text)
    return original


def _memberships(
    signatures: npt.NDArray[np.uint32], num_bands: int
) -> Iterator[tuple[int, list[int]]]:
    """Every text that shares a band with another, in order, and the numbers of its groups."""
    if not len(signatures):
        return
    texts, numbers, total = [], [], 0
    for band in range(num_bands):
        keys = _keys_of_band(signatures, num_bands, band)
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        starts = ~np.insert(same, 0, False)
        repeated = np.append(same, False) | ~starts
        texts.append(order[repeated])
        numbers.append(total + np.cumsum(starts)[repeated])
        total += len(signatures)
    all_texts, all_numbers = np.concatenate(texts), np.concatenate(numbers)
    by_text = np.argsort(all_texts, kind="stable")
    found, begins = np.unique(all_texts[by_text], return_index=True)
    ends = np.append(begins, len(by_text))[1:]
    for text, begin, end in zip(found.tolist(), begins.tolist(), ends.tolist(), strict=True):
        yield text, all_numbers[by_text[begin:end]].tolist()


def _keys_of_band(
    signatures: npt.NDArray[np.uint32], num_bands: int, band: int
) -> npt.NDArray[np.uint64]:
    """One band's key of every text."""
    width = signatures.shape[1] // num_bands
    keys = np.empty(len(signatures), dtype=np.uint64)
    for start in range(0, len(signatures), ROWS_AT_ONCE):
        rows = signatures[start : start + ROWS_AT_ONCE, band * width : (band + 1) * width]
        keys[start : start + ROWS_AT_ONCE] = band_keys(np.ascontiguousarray(rows), 1)[:, 0]
    return keys


def _record_type(config: DeduplicateConfig) -> np.dtype[np.void]:
    places = config.num_bands * config.rows_per_band
    return np.dtype([("id", np.uint64), ("signature", np.uint32, (places,))])


def _records(path: Path, config: DeduplicateConfig) -> npt.NDArray[Any]:
    """The file of signatures, read where it is looked at."""
    if not path.stat().st_size:
        return np.empty(0, dtype=_record_type(config))
    return np.memmap(path, dtype=_record_type(config), mode="r")


def _sign(
    source: CorpusInput,
    path: Path,
    config: DeduplicateConfig,
    num_workers: int,
    tell: Callable[[int], None],
) -> None:
    """Append the signatures that are not in the file yet."""
    kind = _record_type(config)
    path.touch()
    done = path.stat().st_size // kind.itemsize
    os.truncate(path, done * kind.itemsize)
    rows = islice(open_input(source), done, None)
    with (
        path.open("ab", buffering=0) as file,
        Pool(SignatureJob(config=config), num_workers, config.limits) as pool,
    ):
        for row, changes in pool.run(rows):
            record = np.zeros(1, dtype=kind)
            record["id"] = int(row.id, 16)
            if "signature" in changes:
                record["signature"] = np.frombuffer(changes["signature"], dtype=np.uint32)
            file.write(record.tobytes())
            done += 1
            tell(done)


def _judged(row: TextRow, records: npt.NDArray[Any], original: int, number: int) -> TextRow:
    """The row, rejected where it repeats another."""
    if row.rejected_by is not None:
        return row
    if not records["signature"][number].any():
        detail = "its signature cost more than the limits allow"
        return replace(row, rejected_by=STAGE, reason="not signed", detail=detail)
    if original < 0:
        return row
    kept_id = f"{int(records['id'][original]):0{ID_HEX_DIGITS}x}"
    if kept_id == row.id:
        return replace(
            row, rejected_by=STAGE, reason="exact duplicate", detail=f"of text {kept_id}"
        )
    share = float(np.mean(records["signature"][original] == records["signature"][number]))
    detail = f"of text {kept_id}, similarity {share:.2f}"
    return replace(row, rejected_by=STAGE, reason="near-duplicate", detail=detail)
