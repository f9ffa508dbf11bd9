"""Memory probe: a phone book to be recalled closed-book.

A document is one statement, e.g. " bad mir:47"; its prompt is " bad mir:".
With more than ten symbols a number is words, e.g. " bad mir: zon".

Source: "Mixture of Parrots", phone book task (arXiv:2410.19034).
"""

import itertools
from dataclasses import dataclass

from isoflop.corpus.config import PhoneBookProbe
from isoflop.corpus.probes.texts import HELD_OUT, SEEN, ProbeTexts, draw_distinct
from isoflop.corpus.seeds import generator
from isoflop.records import Document, EvaluationItem

CONSONANTS = "bdlmnprstvz"
VOWELS = "aeiou"
RIMES = tuple(vowel + consonant for consonant in CONSONANTS for vowel in VOWELS)
"""Ends of a syllable."""

NUM_SYLLABLES = len(CONSONANTS) * len(RIMES)
"""Different consonant-vowel-consonant syllables."""

DIGITS = "0123456789"


def phone_book(probe: PhoneBookProbe, seed: int) -> ProbeTexts:
    """Statements of the facts in random order, and questions on facts and on control names."""
    spelling = vocabulary(probe)
    names = _names(probe, spelling.places, seed)
    draws = generator(seed, "phone book numbers", probe.name)
    numbers = ["".join(draws.choices(spelling.symbols, k=probe.num_digits)) for _ in names]
    facts = [name + probe.separator for name in names]
    counts = statement_counts(probe)
    ranks = [rank for rank, count in enumerate(counts) for _ in range(count)]
    shuffle = generator(seed, "phone book order", probe.name)
    shuffle.shuffle(ranks)
    again = [shuffle.choice(ranks) for _ in range(probe.num_validation)]
    asked = generator(seed, "phone book items", probe.name)
    seen = asked.sample(range(probe.num_facts), min(probe.num_items, probe.num_facts))
    controls = range(probe.num_facts, len(names))

    def document(kind: str, position: int, fact: int) -> Document:
        name = f"{probe.name}-{kind}-{position}-fact-{fact}"
        return Document(id=name, text=facts[fact] + numbers[fact])

    def item(split: str, fact: int) -> EvaluationItem:
        return EvaluationItem(
            id=f"{probe.name}-{split}-fact-{fact}",
            task=probe.name,
            split=split,
            prompt=facts[fact],
            answer=numbers[fact],
            final_answer=numbers[fact],
        )

    return ProbeTexts(
        train=[document("train", position, fact) for position, fact in enumerate(ranks)],
        validation=[document("validation", position, fact) for position, fact in enumerate(again)],
        items=[item(SEEN, fact) for fact in seen] + [item(HELD_OUT, fact) for fact in controls],
    )


def statement_counts(probe: PhoneBookProbe) -> list[int]:
    """How often each fact is stated, most frequent first; at least once each.

    Facts whose proportional part is below one statement get one; the others share the rest
    proportionally, rounded by largest remainder (of equals, the more frequent fact first).
    The counts sum to num_statements.
    """
    weights = [
        (rank + probe.zipf_offset) ** -probe.zipf_exponent for rank in range(1, probe.num_facts + 1)
    ]
    sums = list(itertools.accumulate(weights))
    shared, left = probe.num_facts, probe.num_statements
    while shared > 1 and left * weights[shared - 1] < sums[shared - 1]:
        shared, left = shared - 1, left - 1
    quotas = [left * weight / sums[shared - 1] for weight in weights[:shared]]
    counts = [max(1, int(quota)) for quota in quotas]
    by_remainder = sorted(range(shared), key=lambda rank: counts[rank] - quotas[rank])
    for rank in by_remainder[: left - sum(counts)]:
        counts[rank] += 1
    return counts + [1] * (probe.num_facts - shared)


def words(count: int) -> list[str]:
    """`count` different pronounceable words, each with its leading space.

    Words are built from few beginnings and few ends, in a square grid, so that a BPE spends
    few tokens on parts: n words need about 2 sqrt(n) of them. Beyond the one-syllable words,
    words have as many syllables as it takes.
    """
    square = next((n for n in range(1, len(CONSONANTS)) if n * n >= count), len(CONSONANTS))
    if count <= NUM_SYLLABLES:
        return [f" {CONSONANTS[i % square]}{RIMES[i // square]}" for i in range(count)]
    syllables = [start + rime for rime in RIMES for start in CONSONANTS]
    length = next(n for n in itertools.count(2) if NUM_SYLLABLES**n >= count)
    spelled = itertools.islice(itertools.product(syllables, repeat=length), count)
    return [" " + "".join(parts) for parts in spelled]


@dataclass(frozen=True)
class Vocabulary:
    """What names and numbers are spelled with; no symbol is a word of a name."""

    places: list[list[str]]
    """Words of each place of a name."""
    symbols: list[str]
    """Symbols of numbers: digits, or words."""


def vocabulary(probe: PhoneBookProbe) -> Vocabulary:
    """The probe's words and symbols; they do not depend on a seed."""
    own = 1 if probe.place_words == "shared" else probe.words_per_name
    num_name_words = own * probe.num_words
    spelled_out = probe.num_symbols > len(DIGITS)
    every = words(num_name_words + (probe.num_symbols if spelled_out else 0))
    symbols = every[num_name_words:] if spelled_out else list(DIGITS[: probe.num_symbols])
    places = [every[i:num_name_words:own] for i in range(own)]
    return Vocabulary(places * (probe.words_per_name // own), symbols)


def _names(probe: PhoneBookProbe, places: list[list[str]], seed: int) -> list[str]:
    """Different names: the facts', then the control's."""
    num_controls = min(probe.num_items, probe.num_names - probe.num_facts)
    draws = generator(seed, "phone book names", probe.name)
    codes = draw_distinct(probe.num_names, probe.num_facts + num_controls, frozenset(), draws)
    return ["".join(_spell(code, places)) for code in codes]


def _spell(code: int, places: list[list[str]]) -> list[str]:
    """The words of a name's number in mixed radix."""
    spelled = []
    for place in places:
        code, position = divmod(code, len(place))
        spelled.append(place[position])
    return spelled
