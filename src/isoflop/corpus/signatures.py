"""The file of signatures, one record a text: appended to, read in pieces, never held whole."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isoflop.corpus.row_files import write_whole
from isoflop.corpus.rows import ID_HEX_DIGITS

ROWS_AT_ONCE = 1 << 14
"""Texts looked at in one go: 8 MB of signatures of 120 places. Chosen."""

Records = npt.NDArray[Any]
"""Records with "id" and "signature"; a signature of nothing but zeros was not made."""


class SignatureFile:
    """Signatures in the order of the texts; a context manager. A torn last record is cut."""

    def __init__(self, path: Path, num_places: int):
        self.kind = np.dtype([("id", np.uint64), ("signature", np.uint32, (num_places,))])
        self._file = path.open("a+b", buffering=0)
        self._count = os.fstat(self._file.fileno()).st_size // self.kind.itemsize
        os.truncate(path, self._count * self.kind.itemsize)

    def __enter__(self) -> "SignatureFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def append(self, text_id: str, signature: bytes | None) -> None:
        """Add a text; None: it was not signed."""
        record = np.zeros(1, dtype=self.kind)
        record["id"] = int(text_id, 16)
        if signature is not None:
            record["signature"] = np.frombuffer(signature, dtype=np.uint32)
        write_whole(self._file, record.tobytes())
        self._count += 1

    def pieces(self) -> Iterator[tuple[int, Records]]:
        """All records, so many at once: the number of the first, and the records."""
        for start in range(0, self._count, ROWS_AT_ONCE):
            yield start, self._read(start, min(ROWS_AT_ONCE, self._count - start))

    def take(self, numbers: Sequence[int]) -> Records:
        """Records of single texts."""
        return np.concatenate([self._read(number, 1) for number in numbers])

    def _read(self, start: int, count: int) -> Records:
        size = self.kind.itemsize
        # One call reads less than 2 GiB; a piece is far below that.
        raw = os.pread(self._file.fileno(), count * size, start * size)
        return np.frombuffer(raw, dtype=self.kind)


def hex_id(record: Any) -> str:
    """The text's id as rows have it."""
    return f"{int(record['id']):0{ID_HEX_DIGITS}x}"
