"""MinHash against exact Jaccard similarity; duplicates removed as the obvious slow search would."""

import json
import random
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes_corpus import write_jsonl
from isoflop.config import UserError
from isoflop.corpus import deduplicate, same_bands, signatures
from isoflop.corpus.deduplicate import DeduplicateConfig, deduplicate_corpus, duplicates
from isoflop.corpus.intake import CorpusInput
from isoflop.corpus.minhash import (
    band_keys,
    hash_functions,
    shingles,
    signature,
    similarity,
    token_hashes,
    tokens,
)
from isoflop.corpus.shards import OutputConfig, kept_rows, rejected_rows
from isoflop.corpus.signatures import SignatureFile

FUNCTIONS = hash_functions(256)


def words(count, seed):
    rng = random.Random(seed)
    return [f"word{rng.randint(0, 10_000)}" for _ in range(count)]


def shingle_set(text, n=5):
    found = tokens(text)
    return {tuple(found[at : at + n]) for at in range(len(found) - n + 1)}


@pytest.mark.parametrize("changed", [0, 5, 20, 60, 150])
def test_the_estimate_is_the_jaccard_similarity_within_its_error(changed):
    errors = []
    for seed in range(10):
        first = words(400, seed)
        second = list(first)
        for place in random.Random(seed + 99).sample(range(400), changed):
            second[place] = f"other{place}"
        a, b = " ".join(first), " ".join(second)
        exact = len(shingle_set(a) & shingle_set(b)) / len(shingle_set(a) | shingle_set(b))
        signed = [signature(shingles(token_hashes(tokens(t)), 5), FUNCTIONS) for t in (a, b)]
        errors.append(similarity(*signed) - exact)
    # Ten means of 256 places: four standard errors.
    assert abs(np.mean(errors)) < 4 * 0.5 / np.sqrt(2560)
    assert changed or errors == [0.0] * 10


@given(st.text(max_size=40), st.integers(1, 6))
def test_shingles_are_those_of_the_tokens(text, n):
    found = tokens(text)
    hashes = shingles(token_hashes(found), n)
    expected = max(1, len(found) - n + 1) if found else 0
    assert len(hashes) == expected
    seen: dict[tuple[str, ...], int] = {}
    for at in range(expected):
        gram = tuple(found[at : at + n])
        assert seen.setdefault(gram, int(hashes[at])) == int(hashes[at])
    assert len(set(seen.values())) == len(seen)


def test_signatures_in_pieces_are_those_in_one():
    grams = shingles(token_hashes(words(10_000, 0)), 5)
    whole = signature(grams, FUNCTIONS)
    parts = [signature(grams[at : at + 777], FUNCTIONS) for at in range(0, len(grams), 777)]
    assert np.array_equal(whole, np.min(parts, axis=0))


def test_equal_bands_have_equal_keys_and_others_do_not():
    signed = np.stack([signature(token_hashes(words(50, seed)), FUNCTIONS) for seed in (0, 1)])
    signed[1, :8] = signed[0, :8]
    keys = band_keys(signed, 32)
    assert (keys[0] == keys[1]).tolist() == [True] + [False] * 31


def slow_duplicates(signed, config):
    """Every pair, without bands."""
    original = []
    for number, own in enumerate(signed):
        best, found = config.threshold, -1
        for other in range(number):
            share = float(np.mean(signed[other] == own))
            if original[other] < 0 and (share > best or (share == best and found < 0)):
                best, found = share, other
        original.append(found)
    return original


def found_on_disk(signed, config, folder):
    """`duplicates` of an array of signatures."""
    folder.mkdir()
    with SignatureFile(folder / "signatures.bin", signed.shape[1]) as file:
        for row in signed:
            file.append("00", row.tobytes())
        return list(duplicates(file, config, folder))


def groups_of_copies(seed):
    """Signatures of 30 texts and up to four changed copies of each, in any order."""
    functions = hash_functions(120)
    rng = random.Random(seed)
    texts = []
    for group in range(30):
        base = words(200, group)
        for copy in range(rng.randint(1, 5)):
            changed = list(base)
            # Far from the threshold, where bands could miss a pair.
            for place in rng.sample(range(200), copy):
                changed[place] = f"new{copy}"
            texts.append(changed)
    rng.shuffle(texts)
    return np.stack([signature(shingles(token_hashes(t), 5), functions) for t in texts])


@pytest.mark.parametrize("at_once", [None, 9, 50])
def test_duplicates_are_those_of_the_slow_search_over_all_pairs(tmp_path, monkeypatch, at_once):
    if at_once is not None:
        monkeypatch.setattr(signatures, "ROWS_AT_ONCE", at_once)
        monkeypatch.setattr(same_bands, "ROWS_AT_ONCE", at_once)
        monkeypatch.setattr(same_bands, "KEYS_AT_ONCE", 2 * at_once)
        monkeypatch.setattr(deduplicate, "CANDIDATES_AT_ONCE", at_once)
    config = DeduplicateConfig()
    signed = groups_of_copies(0)
    assert found_on_disk(signed, config, tmp_path / "all") == slow_duplicates(signed, config)
    assert found_on_disk(signed[:0], config, tmp_path / "none") == []
    assert found_on_disk(signed[:1], config, tmp_path / "one") == [-1]


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), max_size=30))
def test_chains_of_kept_texts_give_what_lists_of_them_would(rows):
    # Four bands of one place each: every candidate that is similar enough shares a band.
    config = DeduplicateConfig(threshold=0.75, num_bands=4, rows_per_band=1)
    signed = np.array(rows, dtype=np.uint32).reshape(-1, 4) + 1
    with tempfile.TemporaryDirectory() as folder:
        assert found_on_disk(signed, config, Path(folder) / "a") == slow_duplicates(signed, config)


def test_texts_that_were_not_signed_repeat_nothing(tmp_path):
    signed = np.zeros((5, 120), dtype=np.uint32)
    assert found_on_disk(signed, DeduplicateConfig(), tmp_path / "a") == [-1] * 5


def test_memory_of_the_search_does_not_grow_with_the_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(signatures, "ROWS_AT_ONCE", 128)
    monkeypatch.setattr(same_bands, "ROWS_AT_ONCE", 128)
    monkeypatch.setattr(same_bands, "KEYS_AT_ONCE", 512)
    config = DeduplicateConfig(num_bands=4, rows_per_band=2)
    peaks = []
    for count in (1_000, 5_000):
        rng = np.random.default_rng(0)
        # One text in a hundred is new, the others repeat one of those before.
        base = rng.integers(1, 2**32, (count // 100, 8), dtype=np.uint32)
        path = tmp_path / f"{count}.bin"
        with SignatureFile(path, 8) as file:
            for row in base[rng.integers(0, len(base), count)]:
                file.append("00", row.tobytes())
            folder = tmp_path / str(count)
            folder.mkdir()
            tracemalloc.start()
            num_kept = sum(original < 0 for original in duplicates(file, config, folder))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert num_kept == len(base)
    assert peaks[1] < 1.3 * peaks[0]


def test_the_first_of_a_group_is_kept_whatever_the_number_of_workers(tmp_path):
    base = [" ".join(words(150, seed)) for seed in range(6)]
    texts = [base[0], base[1], base[0], base[0] + " more", base[2] + " x", base[2], "", base[3]]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    contents = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        counts = deduplicate_corpus(
            CorpusInput(path=str(path)),
            out,
            output=OutputConfig(format="jsonl", rows_per_shard=3),
            num_workers=workers,
        )
        assert counts.num_read == 8
        contents.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert contents[0] == contents[1]
    assert [r.text for r in kept_rows(out)] == [base[0], base[1], base[2] + " x", base[3]]
    told = [(r.reason, r.detail) for r in rejected_rows(out)]
    ids = {r.text: r.id for r in kept_rows(out)}
    assert told[0] == ("exact duplicate", f"of text {ids[base[0]]}")
    assert told[1][0] == "near-duplicate"
    assert told[1][1].startswith(f"of text {ids[base[0]]}, similarity 0.9")
    assert told[2][1].startswith(f"of text {ids[base[2] + ' x']}")
    assert told[3][0] == "empty text"


def test_a_run_killed_while_signing_or_writing_goes_on(tmp_path):
    texts = [" ".join(words(80, n // 2)) for n in range(20)]
    source = CorpusInput(path=str(write_jsonl(tmp_path / "a.jsonl", texts)))
    output = OutputConfig(format="jsonl", rows_per_shard=4)
    deduplicate_corpus(source, tmp_path / "whole", output=output, num_workers=1)
    told = 0

    def stop_at(last):
        def tell(done):
            nonlocal told
            told += 1
            if told == last:
                raise KeyboardInterrupt

        return tell

    for last in (7, 15, 19, 30):
        told = 0
        try:
            out = tmp_path / "out"
            deduplicate_corpus(source, out, output=output, num_workers=1, tell=stop_at(last))
        except KeyboardInterrupt:
            continue
    deduplicate_corpus(source, tmp_path / "out", output=output, num_workers=1)
    names = {p.name for p in (tmp_path / "whole").iterdir()}
    assert names == {p.name for p in (tmp_path / "out").iterdir()}
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["num_kept"] == 10


@pytest.mark.parametrize("fields", [{"threshold": 0.0}, {"num_bands": 0}, {"shingle_tokens": 0}])
def test_nonsense_is_refused(fields):
    with pytest.raises(UserError):
        DeduplicateConfig(**fields)
