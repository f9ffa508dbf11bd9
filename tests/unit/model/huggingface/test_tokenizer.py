"""AutoTokenizer gives the ids that training saw, and puts nothing before or after a text."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import processors

from fakes_huggingface import TEXTS, tokenizer_file
from isoflop.config import UserError
from isoflop.model.huggingface.tokenizer import TokenizerFiles, carried_tokenizer, study_tokenizer
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

END = "<|endoftext|>"


def write(files: TokenizerFiles, folder):
    """The files in a folder beside a Mixtral's config, opened by AutoTokenizer."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mixtral"}')
    for name, content in files.files.items():
        (folder / name).write_bytes(content)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Our tokenizer, and AutoTokenizer's of what we wrote."""
    folder = tmp_path_factory.mktemp("tokenizer")
    path = tokenizer_file(folder)
    config = TokenizerConfig()
    return Tokenizer.load(path, config), write(study_tokenizer(path, config, 48), folder / "hf")


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: END not in text))
@example(TEXTS[0])
@example("")
@example(" two  spaces , and a full stop . don't\n\n\ttabs")
@example("1234567890 \u00e9\u4e2d\U0001f600 \x00")
def test_ids_and_text_are_ours(both, text):
    ours, theirs = both
    ids = theirs(text)["input_ids"]
    assert ids == ours.encode(text)
    assert theirs.decode(ids) == ours.decode(ids) == text


def test_the_end_of_text_is_begin_end_and_padding(both):
    ours, theirs = both
    end = ours.end_of_text_id
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (end, end, end)
    assert (theirs.eos_token, theirs.model_max_length) == (END, 48)
    # Written out it is the token, as everywhere in Hugging Face; ours reads it as plain text.
    assert theirs(END + "a")["input_ids"] == [end, *ours.encode("a")]
    plain = theirs(END + "a", split_special_tokens=True)["input_ids"]
    assert plain == ours.encode(END + "a")
    batch = theirs(["a", TEXTS[0]], padding=True)
    assert batch["attention_mask"][0].count(1) == len(ours.encode("a"))


def test_templates_truncation_and_padding_of_a_users_file_are_left_out(tmp_path):
    """Training switched them off; left in, they would put a token before every text."""
    path = tokenizer_file(tmp_path)
    library = LibraryTokenizer.from_file(str(path))
    library.post_processor = processors.TemplateProcessing(
        single=f"{END} $A {END}", special_tokens=[(END, 0)]
    )
    library.enable_truncation(4)
    library.enable_padding(length=9)
    library.save(str(path))
    theirs = write(study_tokenizer(path, TokenizerConfig(), 48), tmp_path / "hf")
    ours = Tokenizer.load(path, TokenizerConfig())
    assert theirs(TEXTS[0])["input_ids"] == ours.encode(TEXTS[0])
    assert len(ours.encode(TEXTS[0])) > 4


def test_an_end_of_text_that_is_not_in_the_file_is_refused(tmp_path):
    path = tokenizer_file(tmp_path)
    with pytest.raises(UserError, match="end_of_text='</s>' is not in the vocabulary"):
        study_tokenizer(path, TokenizerConfig(path=str(path), end_of_text="</s>"), 48)


def carried_with(tmp_path, **fields) -> TokenizerFiles:
    tokenizer_file(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    found = carried_tokenizer(tmp_path)
    assert found is not None
    return found


def test_special_tokens_of_a_carried_tokenizer_are_read_in_both_forms(tmp_path):
    found = carried_with(tmp_path, eos_token=END, bos_token={"content": END}, pad_token=None)
    assert (found.bos_id, found.eos_id, found.pad_id) == (0, 0, None)
    assert found.files.keys() == {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize("token", ["</s>", 3, {"content": "</s>"}])
def test_a_special_token_that_is_not_in_the_vocabulary_is_refused(tmp_path, token):
    with pytest.raises(UserError, match=r"tokenizer_config.json: eos_token=.* is not in the voc"):
        carried_with(tmp_path, eos_token=token)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer_config.json", b"[]", "must hold an object"),
        ("tokenizer_config.json", b"{", "not JSON"),
        ("tokenizer.json", b"\xff", "not UTF-8 at byte 0"),
        ("tokenizer.json", b"{}", "not a tokenizer.json"),
    ],
)
def test_broken_tokenizer_files_are_refused(tmp_path, name, content, said):
    tokenizer_file(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{said}"):
        carried_tokenizer(tmp_path)


def test_without_a_tokenizer_file_there_is_none(tmp_path):
    assert carried_tokenizer(tmp_path) is None
