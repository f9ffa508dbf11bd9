"""Any Mixtral directory becomes a checkpoint bit by bit, or a message that names what is wrong."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fakes import names_in
from fakes_huggingface import (
    LARGEST_DIFFERENCE,
    checkpoint,
    edit_json,
    edit_weights,
    random_model,
    shape,
    some_tokens,
    tokenizer_file,
)
from isoflop.config import UserError
from isoflop.model.checkpoint import load_checkpoint
from isoflop.model.huggingface.export import export_checkpoint
from isoflop.model.huggingface.load import import_checkpoint
from isoflop.model.huggingface.tokenizer import CARRIED_FILES, study_tokenizer
from isoflop.model.huggingface.weights import mixtral_model
from isoflop.tokens.config import TokenizerConfig

transformers = pytest.importorskip("transformers")


def assert_same_parameters(ours, theirs, dtype=torch.float32) -> None:
    for (name, one), (_, other) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert torch.equal(one.to(dtype).float(), other), name


@pytest.mark.parametrize("heads", [None, 2])
@pytest.mark.parametrize("max_shard_size", ["30KB", "1GB"])
@pytest.mark.parametrize("names", ["classic", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_transformers_saves_comes_in_bit_by_bit(tmp_path, dtype, names, max_shard_size, heads):
    ours = random_model(shape(num_key_value_heads=heads, rope_base=3e4))
    mixtral_model(ours).to(dtype).save_pretrained(
        tmp_path / "hf",
        max_shard_size=max_shard_size,
        save_original_format=names == "classic",
    )
    done = import_checkpoint(tmp_path / "hf", tmp_path / "back")
    assert done.notes == ()
    back = load_checkpoint(tmp_path / "back")
    assert back.config == ours.config == done.config
    assert_same_parameters(ours, back, dtype)


def test_tied_embeddings_become_two_tensors_and_it_is_said(tmp_path):
    theirs = mixtral_model(random_model(shape()))
    theirs.config.tie_word_embeddings = True
    theirs.tie_weights()
    theirs.save_pretrained(tmp_path / "hf")
    assert "lm_head.weight" not in load_file(tmp_path / "hf" / "model.safetensors")
    done = import_checkpoint(tmp_path / "hf", tmp_path / "back")
    assert [note for note in done.notes if "copy of the embedding" in note]
    back = load_checkpoint(tmp_path / "back")
    assert torch.equal(back.head, back.embedding)
    tokens = some_tokens(back.config)
    with torch.no_grad():
        difference = back(tokens).logits - theirs(input_ids=tokens).logits
    assert difference.abs().max().item() <= LARGEST_DIFFERENCE
    # A head beside tied embeddings is taken where it says the same, and refused where not.
    weights = tmp_path / "hf" / "model.safetensors"
    edit_weights(
        weights, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 0})
    )
    import_checkpoint(tmp_path / "hf", tmp_path / "same")
    edit_weights(weights, lambda t: t["lm_head.weight"].add_(1))
    with pytest.raises(UserError, match=r"lm_head.weight differs from model.embed_tokens.weight"):
        import_checkpoint(tmp_path / "hf", tmp_path / "other")


def test_a_trained_window_or_dropout_that_changes_no_logit_is_taken_and_noted(tmp_path, good):
    edit_json(good / "config.json", sliding_window=48, attention_dropout=0.1)
    done = import_checkpoint(good, tmp_path / "back")
    assert done.notes == ("attention_dropout=0.1 acts in training alone and is left out",)


def test_older_files_say_the_rope_base_at_the_top(tmp_path, good):
    fields = json.loads((good / "config.json").read_text())
    del fields["rope_parameters"], fields["head_dim"], fields["dtype"]
    fields |= {"rope_theta": 777.0, "rope_scaling": None}
    (good / "config.json").write_text(json.dumps(fields))
    assert import_checkpoint(good, tmp_path / "one").config.rope_base == 777.0
    # Where a file is silent, transformers' own default holds.
    del fields["rope_theta"]
    (good / "config.json").write_text(json.dumps(fields))
    assert import_checkpoint(good, tmp_path / "two").config.rope_base == 1e6


def test_the_tokenizer_is_carried_byte_for_byte_there_and_back(tmp_path):
    checkpoint(tmp_path / "ours", vocabulary_size=384)
    known = study_tokenizer(tokenizer_file(tmp_path), TokenizerConfig(), 48)
    export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=known)
    done = import_checkpoint(tmp_path / "hf", tmp_path / "back")
    assert done.tokenizer == str(tmp_path / "hf" / "tokenizer.json")
    carried = [name for name in CARRIED_FILES if (tmp_path / "hf" / name).exists()]
    assert len(carried) == 3
    for name in carried:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()


@pytest.fixture
def good(tmp_path) -> Path:
    """A directory that can be imported, in two shards, in a folder of its own."""
    checkpoint(tmp_path / "made" / "ours")
    export_checkpoint(
        tmp_path / "made" / "ours",
        tmp_path / "made" / "hf",
        tokenizer=None,
        max_shard_bytes=150_000,
    )
    shutil.rmtree(tmp_path / "made" / "ours")
    return tmp_path / "made" / "hf"


BAD_FIELDS = [
    ({"model_type": "llama"}, "model_type='llama' is no Mixtral: it has no experts"),
    ({"model_type": "qwen2_moe"}, "model_type='qwen2_moe' is no Mixtral: it has shared experts"),
    ({"model_type": "qwen3_moe"}, "normalises queries and keys"),
    ({"model_type": "olmoe"}, "normalises queries and keys"),
    ({"model_type": "deepseek_v3"}, "shared experts, a sigmoid router"),
    ({"model_type": "newest_moe", "n_shared_experts": 1}, "shared experts (n_shared_experts)"),
    ({"model_type": "newest"}, "model_type='newest' is no Mixtral: it is another model"),
    ({"model_type": None}, "model_type=None"),
    ({"architectures": ["MixtralForSequenceClassification"]}, "another head"),
    ({"n_shared_experts": 2}, "n_shared_experts=2: shared experts"),
    ({"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size=64"),
    ({"scoring_func": "sigmoid"}, "scoring_func='sigmoid': the router must be a softmax"),
    ({"norm_topk_prob": False}, "must sum to 1"),
    ({"attention_bias": True}, "attention_bias=True: biases in attention"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' must be 'silu'"),
    ({"head_dim": 16}, "head_dim=16: heads of another width than hidden_size=32"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights"),
    ({"sliding_window": 16}, "sliding_window=16 is shorter than max_position_embeddings=48"),
    ({"num_experts_per_tok": 1}, "num_experts_per_tok=1 of 4"),
    ({"num_experts_per_tok": 5}, "top_k=5 must be between 1 and num_experts=4"),
    ({"num_key_value_heads": 3}, "num_key_value_heads=3 must divide num_heads=4"),
    ({"num_attention_heads": 5, "head_dim": None, "num_key_value_heads": None}, "d_model=32 must"),
    ({"hidden_size": "32"}, "hidden_size='32' must be a whole number"),
    ({"hidden_size": True}, "hidden_size=True must be a whole number"),
    ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be a whole number of at least 1"),
    ({"rms_norm_eps": "small"}, "rms_norm_eps='small' must be a finite number"),
    ({"rms_norm_eps": 0}, "norm_epsilon=0.0 must be above 0"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan must be a finite number"),
    ({"initializer_range": float("inf")}, "initializer_range=inf must be a finite number"),
    ({"rope_parameters": {"rope_theta": float("inf")}}, "rope_theta=inf must be a finite number"),
    ({"rope_theta": 10**400}, "rope_theta=1000"),
    ({"head_dim": {"a": 1}}, "head_dim={'a': 1}: heads of another width"),
    ({"clip_qkv": 0.1}, "clip_qkv=0.1: queries, keys and values are clipped"),
    ({"isoflop_router_order": "other"}, "isoflop_router_order='other' must be one of"),
    ({"isoflop_router_order": "softmax_then_topk"}, "is no Mixtral's where num_experts_per_tok=2"),
    ({"max_position_embeddings": 10**13}, "max_position_embeddings=10000000000000 must be at most"),
    # In no time: nothing of that size is made.
    ({"num_hidden_layers": 10**12}, "num_hidden_layers=1000000000000, but"),
    ({"num_local_experts": 10**12}, "lacks model.layers.0.block_sparse_moe.experts.4.w1.weight"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling={'type': 'linear'"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "only plain rotary positions"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "only plain rotary positions"),
    ({"rope_parameters": "default"}, "rope_parameters='default'"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 must be 1"),
    # Fields that fit each other but not the weights.
    ({"vocab_size": 97}, "model.embed_tokens.weight has shape (96, 32), its config says (97, 32)"),
    ({"intermediate_size": 60}, "w1.weight has shape (64, 32), its config says (60, 32)"),
    ({"num_local_experts": 3}, "has model.layers.0.block_sparse_moe.experts.3.w1.weight"),
    ({"num_local_experts": 5}, "lacks model.layers.0.block_sparse_moe.experts.4.w1.weight"),
    ({"num_hidden_layers": 3}, "index.json lacks model.layers.2 and all after it"),
    ({"num_key_value_heads": 2}, "self_attn.k_proj.weight has shape (32, 32), its config says (16"),
]


def refused(directory: Path, said: str) -> None:
    """The import says so, in one line, and leaves nothing."""
    home = directory.parent
    before = names_in(home)
    with pytest.raises(UserError) as caught:
        import_checkpoint(directory, home / "new")
    message = str(caught.value)
    assert said in message
    assert message.startswith(str(directory))
    assert message.count("config.json: ") <= 1
    assert len(message.splitlines()) == 1
    assert names_in(home) == before


@pytest.mark.parametrize(("changes", "said"), BAD_FIELDS, ids=[said for _, said in BAD_FIELDS])
def test_a_config_that_cannot_be_said_here_is_refused(good, changes, said):
    edit_json(good / "config.json", **changes)
    refused(good, said)


@pytest.mark.parametrize(
    "name",
    ["vocab_size", "hidden_size", "num_local_experts", "num_experts_per_tok", "num_hidden_layers"],
)
def test_a_silent_size_is_refused_and_never_guessed(good, name):
    fields = json.loads((good / "config.json").read_text())
    del fields[name]
    (good / "config.json").write_text(json.dumps(fields))
    refused(good, f"config.json: lacks the field {name!r}")


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def truncate(folder: Path) -> None:
    path = folder / SECOND
    path.write_bytes(path.read_bytes()[:-7])


def drop_tensor(folder: Path) -> None:
    name = "model.norm.weight"
    edit_weights(folder / SECOND, lambda tensors: tensors.pop(name))
    drop_from_index(folder, name)


def drop_from_index(folder: Path, name: str = "model.norm.weight") -> None:
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"][name]
    (folder / INDEX).write_text(json.dumps(index))


def one_file(folder: Path) -> None:
    tensors = load_file(folder / FIRST) | load_file(folder / SECOND)
    for name in (FIRST, SECOND, INDEX):
        (folder / name).unlink()
    save_file(tensors, folder / "model.safetensors")


def extra_tensor(folder: Path) -> None:
    one_file(folder)
    shared = torch.zeros(4, 32)
    name = "model.layers.0.block_sparse_moe.shared_expert.w1.weight"
    edit_weights(folder / "model.safetensors", lambda tensors: tensors.update({name: shared}))


def attention_bias(folder: Path) -> None:
    one_file(folder)
    name = "model.layers.0.self_attn.q_proj.bias"
    edit_weights(folder / "model.safetensors", lambda t: t.update({name: torch.zeros(32)}))


def eight_bits(folder: Path) -> None:
    one_file(folder)
    name = "model.norm.weight"
    edit_weights(folder / "model.safetensors", lambda t: t.update({name: t[name].to(torch.int8)}))


def not_finite(value: float):
    """One weight of a matrix in the second shard."""

    def change(folder: Path) -> None:
        edit_weights(folder / SECOND, lambda t: t["model.norm.weight"][3:4].fill_(value))

    return change


def pickled(folder: Path) -> None:
    for name in (FIRST, SECOND, INDEX):
        (folder / name).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": 1}))


def pointer(folder: Path) -> None:
    one_file(folder)
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12\n"
    (folder / "model.safetensors").write_text(text)


def text_in(name: str, text: str):
    """A file with other content."""

    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def big_tokenizer(folder: Path) -> None:
    tokenizer_file(folder)


def half_fused(folder: Path) -> None:
    one_file(folder)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    edit_weights(folder / "model.safetensors", lambda t: t.update({name: torch.zeros(4, 128, 32)}))


BAD_FILES = [
    (lambda folder: (folder / "config.json").unlink(), "config.json: no such file: no model here"),
    (text_in("config.json", '{"model_type": '), "config.json:1: not JSON"),
    (text_in("config.json", "[]"), "config.json: must hold an object"),
    (truncate, f"{SECOND}: not a whole safetensors file"),
    (pointer, "model.safetensors: not a whole safetensors file"),
    (lambda folder: (folder / SECOND).unlink(), f"{SECOND}: no such file, but {INDEX} names it"),
    (drop_tensor, "lacks model.norm.weight"),
    (drop_from_index, f"model.norm.weight should be in no shard, but is in {{folder}}/{SECOND}"),
    (text_in(INDEX, "{"), f"{INDEX}:1: not JSON"),
    (text_in(INDEX, "{}"), "weight_map must name the file of each tensor"),
    (
        text_in(INDEX, '{"weight_map": {"a": "../b.safetensors"}}'),
        "must be a file beside the index",
    ),
    (extra_tensor, "has model.layers.0.block_sparse_moe.shared_expert.w1.weight, which a Mixtral"),
    (attention_bias, "has model.layers.0.self_attn.q_proj.bias"),
    (half_fused, "lacks model.layers.0.mlp.experts.down_proj"),
    (eight_bits, "model.norm.weight is of type I8; only F32, BF16, F16 are read"),
    (not_finite(float("nan")), f"{SECOND}: model.norm.weight holds NaN or infinity"),
    (not_finite(float("-inf")), f"{SECOND}: model.norm.weight holds NaN or infinity"),
    (pickled, "holds pytorch_model.bin but no safetensors; pickled weights can run code"),
    (lambda folder: [file.unlink() for file in folder.glob("model*")], "neither model.safetensors"),
    (text_in("tokenizer.json", "{}"), "tokenizer.json: not a tokenizer.json"),
    (big_tokenizer, "the tokenizer has ids up to"),
]


@pytest.mark.parametrize(("change", "said"), BAD_FILES, ids=[said for _, said in BAD_FILES])
def test_damaged_files_are_refused(good, change, said):
    change(good)
    refused(good, said.format(folder=good))


def test_a_used_checkpoint_folder_is_refused(good):
    (good.parent / "new").mkdir()
    (good.parent / "new" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="new: is there and not empty"):
        import_checkpoint(good, good.parent / "new")
    assert names_in(good.parent / "new") == ["mine.txt"]


def test_no_such_directory_is_told(tmp_path):
    refused(tmp_path / "nowhere", "config.json: no such file: no model here")


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("Qwen2Moe", {"num_experts": 4, "moe_intermediate_size": 16}, "shared experts"),
        ("Olmoe", {"num_experts": 4}, "normalises queries and keys"),
        ("Llama", {}, "it has no experts"),
    ],
)
def test_directories_of_other_models_are_refused(tmp_path, kind, fields, said):
    """As transformers itself writes them."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=None,
        **fields,
    )
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(tmp_path / "hf")
    refused(tmp_path / "hf", said)
