"""Make one source ready: documents split into training and validation, questions, set-asides.

    train.jsonl        Document rows
    validation.jsonl   Document rows
    items.jsonl        EvaluationItem rows, of probes only
    set_aside.jsonl    SetAside rows
    source.jsonl       one SourceRow
    funnel.jsonl       FunnelRow rows, of sources with filters only

A source of any size passes through in flat memory (eight bytes a document, and ids where the user
names a field for them); a probe is made in memory.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from isoflop.config import UserError, digest
from isoflop.corpus.config import (
    ArithmeticProbe,
    PhoneBookProbe,
    ShortestPathProbe,
    Source,
    StdlibSource,
    TextSource,
)
from isoflop.corpus.filters.run import measuring_tools
from isoflop.corpus.formats import printable, whole_file
from isoflop.corpus.prepare import Funnel, prepared
from isoflop.corpus.probes.arithmetic import arithmetic
from isoflop.corpus.probes.phone_book import phone_book
from isoflop.corpus.probes.shortest_path import shortest_path
from isoflop.corpus.probes.texts import ProbeTexts
from isoflop.corpus.readers import Record, read_text, text_files, text_path
from isoflop.corpus.seeds import HASH_BITS, stable_hash
from isoflop.corpus.stdlib import read_stdlib, stdlib_files, stdlib_root
from isoflop.folders import file_digest
from isoflop.records import (
    Document,
    SetAside,
    SourceRow,
    atomic_file,
    read_rows,
    row_to_line,
    write_rows,
)

TRAIN = "train.jsonl"
VALIDATION = "validation.jsonl"
ITEMS = "items.jsonl"
SET_ASIDE = "set_aside.jsonl"
SOURCE = "source.jsonl"
FUNNEL = "funnel.jsonl"

SPLIT_PENDING = "documents.jsonl"
"""All documents, while their number is not yet known; deleted after the split."""

REASONS_SHOWN = 3
"""Reasons named when nothing is left of a corpus."""


def build_source(source: Source, seed: int, folder: Path) -> SourceRow:
    """Write the files of one source into `folder`, each complete or absent; same bytes each time.

    Raises:
        UserError: the source cannot be read, or has fewer than two usable documents.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(source, StdlibSource):
        row = _build_stdlib(source, seed, folder)
    elif isinstance(source, TextSource):
        row = _build_text(source, read_text(source), seed, folder)
    else:
        row = _build_probe(source, make_probe(source, seed), folder)
    write_rows(folder / SOURCE, [row])
    return row


def make_probe(source: Source, seed: int) -> ProbeTexts:
    """The probe's documents and questions."""
    if isinstance(source, PhoneBookProbe):
        return phone_book(source, seed)
    if isinstance(source, ArithmeticProbe):
        return arithmetic(source, seed)
    if isinstance(source, ShortestPathProbe):
        return shortest_path(source, seed)
    raise TypeError(f"{type(source).__name__} is no probe")


def input_digest(source: Source) -> str:
    """Digest of the bytes that the source reads, so that changed data make another folder.

    "" for probes, which read nothing.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    if isinstance(source, StdlibSource):
        root = stdlib_root()
        library = _files_digest((name, root / name) for name in stdlib_files(root))
        # Another pylint keeps other files.
        tools = measuring_tools(source.filters) if source.filters else None
        return library if tools is None else digest(None, library, *sorted(tools.values()))
    if not isinstance(source, TextSource):
        return ""
    path = text_path(source)
    if not path.is_dir():
        return _file_digest(path)
    files = [file for file in text_files(source, path) if file.is_file()]
    return _files_digest((printable(file.relative_to(path)), file) for file in files)


def validation_ids(hashes: Iterable[int], share: float) -> Iterator[bool]:
    """Whether each document, given its split hash, is held out for validation.

    A document's side depends on its own hash only, except that neither side stays empty: the
    lowest hash is always held out and the highest never is. Needs two documents or more.
    """
    values = list(hashes) if not isinstance(hashes, array) else hashes
    lowest, highest = min(values), max(values)
    for value in values:
        yield value == lowest or (value < share * 2**HASH_BITS and value != highest)


def _build_text(
    source: StdlibSource | TextSource, records: Iterator[Record], seed: int, folder: Path
) -> SourceRow:
    """Split a stream of records whose number is not known before its end."""
    pending = folder / SPLIT_PENDING
    reasons: Counter[str] = Counter()
    hashes = array("Q")

    def documents(set_aside: TextIO) -> Iterator[Document]:
        for record in records:
            if isinstance(record, SetAside):
                reasons[record.reason] += 1
                set_aside.write(row_to_line(record) + "\n")
            else:
                hashes.append(stable_hash(seed, "split", source.name, record.id))
                yield record

    try:
        with (
            atomic_file(folder / SET_ASIDE) as part,
            part.open("w", encoding="utf-8", newline="\n") as set_aside,
        ):
            write_rows(pending, documents(set_aside))
        _require_documents(source, len(hashes), reasons)
        held_out = bytes(validation_ids(hashes, source.validation_share))
        train, validation = _Count(), _Count()
        write_rows(folder / TRAIN, train.through(_side(pending, held_out, 0)))
        write_rows(folder / VALIDATION, validation.through(_side(pending, held_out, 1)))
    finally:
        pending.unlink(missing_ok=True)
    return SourceRow(
        source=source.name,
        num_documents=train.documents,
        num_validation_documents=validation.documents,
        num_set_aside=reasons.total(),
        num_bytes=train.bytes,
        information_bits=None,
    )


def _build_stdlib(source: StdlibSource, seed: int, folder: Path) -> SourceRow:
    """The standard library, through filters where the source names them."""
    records = read_stdlib(source, seed)
    if source.filters is None:
        return _build_text(source, records, seed, folder)
    funnel = Funnel(source.name)
    row = _build_text(source, prepared(records, source.filters, funnel), seed, folder)
    write_rows(folder / FUNNEL, funnel.rows())
    return row


def _build_probe(
    source: PhoneBookProbe | ArithmeticProbe | ShortestPathProbe, texts: ProbeTexts, folder: Path
) -> SourceRow:
    train = _Count()
    write_rows(folder / TRAIN, train.through(texts.train))
    write_rows(folder / VALIDATION, texts.validation)
    write_rows(folder / ITEMS, texts.items)
    write_rows(folder / SET_ASIDE, [])
    return SourceRow(
        source=source.name,
        num_documents=train.documents,
        num_validation_documents=len(texts.validation),
        num_set_aside=0,
        num_bytes=train.bytes,
        information_bits=source.information_bits,
    )


class _Count:
    """Documents and UTF-8 bytes that passed through."""

    def __init__(self) -> None:
        self.documents = 0
        self.bytes = 0

    def through(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            self.documents += 1
            self.bytes += len(document.text.encode("utf-8"))
            yield document


def _side(pending: Path, held_out: bytes, side: int) -> Iterator[Document]:
    """Documents of one side of the split, in the order of the source."""
    for document, is_held_out in zip(read_rows(pending, Document), held_out, strict=True):
        if is_held_out == side:
            yield document


def _require_documents(
    source: StdlibSource | TextSource, num_documents: int, reasons: Counter[str]
) -> None:
    if num_documents >= 2:
        return
    where = source.path if isinstance(source, TextSource) else str(stdlib_root())
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(REASONS_SHOWN))
    lost = f"{reasons.total()} set aside ({told})" if reasons else "none set aside"
    raise UserError(
        f"{source.name}: {where} has {num_documents} usable documents, {lost}; at least 2 are "
        "needed, one for training and one for validation"
    )


def _files_digest(files: Iterable[tuple[str, Path]]) -> str:
    total = hashlib.sha256()
    for name, path in files:
        total.update(f"{name}\0{_file_digest(path)}\n".encode())
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    with whole_file(path, "give an existing file that may be read"):
        return file_digest(path)
