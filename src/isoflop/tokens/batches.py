"""The mixture: which tokens the batch of step n holds, as a pure function of n.

Every source is an endless stream: all its documents in a seeded order, then all
again in another order, and so on. Its j-th sample is the tokens [j S, j S + S + 1)
of the stream, S the sequence length: the last token is only a target, and the next
sample begins with it. `blend` says which source gives which sample. Nothing depends
on earlier calls, on the number of workers or on how often a run was resumed.

Shapes in this file:
    batch      sequences of one step
    positions  sequence_length + 1 tokens of one sequence
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from isoflop.config import UserError
from isoflop.records import MixtureRow
from isoflop.tokens.blend import Blend
from isoflop.tokens.shards import Shard

KEPT_EPOCHS = 2
"""Orders of documents kept a source: a sequence may begin in one epoch and end in the next."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The tokens of one optimiser step."""

    tokens: Int[np.ndarray, "batch positions"]
    """Inputs are all but the last column, targets all but the first."""
    document_numbers: Int[np.ndarray, "batch positions"]
    """0 for a row's first document, 1 for the next; attention may be reset where it rises."""
    sources: Int[np.ndarray, " batch"]
    """Place of each sequence's source in `Mixture.sources`."""


class Mixture:
    """Batches from several shards by their shares.

    Costs: opening nothing; a step O(tokens x log documents); the first step far into
    a run also about a second per million samples before it (see `blend`), and each
    epoch of a source one sort of its documents.
    """

    def __init__(
        self,
        *,
        shards: Mapping[str, Shard],
        shares: Sequence[float],
        seed: int,
        batch_sequences: int,
        sequence_length: int,
    ):
        """`shares` are in the order of `shards`, relative to each other.

        Raises:
            UserError: a shard without tokens, or shares that do not fit.
        """
        if len(shards) != len(shares):
            raise UserError(f"{len(shares)} shares for {len(shards)} sources; give one a source")
        for source, shard in shards.items():
            if not shard.num_tokens:
                raise UserError(
                    f"{shard.prefix}: the source {source!r} has no tokens; leave it out"
                )
        self.sources: tuple[str, ...] = tuple(shards)
        """Names of the sources."""
        self.batch_sequences = batch_sequences
        self.sequence_length = sequence_length
        self._blend = Blend(shares)
        self._streams = [_Stream(source, shard, seed) for source, shard in shards.items()]

    def batch(self, step: int, *, part: int = 0, parts: int = 1) -> Batch:
        """The batch of a step, 0 for the first; of several equal `parts` only that numbered `part`.

        The parts in their order are the batch, whatever their number, which must divide it.
        """
        assert self.batch_sequences % parts == 0, (self.batch_sequences, parts)
        size = self.batch_sequences // parts
        rows = slice(part * size, (part + 1) * size)
        sources, starts = (places[rows] for places in self._places(step))
        length = self.sequence_length + 1
        tokens = np.empty((size, length), np.int64)
        numbers = np.empty((size, length), np.int64)
        for row, (source, start) in enumerate(zip(sources, starts, strict=True)):
            tokens[row], numbers[row] = self._streams[source].read(int(start), length)
        return Batch(tokens=tokens, document_numbers=numbers, sources=sources)

    def documents(self, step: int) -> list[str]:
        """Names, "source:id", of all documents in the batch, in reading order, each once."""
        names: dict[str, None] = {}
        for source, start in zip(*self._places(step), strict=True):
            stream = self._streams[source]
            for _, epoch, first, count in stream.pieces(int(start), self.sequence_length + 1):
                names.update(dict.fromkeys(stream.names(epoch, first, count)))
        return list(names)

    def usage(self, num_steps: int) -> list[MixtureRow]:
        """How much of each source the first `num_steps` steps read."""
        counts = self._blend.counts(num_steps * self.batch_sequences)
        rows = []
        for stream, share, count in zip(self._streams, self._blend.shares, counts, strict=True):
            used = int(count) * self.sequence_length
            unique = stream.shard.num_tokens
            rows.append(
                MixtureRow(
                    source=stream.source,
                    share=share,
                    unique_tokens=unique,
                    used_tokens=used,
                    epochs=used / unique,
                )
            )
        return rows

    def check_epochs(self, num_steps: int, max_epochs: Mapping[str, float | None]) -> None:
        """Refuse a run that reads a source more often than allowed; None allows any number.

        Raises:
            UserError: which source, how many epochs, and what to change.
        """
        for row in self.usage(num_steps):
            allowed = max_epochs[row.source]
            if allowed is None or row.used_tokens <= allowed * row.unique_tokens:
                continue
            budget = int(allowed * row.unique_tokens / row.share)
            raise UserError(
                f"source {row.source!r}: the run would read its {row.unique_tokens} tokens "
                f"{row.epochs:.2f} times, but max_epochs={allowed:g}; lower train_tokens to at "
                f"most {budget}, lower the source's share ({row.share:.3f}), give it more text, "
                "or raise its max_epochs"
            )

    def _places(self, step: int) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
        """Source of each row of a batch, and where in the source's stream it begins."""
        if step < 0:
            raise ValueError(f"step={step} must be at least 0")
        sources, numbers = self._blend.samples(step * self.batch_sequences, self.batch_sequences)
        return sources, numbers * self.sequence_length


class _Stream:
    """The endless stream of one source's documents."""

    def __init__(self, source: str, shard: Shard, seed: int):
        self.source = source
        self.shard = shard
        self._seed = seed
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def pieces(self, start: int, length: int) -> list[tuple[int, int, int, int]]:
        """The range cut at epochs' ends: place in the range, epoch, place in the epoch, tokens."""
        result = []
        at = 0
        while at < length:
            epoch, first = divmod(start + at, self.shard.num_tokens)
            count = min(length - at, self.shard.num_tokens - first)
            result.append((at, epoch, first, count))
            at += count
        return result

    def read(
        self, start: int, length: int
    ) -> tuple[Int[np.ndarray, " positions"], Int[np.ndarray, " positions"]]:
        """Tokens from `start` on, and for each how many documents began since the first."""
        tokens = np.empty(length, np.int64)
        begins = np.zeros(length, bool)
        for at, epoch, first, count in self.pieces(start, length):
            order, offsets = self._epoch(epoch)
            positions = np.arange(first, first + count)
            places = _places_of(offsets, positions)
            begin_on_disk = self.shard.document_offsets[order[places]]
            tokens[at : at + count] = self.shard.tokens[begin_on_disk + positions - offsets[places]]
            begins[at + 1 : at + count] = np.diff(places) > 0
            begins[at] = at > 0
        return tokens, np.cumsum(begins)

    def names(self, epoch: int, first: int, count: int) -> list[str]:
        """Names of the documents that hold these tokens of an epoch."""
        order, offsets = self._epoch(epoch)
        places = np.unique(_places_of(offsets, np.arange(first, first + count)))
        return [f"{self.source}:{self.shard.document_id(int(number))}" for number in order[places]]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents in this epoch's order, and where each begins, with the end."""
        if epoch not in self._epochs:
            while len(self._epochs) >= KEPT_EPOCHS:
                del self._epochs[next(iter(self._epochs))]
            order = epoch_order(self._seed, self.source, epoch, self.shard.num_documents)
            lengths = np.diff(self.shard.document_offsets)[order]
            self._epochs[epoch] = order, np.concatenate([[0], np.cumsum(lengths)])
        return self._epochs[epoch]


def _places_of(
    offsets: Int[np.ndarray, " boundaries"], positions: Int[np.ndarray, " positions"]
) -> Int[np.ndarray, " positions"]:
    """Which document of the order each position lies in; documents without tokens hold none."""
    places: Int[np.ndarray, " positions"] = np.searchsorted(offsets, positions, side="right") - 1
    return places


def epoch_order(
    seed: int, source: str, epoch: int, num_documents: int
) -> Int[np.ndarray, " documents"]:
    """A permutation of the documents, the same on every machine for the same arguments."""
    text = json.dumps([seed, "tokens.batches", source, epoch])
    key = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    # numpy promises the raw stream of a bit generator for ever, but not `permutation`.
    return np.argsort(np.random.PCG64(key).random_raw(num_documents), kind="stable")


def validation_batches(
    shard: Shard, sequence_length: int, num_sequences: int
) -> list[Int[np.ndarray, " positions"]]:
    """Sequences of sequence_length + 1 tokens spread evenly over the shard, one array each.

    Spread, so that they come from as many documents as there are: neighbours in
    one long document would be no fair sample. Fewer where the shard is short. A
    shard shorter than one sequence gives one shorter sequence; with less than
    two tokens there is nothing to predict and the list is empty. Nothing is padded.
    """
    return [
        shard.tokens[start:end].astype(np.int64)
        for start, end in _validation_ranges(shard, sequence_length, num_sequences)
    ]


def validation_document_numbers(
    shard: Shard, sequence_length: int, num_sequences: int
) -> list[Int[np.ndarray, " positions"]]:
    """The document numbers, as in `Batch`, of the sequences of `validation_batches`."""
    result = []
    for start, end in _validation_ranges(shard, sequence_length, num_sequences):
        places = _places_of(shard.document_offsets, np.arange(start, end))
        result.append(np.cumsum(np.diff(places, prepend=places[:1]) > 0))
    return result


def _validation_ranges(
    shard: Shard, sequence_length: int, num_sequences: int
) -> list[tuple[int, int]]:
    whole = (shard.num_tokens - 1) // sequence_length
    if whole < 1:
        return [(0, shard.num_tokens)] if shard.num_tokens > 1 and num_sequences else []
    count = min(whole, num_sequences)
    starts = [place * whole // count * sequence_length for place in range(count)]
    return [(start, start + sequence_length + 1) for start in starts]
