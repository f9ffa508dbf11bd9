"""Near-duplicate removal: of texts that share most shingles, the first is kept.

    1. a signature of every text, into signatures.bin
    2. bands of signatures are sorted piece by piece; texts of equal keys are candidates of each other
    3. in the order of the corpus, a text is a duplicate if a kept candidate is similar enough

Comparing with kept texts alone avoids chains, in which the last text need not be like the first.
Memory does not grow with the corpus; files of about 1.1 kB a text do, and are deleted at the end.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from isoflop.config import UserError
from isoflop.corpus.filters.config import Limits
from isoflop.corpus.filters.run import usable_cores
from isoflop.corpus.intake import CorpusInput, input_digest, open_input
from isoflop.corpus.kept_chains import KeptChains
from isoflop.corpus.minhash import (
    hash_functions,
    shingles,
    signature,
    similarity,
    token_hashes,
    tokens,
)
from isoflop.corpus.pool import Changes, Pool
from isoflop.corpus.row_files import naming
from isoflop.corpus.rows import TextRow
from isoflop.corpus.same_bands import read_befores, write_befores
from isoflop.corpus.shards import Counts, OutputConfig, Stage, write_stage
from isoflop.corpus.signatures import SignatureFile, hex_id
from isoflop.folders import locked

STAGE = "deduplicate"
SIGNATURES = "signatures.bin"

BANDS = "bands"
"""Folder of the files that are needed for the search alone."""

CHAINS = "chains.bin"

CANDIDATES_AT_ONCE = 1 << 12
"""Signatures compared with one text in one go: 2 MB. Chosen."""


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
        bands, places = folder / BANDS, config.num_bands * config.rows_per_band
        bands.mkdir(exist_ok=True)
        with naming(folder), SignatureFile(folder / SIGNATURES, places) as signed:
            _sign(source, signed, config, num_workers or usable_cores(), tell)
            originals = islice(duplicates(signed, config, bands), done, None)
            rows = islice(open_input(source), done, None)
            for number, (row, original) in enumerate(zip(rows, originals, strict=True), start=done):
                yield _judged(row, signed, original, number)

    counts = write_stage(folder, stage, rows_from, tell)
    with locked(folder):
        (folder / SIGNATURES).unlink(missing_ok=True)
        shutil.rmtree(folder / BANDS, ignore_errors=True)
    return counts


def duplicates(signatures: SignatureFile, config: DeduplicateConfig, folder: Path) -> Iterator[int]:
    """For every text the number of the kept text that it repeats; -1: it is kept.

    A text that was not signed is kept. `folder` is for files that are written over and not needed later.
    """
    write_befores(signatures, config.num_bands, folder)
    with KeptChains(folder / CHAINS, config.num_bands) as chains:
        for start, befores in read_befores(len(signatures), config.num_bands, folder):
            chains.begin(start, len(befores))
            for place in np.flatnonzero(befores.any(axis=1)).tolist():
                candidates = chains.candidates(start + place, befores[place].tolist())
                found = _most_similar(signatures, start + place, candidates, config.threshold)
                if found is not None:
                    chains.drop(start + place, found)
            yield from chains.originals()


def _most_similar(
    signatures: SignatureFile, number: int, candidates: list[int], threshold: float
) -> int | None:
    """The candidate most like the text, of equals the first; None: none is similar enough."""
    own = signatures.take([number])["signature"]
    best, found = threshold, None
    for start in range(0, len(candidates), CANDIDATES_AT_ONCE):
        some = candidates[start : start + CANDIDATES_AT_ONCE]
        shares = np.mean(signatures.take(some)["signature"] == own, axis=1)
        place = int(np.argmax(shares))
        if shares[place] > best or (found is None and shares[place] == best):
            best, found = float(shares[place]), some[place]
    return found


def _sign(
    source: CorpusInput,
    signatures: SignatureFile,
    config: DeduplicateConfig,
    num_workers: int,
    tell: Callable[[int], None],
) -> None:
    """Append the signatures that are not in the file yet."""
    rows = islice(open_input(source), len(signatures), None)
    with Pool(SignatureJob(config=config), num_workers, config.limits) as pool:
        for row, changes in pool.run(rows):
            signatures.append(row.id, changes.get("signature"))
            tell(len(signatures))


def _judged(row: TextRow, signatures: SignatureFile, original: int, number: int) -> TextRow:
    """The row, rejected where it repeats another or was not signed."""
    if row.rejected_by is not None:
        return row
    (own,) = signatures.take([number])
    if not own["signature"].any():
        detail = "its signature cost more than the limits allow"
        return replace(row, rejected_by=STAGE, reason="not signed", detail=detail)
    if original < 0:
        return row
    (kept,) = signatures.take([original])
    if hex_id(kept) == row.id:
        return replace(row, rejected_by=STAGE, reason="exact duplicate", detail=f"of text {row.id}")
    share = similarity(kept["signature"], own["signature"])
    detail = f"of text {hex_id(kept)}, similarity {share:.2f}"
    return replace(row, rejected_by=STAGE, reason="near-duplicate", detail=detail)
