import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import Tokenizer, padded_vocabulary_size, train_tokenizer

CONFIG = TokenizerConfig(vocabulary_size=340)
END = CONFIG.end_of_text
TEXTS = [
    "def add(first, second):\n    return first + second  # 12345\n" * 3,
    "The answer is 42. Die Größe beträgt 17 Grad; 東京は大きい。\n" * 3,
    "name: Ada Lovelace\tphone: 555-0199\r\n" * 5,
    f"hostile {END} text {END}{END}\n" * 5,
]

TRAIN = """
import random
import sys
from pathlib import Path
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import train_tokenizer
# Many pairs equally often: ties are where an unstable order would show.
draw = random.Random(0)
words = ["".join(draw.choices("abcdefgh", k=6)) for _ in range(3000)]
texts = [" ".join(words[i:i + 50]) for i in range(0, 3000, 50)]
train_tokenizer(TokenizerConfig(vocabulary_size=600), texts, Path(sys.argv[1]))
"""

HARD_TEXTS = [
    "",
    " ",
    "\n\n\t \r\n",
    "\x00\x01\x7f\x80\xad",
    "a\u0301 e\u0301 \u1e9b\u0323",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "1234567890 ٣٤ Ⅷ ½",
    "\ufeffbom \ufffd \uffff \U0010ffff",
    f"{END}",
    f"a{END}b {END[:-1]} {END}",
    "<|endoftext",
    "é" * 100 + "東",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(CONFIG, TEXTS, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(path) -> Tokenizer:
    return Tokenizer.load(path, CONFIG)


def save_library_tokenizer(path: Path, model, **parts) -> Path:
    from tokenizers import Tokenizer as LibraryTokenizer

    tokenizer = LibraryTokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(path))
    return path


def test_training_gives_the_same_bytes_whatever_the_threads_and_hash_seed(tmp_path):
    settings_of_runs = [
        {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "1"},
        {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "4", "PYTHONHASHSEED": "2"},
        {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "1"},
    ]
    results = set()
    for number, setting in enumerate(settings_of_runs):
        out = tmp_path / f"{number}.json"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **setting}
        subprocess.run([sys.executable, "-c", TRAIN, str(out)], env=environment, check=True)
        results.add(out.read_bytes())
    assert len(results) == 1
    assert len(json.loads(results.pop())["model"]["vocab"]) == 600


def test_pinned_ids(tokenizer):
    assert tokenizer.end_of_text_id == 0
    assert tokenizer.vocabulary_size == 340
    assert tokenizer.encode("123") == [tokenizer.encode(digit)[0] for digit in "123"]


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_hard_texts_return_as_they_were_and_never_end_a_document(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.end_of_text_id not in tokens


@settings(max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=4))
def test_any_text_returns_as_it_was(tokenizer, text, tail):
    text += END + tail.encode(errors="replace").decode()
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.end_of_text_id not in tokens
    assert b"".join(map(tokenizer.token_bytes, tokens)) == text.encode()
    assert tokenizer.encode_batch([text, tail.encode(errors="replace").decode()])[0] == tokens


@settings(max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_spans_cover_the_text_without_gap(tokenizer, text):
    spans = tokenizer.spans(text)
    assert [span.token for span in spans] == tokenizer.encode(text)
    position = 0
    for span in spans:
        assert span.start_byte == position
        position = span.end_byte
        part = text[span.start : span.end].encode()
        # The characters hold the bytes; only characters cut by a token have bytes more.
        assert tokenizer.token_bytes(span.token) in part
        assert len(text[: span.start].encode()) <= span.start_byte
        assert len(text[: span.end].encode()) >= span.end_byte
    assert position == len(text.encode())


def test_a_lone_surrogate_is_named(tokenizer):
    for encode in (tokenizer.encode, tokenizer.spans, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(UserError, match=r"lone surrogate .* at character 2"):
            encode("ab\ud800c")


def test_special_and_padding_tokens_have_no_text(tokenizer):
    tokens = tokenizer.encode("ab")
    assert tokenizer.decode([tokenizer.end_of_text_id, *tokens, 5000, 0]) == "ab"
    assert tokenizer.token_bytes(0) == tokenizer.token_bytes(5000) == b""
    assert tokenizer.decode([]) == ""


def test_tokens_starting_with_equals_the_slow_search(tokenizer):
    for prefix in (b"", b"a", b" ", b"ret", b"\xe6", b"\xe6\x9d", b"no such token"):
        slow = [
            token
            for token in range(tokenizer.vocabulary_size)
            if tokenizer.token_bytes(token).startswith(prefix) and tokenizer.token_bytes(token)
        ]
        found = tokenizer.tokens_starting_with(prefix)
        assert found == slow
        found.clear()
        assert tokenizer.tokens_starting_with(prefix) == slow
    assert len(tokenizer.tokens_starting_with(b"")) == tokenizer.vocabulary_size - 1
    singles = {tokenizer.token_bytes(token) for token in range(tokenizer.vocabulary_size)}
    assert {bytes([byte]) for byte in range(256)} <= singles


def test_a_poor_corpus_gives_fewer_merges(tmp_path):
    train_tokenizer(CONFIG, ["ab"], tmp_path / "t.json")
    small = Tokenizer.load(tmp_path / "t.json", CONFIG)
    assert 257 <= small.vocabulary_size <= 258
    assert small.decode(small.encode("ß")) == "ß"


def test_padded_vocabulary_size(path):
    assert padded_vocabulary_size(CONFIG) == 384
    assert padded_vocabulary_size(TokenizerConfig(vocabulary_size=512)) == 512
    assert padded_vocabulary_size(TokenizerConfig(vocabulary_size=513)) == 640
    user = TokenizerConfig(path=str(path), pad_to_multiple=100, vocabulary_size=9999)
    assert padded_vocabulary_size(user) == 400


def test_planning_does_not_import_the_library():
    code = (
        "import sys; from isoflop.tokens.tokenizer import padded_vocabulary_size as p;"
        "from isoflop.tokens.config import TokenizerConfig as C; p(C());"
        "assert not {'tokenizers', 'torch'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_an_empty_corpus_and_a_ready_tokenizer_are_not_trained(tmp_path, path):
    with pytest.raises(UserError, match="corpus is empty"):
        train_tokenizer(CONFIG, [], tmp_path / "t.json")
    with pytest.raises(UserError, match="leave path out"):
        train_tokenizer(TokenizerConfig(path=str(path)), ["a"], tmp_path / "t.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["end", "e"])
def test_an_end_of_text_that_text_spells_is_refused(tmp_path, end):
    config = TokenizerConfig(vocabulary_size=300, end_of_text=end)
    with pytest.raises(UserError, match="is an ordinary token of this corpus"):
        train_tokenizer(config, ["end end end " * 50], tmp_path / "t.json")
    assert list(tmp_path.iterdir()) == []


def test_missing_and_broken_files_are_named(tmp_path, path):
    with pytest.raises(UserError, match="no such tokenizer file"):
        Tokenizer.load(tmp_path / "absent.json", CONFIG)
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path, CONFIG)
    whole = path.read_bytes()
    for number, content in enumerate((b"", b"{}", b"[1]", b"\xff\xfe", whole[: len(whole) // 2])):
        broken = tmp_path / f"{number}.json"
        broken.write_bytes(content)
        with pytest.raises(UserError, match=f"{number}.json"):
            Tokenizer.load(broken, CONFIG)


def test_an_end_of_text_outside_the_vocabulary_lists_the_special_tokens(path):
    with pytest.raises(UserError, match=r"'</s>' is not in the vocabulary.*'<\|endoftext\|>'"):
        Tokenizer.load(path, TokenizerConfig(path=str(path), end_of_text="</s>"))


def test_truncation_padding_templates_and_trimmed_offsets_of_a_user_file_are_off(path, tmp_path):
    from tokenizers import Tokenizer as LibraryTokenizer
    from tokenizers import processors

    plain = Tokenizer.load(path, CONFIG)
    user = LibraryTokenizer.from_file(str(path))
    user.enable_truncation(3)
    user.enable_padding(length=8, pad_token=END)
    user.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{END} $A {END}", special_tokens=[(END, 0)]),
        ]
    )
    user.save(str(tmp_path / "user.json"))
    loaded = Tokenizer.load(tmp_path / "user.json", CONFIG)
    text = "The answer is 42, name: Ada"
    assert loaded.encode(text) == plain.encode(text)
    assert loaded.encode_batch([text, "a"]) == plain.encode_batch([text, "a"])
    assert loaded.spans(text) == plain.spans(text)


def test_a_vocabulary_that_spells_the_end_of_text_still_never_emits_it(tmp_path):
    """A WordLevel model reads "</s>" as its token even with special tokens off."""
    from tokenizers import models, pre_tokenizers

    words = {"</s>": 0, "[unk]": 1, "a": 2, "b": 3, "<": 4}
    path = save_library_tokenizer(
        tmp_path / "words.json",
        models.WordLevel(words, unk_token="[unk]"),
        pre_tokenizer=pre_tokenizers.WhitespaceSplit(),
    )
    user = Tokenizer.load(path, TokenizerConfig(path=str(path), end_of_text="</s>"))
    assert user.encode("a </s> b") == [2, 4, 1, 3]
    assert user.encode_batch(["a b", "a </s> b"]) == [[2, 3], [2, 4, 1, 3]]
    assert [(span.start, span.end) for span in user.spans("a </s> b")] == [
        (0, 1),
        (2, 3),
        (3, 6),
        (7, 8),
    ]


def test_a_tokenizer_without_bytes_says_so_and_gives_the_librarys_spans(tmp_path):
    from tokenizers import models, pre_tokenizers

    path = save_library_tokenizer(
        tmp_path / "words.json",
        models.WordLevel({"<end>": 7, "a": 0, "bc": 1}, unk_token="a"),
        pre_tokenizer=pre_tokenizers.Whitespace(),
    )
    config = TokenizerConfig(path=str(path), end_of_text="<end>", pad_to_multiple=1)
    user = Tokenizer.load(path, config)
    assert not user.byte_level
    assert padded_vocabulary_size(config) == 8  # the largest id counts, not the number of tokens
    assert [(span.token, span.start, span.end) for span in user.spans("a  bc")] == [
        (0, 0, 1),
        (1, 3, 5),
    ]
    assert user.spans("a")[0].start_byte is None
    for ask in (lambda: user.token_bytes(0), lambda: user.tokens_starting_with(b"a")):
        with pytest.raises(UserError, match="not a byte-level tokenizer"):
            ask()


def test_added_tokens_of_a_byte_level_file_keep_their_plain_bytes(path, tmp_path):
    from tokenizers import Tokenizer as LibraryTokenizer

    user = LibraryTokenizer.from_file(str(path))
    user.add_tokens(["<größe>"])
    user.save(str(tmp_path / "user.json"))
    loaded = Tokenizer.load(tmp_path / "user.json", CONFIG)
    token = loaded.vocabulary_size - 1
    assert loaded.token_bytes(token) == "<größe>".encode()
    text = "die <größe> 7"
    assert token in loaded.encode(text)
    assert b"".join(map(loaded.token_bytes, loaded.encode(text))) == text.encode()


def test_special_tokens_of_a_user_file_are_plain_text_in_text(path, tmp_path):
    """Also where the file forgot to call the end of text special."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as LibraryTokenizer

    user = LibraryTokenizer.from_file(str(path))
    user.add_tokens([AddedToken("<stop>", special=False)])
    user.add_special_tokens(["<s>"])
    user.save(str(tmp_path / "user.json"))
    config = TokenizerConfig(path=str(tmp_path / "user.json"), end_of_text="<stop>")
    loaded = Tokenizer.load(tmp_path / "user.json", config)
    text = f"a <stop><s> {END} b"
    assert loaded.encode(text) == Tokenizer.load(path, CONFIG).encode(text)
    assert loaded.decode(loaded.encode(text)) == text


def test_spans_keep_spaces_where_a_user_file_adds_and_trims_them(path, tmp_path):
    """The prefix space is no byte of the text; a span without its space would miss a join of texts."""
    from tokenizers import Tokenizer as LibraryTokenizer
    from tokenizers import pre_tokenizers, processors

    user = LibraryTokenizer.from_file(str(path))
    user.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    user.post_processor = processors.ByteLevel(trim_offsets=True)
    user.save(str(tmp_path / "user.json"))
    spans = Tokenizer.load(tmp_path / "user.json", CONFIG).spans("first second")
    assert (spans[0].start_byte, spans[-1].end_byte) == (0, len("first second"))
    covered = {place for span in spans for place in range(span.start, span.end)}
    assert covered == set(range(len("first second")))
