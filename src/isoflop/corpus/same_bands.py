"""Which text before it has the same band of its signature: found on disk, in memory that stays flat.

    piece-BB-PPPP.bin   key and number of every text, of band BB; a key is always in the same piece
    before-BB.bin       for every text the number, counted from 1, of the last text before it with the
                        same key of band BB; 0: there is none

A piece holds few enough different keys to be sorted in memory, however many texts share one.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isoflop.corpus.minhash import band_keys
from isoflop.corpus.row_files import write_whole
from isoflop.corpus.signatures import ROWS_AT_ONCE, SignatureFile

KEYS_AT_ONCE = 1 << 18
"""Different keys of a piece, about, and keys sorted in one go: 20 MB. Chosen."""

Numbers = npt.NDArray[np.int64]

_KEY = np.dtype([("key", np.uint64), ("text", np.int64)])


def write_befores(signatures: SignatureFile, num_bands: int, folder: Path) -> None:
    """Write the files of all bands; what a killed run left in the folder is written over."""
    num_pieces = -(-len(signatures) // KEYS_AT_ONCE)
    names = [[f"piece-{b:02d}-{p:04d}.bin" for p in range(num_pieces)] for b in range(num_bands)]
    for pieces in names:
        for name in pieces:
            (folder / name).write_bytes(b"")
    for start, records in signatures.pieces():
        signed = np.flatnonzero(records["signature"].any(axis=1))
        keys = band_keys(np.ascontiguousarray(records["signature"][signed]), num_bands)
        placed = np.empty(len(signed), dtype=_KEY)
        placed["text"] = start + signed
        for band, pieces in enumerate(names):
            placed["key"] = keys[:, band]
            piece = keys[:, band] % np.uint64(num_pieces)
            for number, name in enumerate(pieces):
                with (folder / name).open("ab") as file:
                    file.write(placed[piece == number].tobytes())
    for band, pieces in enumerate(names):
        path = _before(folder, band)
        with path.open("wb") as file:
            file.truncate(8 * len(signatures))  # Zeros that take no room.
        for name in pieces:
            for texts, befores in _repeats(folder / name):
                _fill(path, texts, befores)
            (folder / name).unlink()


def read_befores(num_texts: int, num_bands: int, folder: Path) -> Iterator[tuple[int, Numbers]]:
    """The number of the first text of a piece, and the numbers before: shape (texts, bands)."""
    for start in range(0, num_texts, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, num_texts - start)
        bands = [
            np.fromfile(_before(folder, band), dtype=np.int64, count=count, offset=8 * start)
            for band in range(num_bands)
        ]
        yield start, np.stack(bands, axis=1)


def _before(folder: Path, band: int) -> Path:
    return folder / f"before-{band:02d}.bin"


def _repeats(piece: Path) -> Iterator[tuple[Numbers, Numbers]]:
    """Texts whose key came before, ascending, and the text it came with last, counted from 1."""
    last = np.empty(0, dtype=_KEY)
    """Each key so far with the last text that has it."""
    total = piece.stat().st_size // _KEY.itemsize
    for start in range(0, total, KEYS_AT_ONCE):
        block = np.fromfile(piece, dtype=_KEY, count=KEYS_AT_ONCE, offset=start * _KEY.itemsize)
        known = np.concatenate([last, block])
        known = known[np.argsort(known["key"], kind="stable")]
        same = known["key"][1:] == known["key"][:-1]
        texts, befores = known["text"][1:][same], known["text"][:-1][same] + 1
        order = np.argsort(texts)
        yield texts[order], befores[order]
        last = known[np.append(~same, True)]


def _fill(path: Path, texts: Numbers, befores: Numbers) -> None:
    """Put the numbers at their texts' places of the file, piece by piece."""
    with path.open("r+b", buffering=0) as file:
        at = 0
        while at < len(texts):
            start = int(texts[at])
            end = int(np.searchsorted(texts, start + ROWS_AT_ONCE))
            file.seek(8 * start)
            held = np.frombuffer(file.read(8 * ROWS_AT_ONCE), dtype=np.int64).copy()
            held[texts[at:end] - start] = befores[at:end]
            file.seek(8 * start)
            write_whole(file, held.tobytes())
            at = end
