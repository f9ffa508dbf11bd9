"""Token shards in Megatron-LM's indexed format: what write_shard writes, megatron-core reads.

    NAME.bin   the tokens of all sequences, one after the other
    NAME.idx   9 bytes magic, uint64 version, uint8 dtype code, uint64 sequences,
               uint64 documents + 1; then int32 length of each sequence, int64 byte
               offset of each sequence, int64 first sequence of each document and the end
    NAME.ids   ours: the id of each document, one JSON string a line

All numbers are little-endian. We write one sequence a document. The index is
written last: without it there is no shard.

Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py (core 0.16.1).
"""

import json
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int, Integer

from isoflop.config import UserError
from isoflop.records import atomic_file

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, dtype code, number of sequences, number of documents + 1."""

DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Megatron-LM's codes of the integer dtypes."""

UINT16_CODE = 8
INT32_CODE = 4
UINT16_VOCABULARY_BELOW = 65_500
"""Vocabularies smaller than this are kept as uint16 (DType.optimal_dtype)."""

MAX_SEQUENCE_TOKENS = 2**31 - 1
"""The index keeps lengths as int32."""

REMEDY = "the shard is damaged: delete its folder and run again to tokenize the source anew"


@dataclass(frozen=True, kw_only=True)
class ShardCounts:
    """What was written."""

    num_documents: int
    num_tokens: int


def shard_paths(prefix: Path) -> tuple[Path, Path, Path]:
    """The .bin, .idx and .ids file of a shard."""
    bin_path, index, ids = (prefix.with_name(prefix.name + end) for end in (".bin", ".idx", ".ids"))
    return bin_path, index, ids


def write_shard(
    prefix: Path, documents: Iterable[Sequence[int]], vocabulary_size: int, ids: Iterable[str]
) -> ShardCounts:
    """Write documents, each with its end-of-text token, one at a time.

    The three files appear when all are complete, the index last. An error or a
    kill leaves no index. Memory: four bytes a document.

    Raises:
        ValueError: an empty document, a token outside 0..vocabulary_size-1, or
            another number of ids than of documents.
    """
    bin_path, index_path, ids_path = shard_paths(prefix)
    code = UINT16_CODE if vocabulary_size < UINT16_VOCABULARY_BELOW else INT32_CODE
    lengths = array("i")
    # An old index must not stand beside a new .bin, not even for a moment.
    index_path.unlink(missing_ok=True)
    with (
        atomic_file(bin_path) as bin_part,
        atomic_file(ids_path) as ids_part,
        bin_part.open("wb") as tokens_out,
        ids_part.open("wb") as ids_out,
    ):
        for document, name in zip(documents, ids, strict=True):
            tokens = _checked(document, vocabulary_size, name)
            tokens_out.write(tokens.astype(DTYPES[code]).tobytes())
            ids_out.write(json.dumps(name).encode() + b"\n")
            lengths.append(len(tokens))
    with atomic_file(index_path) as part, part.open("wb") as out:
        _write_index(out, code, np.array(lengths, dtype="<i4"))
    return ShardCounts(num_documents=len(lengths), num_tokens=sum(lengths))


def _checked(
    document: Sequence[int], vocabulary_size: int, name: str
) -> Int[np.ndarray, " positions"]:
    tokens = np.asarray(document, dtype=np.int64)
    if not 1 <= len(tokens) <= MAX_SEQUENCE_TOKENS:
        raise ValueError(f"document {name!r} has {len(tokens)} tokens; allowed are 1 to 2^31 - 1")
    if tokens.min() < 0 or tokens.max() >= vocabulary_size:
        raise ValueError(
            f"document {name!r} has tokens from {tokens.min()} to {tokens.max()}; "
            f"the vocabulary allows 0 to {vocabulary_size - 1}"
        )
    return tokens


def _write_index(out: BinaryIO, code: int, lengths: Integer[np.ndarray, " sequences"]) -> None:
    num_bytes = lengths.astype("<i8") * np.dtype(DTYPES[code]).itemsize
    starts = np.cumsum(num_bytes) - num_bytes
    out.write(HEADER.pack(MAGIC, VERSION, code, len(lengths), len(lengths) + 1))
    out.write(lengths.tobytes())
    out.write(starts.astype("<i8").tobytes())
    out.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


class Shard:
    """A shard on disk, memory-mapped: opening reads the index only.

    Reads shards of Megatron-LM too, where a document may have several sequences
    and .ids is missing. A Shard is pickled as its path.
    """

    def __init__(self, prefix: Path):
        """Open and check the files.

        Raises:
            UserError: a file is missing, cut short, or does not fit the others.
        """
        self.prefix = prefix
        bin_path, index_path, ids_path = shard_paths(prefix)
        lengths, boundaries, dtype = _read_index(index_path)
        ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.document_offsets: Int[np.ndarray, " boundaries"] = ends[boundaries]
        """Position of each document's first token, and the number of tokens."""
        self.tokens: Integer[np.ndarray, " positions"] = _map_tokens(bin_path, dtype, int(ends[-1]))
        """All tokens in file order."""
        self._ids = _map_ids(ids_path, self.num_documents)
        self._id_ends: Int[np.ndarray, " documents"] | None = None

    def __reduce__(self) -> tuple[type["Shard"], tuple[Path]]:
        return Shard, (self.prefix,)

    @property
    def num_documents(self) -> int:
        """Documents in the shard; may be 0."""
        return len(self.document_offsets) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, their end-of-text tokens included."""
        return len(self.tokens)

    def document(self, number: int) -> Integer[np.ndarray, " positions"]:
        """The tokens of one document, end of text included.

        Raises:
            IndexError: number is not in 0..num_documents-1.
        """
        self._check_number(number)
        start, end = self.document_offsets[number : number + 2]
        return self.tokens[start:end]

    def document_id(self, number: int) -> str:
        """The id that the corpus gave the document; its number where the shard has no .ids.

        Raises:
            IndexError: number is not in 0..num_documents-1.
            UserError: the line of .ids is damaged.
        """
        self._check_number(number)
        if self._ids is None:
            return str(number)
        if self._id_ends is None:
            self._id_ends = np.flatnonzero(self._ids == ord("\n"))
        start = self._id_ends[number - 1] + 1 if number else 0
        line = self._ids[start : self._id_ends[number]].tobytes()
        try:
            return str(json.loads(line))
        except ValueError:
            raise UserError(
                f"{shard_paths(self.prefix)[2]}:{number + 1}: not an id; {REMEDY}"
            ) from None

    def _check_number(self, number: int) -> None:
        if not 0 <= number < self.num_documents:
            raise IndexError(f"{self.prefix}: document {number} of {self.num_documents}")


def _read_index(
    path: Path,
) -> tuple[Integer[np.ndarray, " sequences"], Integer[np.ndarray, " boundaries"], np.dtype]:
    """Sequences' lengths, first sequence of each document and the end, dtype of the tokens."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such shard index; run again to tokenize the source") from None
    if len(data) < HEADER.size:
        raise UserError(
            f"{path}: {len(data)} bytes are less than a header of {HEADER.size}; {REMEDY}"
        )
    magic, version, code, num_sequences, num_boundaries = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise UserError(f"{path}: starts with {magic!r} instead of {MAGIC!r}; no Megatron-LM index")
    if version != VERSION or code not in DTYPES:
        raise UserError(
            f"{path}: version {version} and dtype code {code}; readable are version {VERSION} "
            f"and codes {', '.join(map(str, DTYPES))}"
        )
    wanted = HEADER.size + num_sequences * (4 + 8) + num_boundaries * 8
    if len(data) != wanted:
        raise UserError(f"{path}: {len(data)} bytes instead of {wanted}; {REMEDY}")
    at = HEADER.size
    lengths = np.frombuffer(data, "<i4", num_sequences, at)
    starts = np.frombuffer(data, "<i8", num_sequences, at + 4 * num_sequences)
    boundaries = np.frombuffer(data, "<i8", num_boundaries, at + 12 * num_sequences)
    dtype = np.dtype(DTYPES[code])
    num_bytes = lengths.astype(np.int64) * dtype.itemsize
    fits = (
        num_boundaries >= 1
        and (lengths >= 0).all()
        and np.array_equal(starts, np.cumsum(num_bytes) - num_bytes)
        and boundaries[0] == 0
        and boundaries[-1] == num_sequences
        and (np.diff(boundaries) >= 0).all()
    )
    if not fits:
        raise UserError(f"{path}: lengths, offsets and documents contradict each other; {REMEDY}")
    return lengths, boundaries, dtype


def _map_tokens(path: Path, dtype: np.dtype, num_tokens: int) -> Integer[np.ndarray, " positions"]:
    num_bytes = _file_bytes(path)
    if num_bytes is None:
        raise UserError(f"{path}: no such file, but its index exists; {REMEDY}")
    if num_bytes != num_tokens * dtype.itemsize:
        raise UserError(
            f"{path}: {num_bytes} bytes, but its index tells of {num_tokens} tokens in "
            f"{num_tokens * dtype.itemsize} bytes; {REMEDY}"
        )
    # An empty file cannot be mapped.
    return np.asarray(np.memmap(path, dtype, "r")) if num_bytes else np.empty(0, dtype)


def _map_ids(path: Path, num_documents: int) -> Integer[np.ndarray, " bytes"] | None:
    num_bytes = _file_bytes(path)
    if num_bytes is None:
        return None
    data = np.asarray(np.memmap(path, np.uint8, "r")) if num_bytes else np.empty(0, np.uint8)
    num_lines = int(np.count_nonzero(data == ord("\n")))
    if num_lines != num_documents or (num_bytes and data[-1] != ord("\n")):
        raise UserError(f"{path}: {num_lines} ids for {num_documents} documents; {REMEDY}")
    return data


def _file_bytes(path: Path) -> int | None:
    """Size of the file; None if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
