"""A checkpoint of a study leaves with its tokenizer and origin, and answers the same outside."""

import shutil

import pytest
import torch

from fakes import names_in
from isoflop.config import UserError
from isoflop.evaluate.sampling.ours import greedy
from isoflop.model.checkpoint import load_checkpoint
from isoflop.model.huggingface.export import export_checkpoint
from isoflop.model.huggingface.load import import_checkpoint
from isoflop.sweep.lineage import find_study, find_tokenizer, open_tokenizer
from isoflop.sweep.stages import load_tokenizer
from isoflop.sweep.study import read_study_map
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import train_tokenizer

PROMPTS = ["note 3: word", "word5", "What is", "word0 word3 word6", "1+2="]
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def last(finished):
    """The last checkpoint of the first run."""
    study = read_study_map(finished.root)
    train = finished.root / study.runs[0].train.path
    return max((train / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def exported(last, tmp_path_factory):
    """The same checkpoint as a Mixtral directory."""
    folder = tmp_path_factory.mktemp("exported") / "hf"
    study = find_study(last)
    tokenizer = find_tokenizer(last, study, None, None)
    export_checkpoint(last, folder, tokenizer=tokenizer, lineage=study.lineage())
    return folder


def test_lineage_is_what_the_folders_say(finished, last):
    lineage = find_study(last).lineage()
    study = read_study_map(finished.root)
    run = study.runs[0]
    assert lineage.run == last.parents[1].name
    assert (lineage.cell, lineage.seed, lineage.config_digest) == (run.cell, 0, run.train.digest)
    assert lineage.train_tokens == lineage.planned_train_tokens == 20 * 8 * 32
    assert lineage.step == 20
    assert lineage.tokenizer_digest in study.tokenizer.path
    assert list(lineage.corpora) == [source.name for source in finished.experiment.corpus.sources]
    for name, code in lineage.corpora.items():
        assert (finished.root / "corpus" / f"{name}-{code}" / "DONE").exists()
        assert (finished.root / "tokens" / f"{name}-{lineage.tokens[name]}" / "DONE").exists()
    assert lineage.environments[0]["packages"]["torch"] == torch.__version__


def test_a_trained_model_says_the_same_text_in_transformers(finished, last, exported):
    transformers = pytest.importorskip("transformers")
    ours, tokenizer = (
        load_checkpoint(last),
        load_tokenizer(read_study_map(finished.root), finished.root),
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()
    auto = transformers.AutoTokenizer.from_pretrained(exported)
    prompts = [tuple(tokenizer.encode(prompt)) for prompt in PROMPTS]
    samples = greedy(ours, tokenizer, prompts, max_new_tokens=NEW_TOKENS, batch_sequences=2)
    answers = [sample.tokens for sample in samples]
    assert any(answers)
    for prompt, text, answer in zip(prompts, PROMPTS, answers, strict=True):
        asked = auto(text, return_tensors="pt")
        assert asked["input_ids"][0].tolist() == list(prompt)
        whole = theirs.generate(**asked, max_new_tokens=NEW_TOKENS)[0, len(prompt) :]
        said = auto.decode(whole, skip_special_tokens=True)
        assert said == tokenizer.decode(answer)
        with torch.no_grad():
            difference = ours(asked["input_ids"]).logits - theirs(**asked).logits
        assert difference.abs().max().item() <= 1e-5


def test_an_imported_checkpoint_leaves_again_with_the_tokenizer_it_carries(exported, tmp_path):
    import_checkpoint(exported, tmp_path / "back")
    assert find_study(tmp_path / "back") is None
    found = find_tokenizer(tmp_path / "back", None, None, None)
    export_checkpoint(tmp_path / "back", tmp_path / "again", tokenizer=found)
    for name in names_in(exported):
        if name not in ("README.md", "config.json"):
            assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def test_a_tokenizer_is_asked_for_where_none_is_found(last, exported, tmp_path):
    lone = tmp_path / "lone"
    shutil.copytree(last, lone)
    with pytest.raises(UserError, match="give --tokenizer FILE, or --tokenizer none"):
        find_tokenizer(lone, None, None, None)
    assert find_tokenizer(lone, None, "none", None) is None
    path = str(exported / "tokenizer.json")
    assert find_tokenizer(lone, None, path, None).eos_id == 0
    with pytest.raises(UserError, match="end_of_text='</s>' is not in the vocabulary"):
        find_tokenizer(lone, None, path, "</s>")
    for asked in (None, "none"):
        with pytest.raises(UserError, match="give both"):
            find_tokenizer(lone, None, asked, "</s>")
    with pytest.raises(UserError, match=r"nowhere.json: no such tokenizer file"):
        find_tokenizer(lone, None, "nowhere.json", None)


def test_another_tokenizer_than_the_studys_is_refused(finished, last, tmp_path):
    own = open_tokenizer(last, None, None)
    copied = tmp_path / "copy.json"
    shutil.copy(own.path, copied)
    assert open_tokenizer(last, str(copied), own.end_of_text).vocabulary == own.vocabulary
    other = tmp_path / "other.json"
    train_tokenizer(TokenizerConfig(vocabulary_size=257), ["ask 12"] * 20, other)
    with pytest.raises(UserError, match=r"another tokenizer \(257 tokens.*leave --tokenizer out"):
        open_tokenizer(last, str(other), own.end_of_text)


def test_a_folder_that_the_study_does_not_name_is_of_no_study(finished, last, tmp_path):
    """Its map may have been written again for another config; then the tokenizer may differ too."""
    root = tmp_path / "study"
    other = root / "train" / "E2-k2-s0-00000000" / "checkpoints" / "step-00000020"
    shutil.copytree(last, other)
    shutil.copy(finished.root / "study.json", root)
    assert find_study(other) is None
    assert find_study(last.with_name("step-00000021")) is None
