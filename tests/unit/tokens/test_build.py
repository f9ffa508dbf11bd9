from pathlib import Path

import pytest

from isoflop.config import UserError
from isoflop.records import Document, TokenRow, read_rows, write_rows
from isoflop.tokens.build import sample_texts, tokenize_source
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.shards import Shard
from isoflop.tokens.tokenizer import Tokenizer, train_tokenizer

CONFIG = TokenizerConfig(vocabulary_size=300)
TEXTS = [f"document {n} says {n * n}\n" * (n % 5) for n in range(150)]


def write_corpus(folder: Path, train: list[str], validation: list[str]) -> Path:
    for name, texts in (("train", train), ("validation", validation)):
        rows = [Document(id=f"{name}/{n}", text=text) for n, text in enumerate(texts)]
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(CONFIG, TEXTS, path)
    return Tokenizer.load(path, CONFIG)


def test_every_document_is_its_tokens_and_one_end_of_text(tokenizer, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", TEXTS, ["hold out", CONFIG.end_of_text])
    row = tokenize_source(tokenizer, "probe", corpus, tmp_path / "out")
    train, validation = Shard(tmp_path / "out/train"), Shard(tmp_path / "out/validation")
    for number, text in enumerate(TEXTS):
        tokens = train.document(number).tolist()
        assert tokens == [*tokenizer.encode(text), tokenizer.end_of_text_id]
        assert tokens.count(tokenizer.end_of_text_id) == 1
        assert train.document_id(number) == f"train/{number}"
    assert tokenizer.decode(validation.document(1)[:-1].tolist()) == CONFIG.end_of_text
    assert row == TokenRow(
        source="probe",
        train_tokens=train.num_tokens,
        validation_tokens=validation.num_tokens,
        num_documents=150,
    )
    assert list(read_rows(tmp_path / "out/tokens.jsonl", TokenRow)) == [row]


def test_validation_may_be_empty_and_training_not(tokenizer, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", ["a"], [])
    assert tokenize_source(tokenizer, "probe", corpus, tmp_path / "out").validation_tokens == 0
    assert Shard(tmp_path / "out/validation").num_documents == 0
    empty = write_corpus(tmp_path / "empty", [], ["a"])
    with pytest.raises(UserError, match="'probe' has no training documents"):
        tokenize_source(tokenizer, "probe", empty, tmp_path / "none")
    with pytest.raises(UserError, match=r"train\.jsonl: no such file"):
        tokenize_source(tokenizer, "probe", tmp_path / "absent", tmp_path / "none")


def test_samples_keep_the_shares_and_stay_within_the_bytes(tmp_path):
    first = write_corpus(tmp_path / "a", ["a" * 50] * 200, [])
    second = write_corpus(tmp_path / "b", ["é" * 31] * 200, [])
    texts = list(sample_texts([first, second], [3.0, 1.0], 4001))
    sizes = {letter: sum(len(t.encode()) for t in texts if letter in t) for letter in "aé"}
    assert 2900 <= sizes["a"] <= 3000
    assert 900 <= sizes["é"] <= 1001
    assert texts == list(sample_texts([first, second], [3.0, 1.0], 4001))


def test_samples_are_spread_over_the_file(tmp_path):
    corpus = write_corpus(tmp_path / "a", [f"{n:05d}" for n in range(1000)], [])
    numbers = [int(text) for text in sample_texts([corpus], [1.0], 500)]
    assert len(numbers) == 100
    assert all(abs(number - 10 * place) <= 10 for place, number in enumerate(numbers))


def test_a_short_source_gives_all_it_has_once(tmp_path):
    short = write_corpus(tmp_path / "a", ["ab", "", "cd"], [])
    long = write_corpus(tmp_path / "b", ["x" * 1000], [])
    texts = list(sample_texts([short, long], [1.0, 1.0], 200))
    assert texts == ["ab", "cd", "x" * 100]
    assert "".join(sample_texts([write_corpus(tmp_path / "c", ["éé"], [])], [1.0], 3)) == "é"
