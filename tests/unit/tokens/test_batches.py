import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.tokens.batches import (
    Mixture,
    epoch_order,
    validation_batches,
    validation_document_numbers,
)
from isoflop.tokens.shards import Shard, write_shard

LENGTHS = {"code": [3, 1, 9, 2, 5, 4], "facts": [2, 2, 2], "prose": [40, 1, 1, 30]}
SHARES = (0.5, 0.2, 0.3)
ELSEWHERE = """
import json, sys
from pathlib import Path
from isoflop.tokens.batches import Mixture
from isoflop.tokens.shards import Shard
shards = {name: Shard(Path(prefix)) for name, prefix in json.loads(sys.argv[1]).items()}
mixture = Mixture(shards=shards, shares=(0.5, 0.2, 0.3), seed=1, batch_sequences=4,
                  sequence_length=7)
for step in (7, 0, 3):
    batch = mixture.batch(step)
    print(json.dumps([batch.tokens.tolist(), batch.document_numbers.tolist(),
                      batch.sources.tolist(), mixture.documents(step)]))
"""


def make_shard(prefix: Path, lengths: list[int], first_token: int = 1) -> Shard:
    """Documents of distinct tokens, each ended by 0, so that every place can be recognised."""
    documents, token = [], first_token
    for length in lengths:
        documents.append([*range(token, token + length - 1), 0])
        token += length
    write_shard(prefix, documents, 60_000, [f"d{number}" for number in range(len(lengths))])
    return Shard(prefix)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Shard]:
    folder = tmp_path_factory.mktemp("shards")
    return {
        name: make_shard(folder / name, lengths, 1 + 1000 * place)
        for place, (name, lengths) in enumerate(LENGTHS.items())
    }


def make_mixture(shards, seed=1, batch_sequences=4, sequence_length=7, shares=SHARES) -> Mixture:
    return Mixture(
        shards=shards,
        shares=shares,
        seed=seed,
        batch_sequences=batch_sequences,
        sequence_length=sequence_length,
    )


def slow_stream(
    shard: Shard, source: str, seed: int, num_epochs: int
) -> list[tuple[int, int, int]]:
    """Token, running number of its document and the document, epoch after epoch: the definition."""
    stream, document_count = [], 0
    for epoch in range(num_epochs):
        for number in epoch_order(seed, source, epoch, shard.num_documents):
            tokens = shard.document(int(number)).tolist()
            stream += [(token, document_count, int(number)) for token in tokens]
            document_count += 1
    return stream


def test_batches_are_the_documents_in_permuted_order_with_their_boundaries(shards):
    seed, length = 3, 7
    mixture = make_mixture(shards, seed=seed, sequence_length=length)
    streams = {
        name: slow_stream(shard, name, seed, num_epochs=60) for name, shard in shards.items()
    }
    places = dict.fromkeys(shards, 0)
    for step in range(25):
        batch = mixture.batch(step)
        for tokens, numbers, source in zip(
            batch.tokens, batch.document_numbers, batch.sources, strict=True
        ):
            name = mixture.sources[source]
            start = places[name] * length
            wanted = streams[name][start : start + length + 1]
            assert tokens.tolist() == [token for token, _, _ in wanted]
            assert numbers.tolist() == [count - wanted[0][1] for _, count, _ in wanted]
            places[name] += 1


def test_a_document_number_rises_just_after_an_end_of_text(shards):
    for step in range(10):
        batch = make_mixture(shards).batch(step)
        rises = np.diff(batch.document_numbers, axis=1)
        assert ((batch.tokens[:, :-1] == 0) == (rises == 1)).all()
        assert set(np.unique(rises)) <= {0, 1}
        assert (batch.document_numbers[:, 0] == 0).all()


def test_an_epoch_holds_every_document_once_and_epochs_differ():
    orders = [epoch_order(0, "code", epoch, 50) for epoch in range(5)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(50))
    others = [epoch_order(1, "code", 0, 50), epoch_order(0, "prose", 0, 50)]
    assert len({tuple(order.tolist()) for order in [*orders, *others]}) == 7


def test_pinned_order():
    """Changes when a numpy or a code change would make old runs impossible to repeat."""
    assert epoch_order(0, "code", 0, 8).tolist() == [0, 2, 4, 5, 6, 3, 7, 1]


def test_a_step_is_the_same_in_any_order_of_calls_and_in_a_resumed_object(shards):
    steps = list(range(12))
    forward = make_mixture(shards)
    wanted = {step: forward.batch(step) for step in steps}
    backward = make_mixture(shards)
    backward.usage(40)
    for step in [*reversed(steps), 5, 5, 0]:
        for mixture in (backward, make_mixture(shards)):
            batch = mixture.batch(step)
            assert batch.tokens.tolist() == wanted[step].tokens.tolist()
            assert batch.document_numbers.tolist() == wanted[step].document_numbers.tolist()
            assert batch.sources.tolist() == wanted[step].sources.tolist()
            assert mixture.documents(step) == forward.documents(step)


def test_a_step_is_the_same_in_another_process(shards):
    prefixes = json.dumps({name: str(shard.prefix) for name, shard in shards.items()})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", ELSEWHERE, prefixes]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    mixture = make_mixture(shards)
    for step, line in zip((7, 0, 3), result.stdout.splitlines(), strict=True):
        batch = mixture.batch(step)
        assert json.loads(line) == [
            batch.tokens.tolist(),
            batch.document_numbers.tolist(),
            batch.sources.tolist(),
            mixture.documents(step),
        ]


def test_batch_size_does_not_change_the_samples(shards):
    small, large = make_mixture(shards, batch_sequences=2), make_mixture(shards, batch_sequences=6)
    joined = np.concatenate([small.batch(step).tokens for step in range(9)])
    assert joined.tolist() == np.concatenate([large.batch(s).tokens for s in range(3)]).tolist()


def test_another_seed_gives_other_batches(shards):
    first, second = make_mixture(shards, seed=1), make_mixture(shards, seed=2)
    assert first.batch(0).tokens.tolist() != second.batch(0).tokens.tolist()


def test_the_next_sample_begins_with_the_last_target(shards):
    only = {"code": shards["code"]}
    batch = make_mixture(only, shares=(1.0,)).batch(0)
    assert batch.tokens[:-1, -1].tolist() == batch.tokens[1:, 0].tolist()


def test_documents_names_every_document_of_a_batch(shards):
    mixture = make_mixture(shards, seed=3)
    streams = {
        name: slow_stream(shard, name, seed=3, num_epochs=60) for name, shard in shards.items()
    }
    places = dict.fromkeys(shards, 0)
    for step in range(20):
        wanted: list[str] = []
        for source in mixture.batch(step).sources:
            name = mixture.sources[source]
            part = streams[name][places[name] : places[name] + 8]
            places[name] += 7
            wanted += [f"{name}:d{number}" for _, _, number in part]
        assert mixture.documents(step) == list(dict.fromkeys(wanted))


def test_usage_counts_the_samples_drawn(shards):
    mixture = make_mixture(shards)
    drawn = np.concatenate([mixture.batch(step).sources for step in range(50)])
    for place, row in enumerate(mixture.usage(50)):
        assert row.source == mixture.sources[place]
        assert row.share == pytest.approx(SHARES[place])
        assert row.used_tokens == np.count_nonzero(drawn == place) * 7
        assert row.unique_tokens == sum(LENGTHS[row.source])
        assert row.epochs == row.used_tokens / row.unique_tokens
    assert sum(row.used_tokens for row in mixture.usage(50)) == 50 * 4 * 7


def test_too_many_epochs_are_refused_with_what_to_change(shards):
    mixture = make_mixture(shards)
    limits: dict[str, float | None] = {"code": None, "facts": 50.0, "prose": None}
    mixture.check_epochs(50, limits)
    with pytest.raises(UserError) as caught:
        mixture.check_epochs(50, {**limits, "facts": 4.0})
    assert str(caught.value) == (
        "source 'facts': the run would read its 6 tokens 46.67 times, but max_epochs=4; "
        "lower train_tokens to at most 120, lower the source's share (0.200), give it more text, "
        "or raise its max_epochs"
    )


def test_what_cannot_be_mixed_is_refused(shards, tmp_path):
    write_shard(tmp_path / "empty", [], 100, [])
    with pytest.raises(UserError, match="'none' has no tokens"):
        make_mixture({"none": Shard(tmp_path / "empty")}, shares=(1.0,))
    with pytest.raises(UserError, match="2 shares for 3 sources"):
        make_mixture(shards, shares=(0.5, 0.5))
    with pytest.raises(ValueError, match="step=-1"):
        make_mixture(shards).batch(-1)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(1, 12), st.integers(0, 9))
def test_validation_sequences_are_spread_over_the_file(tmp_path_factory, lengths, length, wanted):
    shard = make_shard(tmp_path_factory.mktemp("validation") / "v", lengths)
    sequences = validation_batches(shard, length, wanted)
    stream = shard.tokens.tolist()
    whole = [
        stream[at : at + length + 1]
        for at in range(0, len(stream), length)
        if at + length < len(stream)
    ]
    short = [stream] if 1 < len(stream) <= length else []
    count = min(wanted, len(whole))
    spread = [whole[place * len(whole) // count] for place in range(count)]
    assert [sequence.tolist() for sequence in sequences] == (spread or short[:wanted])
    numbers = validation_document_numbers(shard, length, wanted)
    for sequence, number in zip(sequences, numbers, strict=True):
        assert number[0] == 0
        assert (np.diff(number) == (sequence[:-1] == 0)).all()


def test_an_empty_validation_shard_gives_no_sequence(tmp_path):
    write_shard(tmp_path / "empty", [], 100, [])
    assert validation_batches(Shard(tmp_path / "empty"), 8, 4) == []
    assert validation_document_numbers(Shard(tmp_path / "empty"), 8, 4) == []


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_parts_of_a_batch_are_the_batch_whatever_their_number(shards, parts):
    mixture = Mixture(shards=shards, shares=SHARES, seed=1, batch_sequences=4, sequence_length=7)
    for step in (0, 5):
        whole = mixture.batch(step)
        cut = [mixture.batch(step, part=part, parts=parts) for part in range(parts)]
        for field in ("tokens", "document_numbers", "sources"):
            joined = np.concatenate([getattr(one, field) for one in cut])
            assert np.array_equal(joined, getattr(whole, field))
