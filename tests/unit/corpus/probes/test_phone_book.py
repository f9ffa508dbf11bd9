"""Every fact is stated as often as its rank asks, and control names are never stated."""

import itertools
import math
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from isoflop.config import UserError, override
from isoflop.corpus import PhoneBookProbe
from isoflop.corpus.probes.phone_book import phone_book, statement_counts, vocabulary, words

PROBES = [
    PhoneBookProbe(),
    PhoneBookProbe(zipf_exponent=1.0, num_statements=3000),
    PhoneBookProbe(num_symbols=256, num_digits=1, separator="", place_words="own"),
    PhoneBookProbe(num_words=8, num_facts=32, num_statements=32, num_digits=4, num_symbols=2),
    PhoneBookProbe(words_per_name=3, num_words=700, num_facts=50, num_symbols=11),
]


def test_a_small_book_is_pinned():
    probe = PhoneBookProbe(
        num_words=4, num_facts=3, num_statements=4, num_validation=1, num_items=2
    )
    texts = phone_book(probe, 0)
    assert [document.text for document in texts.train] == [
        " bab deb:93",
        " beb beb:16",
        " dab deb:68",
        " beb beb:16",
    ]
    assert [(i.split, i.prompt, i.answer) for i in texts.items] == [
        ("seen", " dab deb:", "68"),
        ("seen", " beb beb:", "16"),
        ("held_out", " dab beb:", "66"),
        ("held_out", " beb bab:", "37"),
    ]


@pytest.mark.parametrize("probe", PROBES)
def test_statements_agree_with_the_answers_and_controls_are_never_stated(probe):
    texts = phone_book(probe, 3)
    stated = {document.text for document in texts.train}
    assert len(texts.train) == probe.num_statements
    assert len(stated) == probe.num_facts
    assert len({document.id for document in texts.train + texts.validation}) == (
        probe.num_statements + probe.num_validation
    )
    assert {document.text for document in texts.validation} <= stated
    seen = [item for item in texts.items if item.split == "seen"]
    controls = [item for item in texts.items if item.split == "held_out"]
    assert len(seen) == min(probe.num_items, probe.num_facts)
    assert len(controls) == min(probe.num_items, probe.num_names - probe.num_facts)
    assert len({item.prompt for item in texts.items}) == len(texts.items)
    for item in seen:
        assert item.prompt + item.answer in stated
    for item in controls:
        assert not [text for text in stated if text.startswith(item.prompt)]
    assert all(item.final_answer == item.answer for item in texts.items)


@pytest.mark.parametrize("probe", PROBES)
def test_a_name_has_one_number_and_its_words_are_no_symbols(probe):
    spelling = vocabulary(probe)
    names = {word for place in spelling.places for word in place}
    assert len(spelling.places) == probe.words_per_name
    assert len(set(spelling.symbols)) == len(spelling.symbols) == probe.num_symbols
    assert not names & set(spelling.symbols)
    numbers: dict[str, set[str]] = {}
    for document in phone_book(probe, 0).train:
        parts = re.findall(r" [a-z]+|[0-9]|:", document.text)
        assert "".join(parts) == document.text
        assert document.text.isascii()
        numbers.setdefault("".join(parts[: probe.words_per_name]), set()).add(document.text)
    assert all(len(found) == 1 for found in numbers.values())


def test_places_with_words_of_their_own_share_none():
    first, second = vocabulary(PhoneBookProbe(place_words="own", num_words=50)).places
    assert len(set(first) | set(second)) == 100


@given(
    st.integers(1, 60),
    st.integers(0, 500),
    st.floats(0, 3),
    st.sampled_from([0.0, 10.0]),
)
def test_counts_sum_and_follow_the_power_law_within_one(facts, more, exponent, offset):
    probe = PhoneBookProbe(
        num_facts=facts,
        num_statements=facts + more,
        zipf_exponent=exponent,
        zipf_offset=offset,
    )
    counts = statement_counts(probe)
    assert len(counts) == facts
    assert sum(counts) == facts + more
    assert min(counts) >= 1
    assert counts == sorted(counts, reverse=True)
    frequent = [count for count in counts if count > 1]
    weights = [(rank + offset) ** -exponent for rank in range(1, len(frequent) + 1)]
    # Facts stated once are either proportional too or lifted to one: the rest is proportional.
    for (a, x), (b, y) in itertools.pairwise(zip(frequent, weights, strict=True)):
        assert (a - 1) / x <= (b + 1) / y * (1 + 1e-9)
        assert (b - 1) / y <= (a + 1) / x * (1 + 1e-9)


def test_statements_are_as_frequent_as_counted():
    probe = PhoneBookProbe(zipf_exponent=1.0)
    stated = Counter(document.text for document in phone_book(probe, 0).train)
    assert sorted(stated.values(), reverse=True) == statement_counts(probe)


def test_information_is_the_logarithm_of_the_number_of_books():
    for symbols, digits, facts in [(10, 1, 2), (2, 3, 2), (3, 2, 2), (10, 2, 1)]:
        probe = PhoneBookProbe(
            num_symbols=symbols, num_digits=digits, num_facts=facts, num_statements=facts
        )
        numbers = list(itertools.product(range(symbols), repeat=digits))
        books = sum(1 for _ in itertools.product(numbers, repeat=facts))
        assert probe.information_bits == pytest.approx(math.log2(books))


def test_numbers_are_uniform_so_that_no_name_tells_its_number():
    probe = PhoneBookProbe(num_facts=8000, num_statements=8000, num_digits=1)
    counts = Counter(document.text[-1] for document in phone_book(probe, 0).train)
    expected = probe.num_facts / 10
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    # 0.9999 quantile of chi-square with 9 degrees of freedom.
    assert len(counts) == 10
    assert chi_square < 33.7


@pytest.mark.parametrize("count", [1, 2, 16, 128, 605, 606, 5000, 400_000])
def test_words_are_different_and_pronounceable(count):
    made = words(count)
    assert len(set(made)) == len(made) == count
    assert all(re.fullmatch(r" ([bdlmnprstvz][aeiou][bdlmnprstvz])+", word) for word in made)


def test_a_byte_level_bpe_has_one_token_a_word_and_a_digit():
    probe = PhoneBookProbe(num_words=128, num_facts=4000)
    texts = [document.text for document in phone_book(probe, 0).train]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    sizes = {len(tokenizer.encode(text).ids) for text in texts}
    assert sizes == {probe.words_per_name + len(probe.separator) + probe.num_digits}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("num_facts=9000", "num_facts=9000 must be 1 to half of the 16384 names"),
        ("num_statements=999", "num_statements=999 must be at least num_facts=1000"),
        ("num_symbols=1", "num_symbols=1 must be at least 2"),
        ("num_digits=0", "num_digits=0 must be at least 1"),
        ("zipf_exponent=-1.0", "zipf_exponent=-1.0"),
    ],
)
def test_impossible_books_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        override(PhoneBookProbe(), change)
