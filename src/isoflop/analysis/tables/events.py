"""Scalars of TensorBoard's event files.

An event file is a row of records (TFRecord): length in 8 bytes, its checksum in 4, the event, its
checksum in 4. TensorBoard's own reader stops at the first damaged record as at one that is still
being written; here the first is refused, since what stands behind it would be lost unsaid.
"""

import struct
from pathlib import Path
from typing import Any

from isoflop.config import UserError

LENGTH = struct.Struct("<Q")
CHECKSUM_BYTES = 4


def event_rows(file: Path) -> list[dict[str, Any]]:
    """One row for each scalar: its step, and its value by its tag.

    Raises:
        UserError: tensorboard is not installed, or a record of the file is damaged.
    """
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ModuleNotFoundError:
        raise UserError(
            f"{file}: reading event files needs tensorboard: pip install 'isoflop[tensorboard]'"
        ) from None
    rows, read = [], 0
    try:
        for event in EventFileLoader(str(file)).Load():
            read += 1
            for value in event.summary.value:
                # Text, images and histograms are tensors of another type or of several numbers.
                numbers = make_ndarray(value.tensor) if value.HasField("tensor") else None
                if numbers is not None and numbers.size == 1 and numbers.dtype.kind in "fiu":
                    rows.append({"step": event.step, value.tag: float(numbers.reshape(-1)[0])})
    except (DecodeError, ValueError, TypeError) as error:
        raise UserError(_damaged(file, read, f": {error}")) from None
    if read < _whole_records(file):
        raise UserError(_damaged(file, read + 1, ""))
    return rows


def _damaged(file: Path, record: int, why: str) -> str:
    return f"{file}: record {record} is damaged{why}; copy the run's file again, or leave it out"


def _whole_records(file: Path) -> int:
    """Records that stand in the file whole, their contents unread; one with a damaged length counts
    as one, since nothing tells where the next begins."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    found, place, size = 0, 0, file.stat().st_size
    with file.open("rb") as data:
        while place + LENGTH.size + CHECKSUM_BYTES <= size:
            data.seek(place)
            head, checksum = data.read(LENGTH.size), data.read(CHECKSUM_BYTES)
            if masked_crc32c(head) != int.from_bytes(checksum, "little"):
                return found + 1
            place += LENGTH.size + LENGTH.unpack(head)[0] + 2 * CHECKSUM_BYTES
            found += place <= size
    return found
