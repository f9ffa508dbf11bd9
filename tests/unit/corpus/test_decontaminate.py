"""Planted items are found, by kind; what shares only idioms is not; scores are recounted by id."""

import json
import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes_corpus import write_jsonl
from isoflop.config import UserError
from isoflop.corpus.decontaminate.benchmarks import BenchmarkItem, read_benchmarks
from isoflop.corpus.decontaminate.characters import respelled
from isoflop.corpus.decontaminate.config import DecontaminateConfig
from isoflop.corpus.decontaminate.index import BenchmarkIndex
from isoflop.corpus.decontaminate.match import find_items
from isoflop.corpus.decontaminate.recount import accuracy, recount
from isoflop.corpus.decontaminate.run import decontaminate_corpus, read_hits, recount_scores
from isoflop.corpus.decontaminate.tokens import ngrams, plain_tokens, renamed_tokens
from isoflop.corpus.intake import CorpusInput
from isoflop.corpus.shards import OutputConfig, kept_rows, rejected_rows

PROMPT = '''def closest_pair(values, limit):
    """Find the two values whose difference is least, but not below the limit."""
'''
SOLUTION = """    best = None
    for place, first in enumerate(values):
        for second in values[place + 1:]:
            gap = abs(first - second)
            if gap >= limit and (best is None or gap < best[0]):
                best = (gap, first, second)
    return best[1:] if best else None
"""
RENAMED = """def nearest(numbers, floor):
    # another comment
    found = None
    for at, one in enumerate(numbers):
        for two in numbers[at + 1 :]:
            width = abs(one - two)
            if width >= floor and ((found is None) or (width < found[0])):
                found = (width, one, two)
    return (found[1:] if found else None)
"""
QUESTION = (
    "A gardener plants 17 rows of 23 tulips each and then gives 45 of them to her neighbour. "
    "On the next morning she sells half of those that are left at the market for 3 coins each and "
    "puts the coins into a jar. How many tulips does she have left after the market closes?"
)
ANSWER = (
    "She plants 17 * 23 = 391 tulips. She has 391 - 45 = 346 left. Half are sold: 173. #### 173"
)

ITEMS = [
    BenchmarkItem(
        benchmark="code",
        item="Code/7",
        question=PROMPT,
        answer=SOLUTION,
        answer_is_code=True,
        prompt_is_code=True,
    ),
    BenchmarkItem(
        benchmark="words",
        item="3",
        question=QUESTION,
        answer=ANSWER,
        answer_is_code=False,
        prompt_is_code=False,
    ),
    BenchmarkItem(
        benchmark="tiny",
        item="0",
        question="Add.",
        answer="return a + b",
        answer_is_code=True,
        prompt_is_code=False,
    ),
]
INDEX = BenchmarkIndex(ITEMS, DecontaminateConfig())


def host(seed, size=300):
    rng = random.Random(seed)
    names = [f"name_{n}" for n in range(50)]
    return [
        f"{rng.choice(names)} = {rng.choice(names)}({rng.choice(names)}, {n})" for n in range(size)
    ]


def planted(text, size=300):
    lines = host(1, size)
    return "\n".join([*lines[: size // 2], text, *lines[size // 2 :]])


def found(text):
    return [
        (h.benchmark, h.item, h.found_as) for h in find_items(text, "i", "w", INDEX, lambda s: True)
    ]


def every_tenth_changed(text):
    return " ".join("other" if n % 10 == 9 else word for n, word in enumerate(text.split()))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (PROMPT + SOLUTION, "exact"),
        (SOLUTION, "exact"),
        (PROMPT, "ngram|exact|minhash"),
        (SOLUTION.replace("    ", "\t").replace(" = ", "="), "exact"),
        (RENAMED, "renamed"),
    ],
)
@pytest.mark.parametrize("size", [0, 10, 3000])
def test_a_planted_program_is_found(text, kind, size):
    hits = found(planted(text, size))
    if text is PROMPT:
        # Too short to be looked for but as a whole.
        assert all(hit[:2] == ("code", "Code/7") for hit in hits)
    else:
        assert hits == [("code", "Code/7", kind)]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (QUESTION, {"exact"}),
        (ANSWER, {"exact"}),
        (QUESTION.upper().replace(" ", "\n  "), {"exact"}),
        (QUESTION[: len(QUESTION) * 3 // 4], {"ngram"}),
        (every_tenth_changed(QUESTION + " " + ANSWER), {"minhash", "ngram"}),
    ],
)
def test_planted_words_are_found(text, kinds):
    hits = found(planted(text))
    assert len(hits) == 1
    assert hits[0][:2] == ("words", "3")
    assert hits[0][2] in kinds


ENCODED = {
    "no-break spaces by name": lambda text: text.replace(" ", "&nbsp;"),
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "by number": lambda text: "".join(f"&#{ord(c)};" if c in "ae" else c for c in text),
    "soft hyphens": lambda text: text.replace("e", "e\u00ad"),
    "soft hyphens by name": lambda text: text.replace("e", "e&shy;"),
    "spaces of no width": lambda text: "\u200b".join(text),
    "full width": lambda text: "".join(
        chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text
    ),
    "byte order mark": lambda text: "\ufeff" + text,
}


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("part", [QUESTION, SOLUTION, RENAMED], ids=["words", "code", "renamed"])
def test_the_same_text_in_another_encoding_is_the_same(name, part):
    before, after = "caf\u00e9 = 1\n", "\ncafe\u0301 = 2 &amp; 3\n"
    coded = ENCODED[name](part.strip())
    text = before + coded + after
    (plain,) = find_items(before + part.strip() + after, "i", "w", INDEX, lambda step: True)
    (hit,) = find_items(text, "i", "w", INDEX, lambda step: True)
    assert (hit.item, hit.found_as, hit.overlap) == (plain.item, plain.found_as, plain.overlap)
    # The places are those of the text as it was given.
    assert hit.excerpt == text[hit.start : hit.end]
    assert ENCODED[name](plain.excerpt).strip("\ufeff\u00ad") in hit.excerpt + "&shy;"
    assert len(hit.excerpt) <= len(coded)


def test_letters_composed_and_not_are_one():
    item = "Le caf\u00e9 de la gar\u00e7onne \u00e9tait ferm\u00e9, " * 4
    grams = [
        plain_tokens(unicodedata.normalize(form, item)).hashes.tolist() for form in ("NFC", "NFD")
    ]
    assert grams[0] == grams[1]


@given(
    st.text(
        st.sampled_from(
            "a e\u0301\u00e9\u00ad\u200b\uff41\u00bd\ufb01&;n#3\uac00\u1100\u1161\ud800"
        )
        | st.characters()
    )
)
def test_every_token_has_its_place(text):
    found = plain_tokens(text)
    assert all(0 <= a < b <= len(text) for a, b in zip(found.starts, found.ends, strict=True))
    assert sorted(found.starts.tolist()) == found.starts.tolist()
    for number, (start, stop) in enumerate(zip(found.starts, found.ends, strict=True)):
        # A token alone is the same token.
        assert found.hashes[number] in plain_tokens(text[start:stop]).hashes


@pytest.mark.parametrize(
    "text", ["a && b; c &d; &unknown;", "x = y & z;", "\u6f22\u5b57", "", "caf\u00e9"]
)
def test_a_text_in_the_one_spelling_stays(text):
    assert respelled(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(host(2, 2000)),
        "def add(a, b):\n    return a + b\n" * 50,
        "for place, first in enumerate(values):\n    print(first)\n",
        "She has 391 tulips. How many does she have left?",
        "",
        "\0\0\0",
        "x" * 100_000,
        "a b " * 50_000,
    ],
)
def test_what_shares_idioms_only_is_not_found(text):
    assert found(text) == []


def test_an_item_too_short_to_be_looked_for_is_told_and_matches_nothing():
    assert [item.benchmark for item in INDEX.too_short] == ["tiny"]


def test_a_hit_shows_both_texts():
    text = planted(SOLUTION)
    (hit,) = find_items(text, "id", "where", INDEX, lambda step: True)
    assert text[hit.start : hit.end] == hit.excerpt
    assert hit.excerpt.split() == SOLUTION.split()
    assert (hit.item_text, hit.overlap, hit.part) == (SOLUTION, 1.0, "answer")


def test_renaming_changes_no_ngram_and_another_structure_does():
    original = "def f(a, b):\n    c = a + b\n    return c * len(b.x)\n"
    same = "def g(left, right):\n    total = left + right\n    return total * len(right.x)\n"
    other = original.replace("c * len(b.x)", "c * len(a.x)")
    attribute = original.replace("b.x", "b.y")
    grams = [ngrams(renamed_tokens(t), 10).tolist() for t in (original, same, other, attribute)]
    assert grams[0] == grams[1]
    assert grams[0] != grams[2]
    assert grams[0] != grams[3]


def write_benchmark(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("rows", "item", "is_code"),
    [
        ([{"question": "q", "answer": "a"}], "0", False),
        ([{"problem": "q", "solution": "a", "unique_id": "test/1.json"}], "test/1.json", False),
        (
            [{"task_id": "HumanEval/0", "prompt": "q", "canonical_solution": "a"}],
            "HumanEval/0",
            True,
        ),
        ([{"task_id": 11, "text": "q", "code": "a"}], "11", True),
        ([{"query": "q", "endings": ["a", "b"], "ind_in_val": 4}], "4", False),
    ],
)
def test_layouts(tmp_path, rows, item, is_code):
    path = write_benchmark(tmp_path / "bench.jsonl", rows)
    (read,) = read_benchmarks([path])
    assert (read.benchmark, read.item, read.answer_is_code) == ("bench", item, is_code)
    assert read_benchmarks([f"name={path}"])[0].benchmark == "name"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"task_id": 1, "prompt": "q"}], "no question and answer"),
        ([{"question": "", "answer": ""}], "no question and answer"),
        ([{"question": 1, "answer": "a"}], "not text"),
        ([{"id": 1, "question": "q", "answer": "a"}] * 2, "two items '1'"),
        ([], "no benchmark item"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        read_benchmarks([write_benchmark(tmp_path / "a.jsonl", rows)])


def test_texts_with_items_are_rejected_and_shown(tmp_path):
    texts = ["\n".join(host(3)), planted(SOLUTION), planted(QUESTION + "\n" + SOLUTION)]
    source = CorpusInput(path=str(write_jsonl(tmp_path / "a.jsonl", texts)))
    rows = [
        {"task_id": "Code/7", "prompt": PROMPT, "canonical_solution": SOLUTION},
        {"task_id": "Code/8", "prompt": "def other(x):\n", "canonical_solution": RENAMED[20:400]},
    ]
    code = write_benchmark(tmp_path / "code.jsonl", rows)
    words = write_benchmark(tmp_path / "words.jsonl", [{"question": QUESTION, "answer": ANSWER}])
    out = tmp_path / "out"
    counts = decontaminate_corpus(
        source, out, [code, words], output=OutputConfig(format="jsonl"), num_workers=1
    )
    assert (counts.num_read, counts.num_kept) == (3, 1)
    assert [r.text for r in kept_rows(out)] == texts[:1]
    assert next(r.reason for r in rejected_rows(out)) == "code, exact"
    hits = read_hits(out)
    assert {(h.benchmark, h.item) for h in hits} >= {("code", "Code/7"), ("words", "0")}
    scores = tmp_path / "items.jsonl"
    graded = [{"item": "Code/7", "correct": True}, {"item": "Code/9", "correct": False}]
    graded.append({"item": "Code/10", "correct": None})
    write_benchmark(scores, graded)
    found_scores = recount_scores(scores, hits, "code", "item", "correct")
    assert found_scores.all_items.accuracy == pytest.approx(1 / 3)
    assert found_scores.unflagged.accuracy == 0.0
    assert found_scores.flagged.accuracy == 1.0


def test_a_recount_counts_each_item_once_and_refuses_ids_of_another_form():
    correct = {f"HumanEval/{n}": n % 2 == 0 for n in range(10)}
    result = recount(correct, {"HumanEval/0", "HumanEval/1", "HumanEval/99"})
    assert (result.all_items.num_items, result.unflagged.num_items) == (10, 8)
    assert result.flagged.num_items + result.unflagged.num_items == result.all_items.num_items
    assert result.unknown_flags == ("HumanEval/99",)
    with pytest.raises(UserError, match="none of the 2 flagged items was scored"):
        recount(correct, {"0", "1"})
    assert recount(correct, set()).unflagged == recount(correct, set()).all_items


def test_an_interval_holds_its_share_and_nothing_has_none():
    assert accuracy([]).accuracy is None
    for right in range(6):
        found_share = accuracy([True] * right + [False] * (5 - right))
        assert found_share.low <= found_share.accuracy <= found_share.high
    # Wilson 1927, 8 of 10: 0.490 to 0.943.
    eight = accuracy([True] * 8 + [False] * 2)
    assert (round(eight.low, 3), round(eight.high, 3)) == (0.490, 0.943)


@pytest.mark.parametrize(
    "fields",
    [
        {"ngram_tokens": 1},
        {"min_containment": 0.0},
        {"min_tokens": 5},
        {"min_exact_tokens": 30},
        {"min_renamed_tokens": 5},
    ],
)
def test_nonsense_is_refused(fields):
    with pytest.raises(UserError):
        DecontaminateConfig(**fields)
