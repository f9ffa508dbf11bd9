"""From a source's documents to its token shards, and the texts from which a tokenizer is learned.

A corpus folder holds train.jsonl and validation.jsonl, rows of records.Document.
"""

from collections.abc import Iterator, Sequence
from itertools import islice, tee
from pathlib import Path

from isoflop.config import UserError
from isoflop.records import Document, TokenRow, read_rows, write_rows
from isoflop.tokens.shards import ShardCounts, write_shard
from isoflop.tokens.tokenizer import Tokenizer

DOCUMENTS_AT_ONCE = 64
"""Documents encoded together; bounds the memory. No influence on results. Chosen."""


def tokenize_source(tokenizer: Tokenizer, source: str, corpus_folder: Path, out: Path) -> TokenRow:
    """Write the shards `train` and `validation` and tokens.jsonl into `out`; the row is returned.

    Every document ends with one end-of-text token. The validation shard may be
    empty; the training shard may not.

    Raises:
        UserError: a file of the corpus is missing or broken, or there is no training document.
    """
    train = _tokenize(tokenizer, corpus_folder / "train.jsonl", out / "train")
    if not train.num_documents:
        raise UserError(
            f"{corpus_folder / 'train.jsonl'}: the source {source!r} has no training documents; "
            "give it text or leave it out of the corpus"
        )
    validation = _tokenize(tokenizer, corpus_folder / "validation.jsonl", out / "validation")
    row = TokenRow(
        source=source,
        train_tokens=train.num_tokens,
        validation_tokens=validation.num_tokens,
        num_documents=train.num_documents,
    )
    write_rows(out / "tokens.jsonl", [row])
    return row


def _tokenize(tokenizer: Tokenizer, path: Path, prefix: Path) -> ShardCounts:
    # tee keeps one document: write_shard takes tokens and ids in step.
    for_tokens, for_ids = tee(_encoded(tokenizer, path))
    tokens = (tokens for tokens, _ in for_tokens)
    ids = (name for _, name in for_ids)
    return write_shard(prefix, tokens, tokenizer.vocabulary_size, ids)


def _encoded(tokenizer: Tokenizer, path: Path) -> Iterator[tuple[list[int], str]]:
    """Tokens and id of each document of a file."""
    documents = read_rows(path, Document)
    while group := list(islice(documents, DOCUMENTS_AT_ONCE)):
        encoded = tokenizer.encode_batch([document.text for document in group])
        for document, tokens in zip(group, encoded, strict=True):
            yield [*tokens, tokenizer.end_of_text_id], document.id


def sample_texts(
    corpus_folders: Sequence[Path], shares: Sequence[float], num_bytes: int
) -> Iterator[str]:
    """Training texts of several sources, together at most `num_bytes` of UTF-8, split by `shares`.

    Documents are taken evenly over each file, so that a sorted file is not
    represented by its head; the last one is cut at a character. A source with
    less text than its part gives all it has once: nothing is repeated or made
    up by another source. No randomness.

    Raises:
        UserError: a train.jsonl is missing or broken.
    """
    total = sum(shares)
    for folder, share in zip(corpus_folders, shares, strict=True):
        yield from _sample(folder / "train.jsonl", int(num_bytes * share / total))


def _sample(path: Path, budget: int) -> Iterator[str]:
    """Documents spread over the file, `budget` bytes of them."""
    available = sum(_num_bytes(row.text) for row in read_rows(path, Document))
    taken = passed = 0
    for row in read_rows(path, Document):
        # Take a document whenever the taken bytes lie behind the passed share of the file.
        behind = taken * available <= passed * budget
        passed += _num_bytes(row.text)
        if behind or available <= budget:
            text = row.text.encode(errors="replace")[: budget - taken].decode(errors="ignore")
            taken += _num_bytes(text)
            if text:
                yield text


def _num_bytes(text: str) -> int:
    # A lone surrogate is refused when it is encoded; counting it must not fail first.
    return len(text.encode(errors="replace"))
