"""A checkpoint leaves and comes back bit by bit, and transformers says the same of every token."""

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fakes import names_in
from fakes_huggingface import (
    LARGEST_DIFFERENCE,
    checkpoint,
    edit_json,
    random_model,
    shape,
    some_tokens,
    tokenizer_file,
)
from isoflop.config import UserError, digest
from isoflop.model.checkpoint import (
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from isoflop.model.huggingface.export import export_checkpoint, split_shards
from isoflop.model.huggingface.files import num_bytes
from isoflop.model.huggingface.load import import_checkpoint
from isoflop.model.huggingface.tokenizer import study_tokenizer
from isoflop.model.huggingface.weights import Piece, parameter_shapes, pieces
from isoflop.model.transformer import Transformer
from isoflop.tokens.config import TokenizerConfig

transformers = pytest.importorskip("transformers")

SHAPES = {
    "E4 k2": {},
    "E64 k2": {"num_experts": 64},
    "E16 k5": {"num_experts": 16, "top_k": 5},
    "dense, k = E": {"top_k": 4},
    "one expert": {"num_experts": 1, "top_k": 1},
    "dense in the other order": {"top_k": 4, "router_order": "softmax_then_topk"},
    "rope base 1e6": {"rope_base": 1e6},
    "rope base 500": {"rope_base": 500.0},
    "keys shared by two heads": {"num_key_value_heads": 2},
    "keys shared by all heads": {"num_key_value_heads": 1},
    "one layer": {"num_layers": 1},
    "three layers": {"num_layers": 3},
    "heads of 6, experts of 20": {"d_model": 36, "num_heads": 6, "d_expert": 20},
    "one head of 32": {"num_heads": 1},
    "narrow experts": {"d_expert": 8, "num_experts": 32, "top_k": 8},
    "padded vocabulary": {"vocabulary_size": 384},
    "large epsilon": {"norm_epsilon": 1e-2},
    "short and wide": {"sequence_length": 5, "d_model": 64},
}

MANY_SHARDS = 20_000
"""Bytes: less than most layers."""


def opened(folder, **options):
    """transformers' model of a directory; every tensor is found, and no other."""
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, **options
    )
    assert not any(loading.values()), loading
    return model.eval()


def largest_difference(ours: Transformer, theirs) -> float:
    tokens = some_tokens(ours.config)
    with torch.no_grad():
        return (ours(tokens).logits - theirs(input_ids=tokens).logits).abs().max().item()


def same_bits(one, other) -> bool:
    """Equal as bits, so that NaN and -0.0 count too."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name].view(torch.int32), theirs[name].view(torch.int32)) for name in ours
    )


@pytest.mark.parametrize("max_shard_bytes", [MANY_SHARDS, 10**9], ids=["shards", "one file"])
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_logits_equal_and_the_round_trip_is_the_same_bits(tmp_path, changes, max_shard_bytes):
    model = checkpoint(tmp_path / "ours", **changes)
    done = export_checkpoint(
        tmp_path / "ours", tmp_path / "hf", tokenizer=None, max_shard_bytes=max_shard_bytes
    )
    assert (done.shards > 1) == (max_shard_bytes == MANY_SHARDS)
    assert largest_difference(model, opened(tmp_path / "hf")) <= LARGEST_DIFFERENCE
    import_checkpoint(tmp_path / "hf", tmp_path / "back")
    assert same_bits(tmp_path / "ours", tmp_path / "back")
    assert load_checkpoint(tmp_path / "back").config == model.config


def test_bfloat16_is_our_weights_rounded_once(tmp_path):
    model = checkpoint(tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=None, dtype="bfloat16")
    stored = load_file(tmp_path / "hf" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert opened(tmp_path / "hf", dtype="auto").dtype == torch.bfloat16
    import_checkpoint(tmp_path / "hf", tmp_path / "back")
    rounded = load_checkpoint(tmp_path / "back")
    for ours, theirs in zip(model.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(ours.bfloat16().float(), theirs)
    # Rounded weights computed with in float32 are one model in both programs.
    theirs = opened(tmp_path / "hf", dtype=torch.float32)
    assert largest_difference(rounded, theirs) <= LARGEST_DIFFERENCE
    # And a bfloat16 checkpoint leaves again as it came.
    export_checkpoint(tmp_path / "back", tmp_path / "again", tokenizer=None, dtype="bfloat16")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(stored[name], again[name]) for name in stored)


def test_minus_zero_and_the_smallest_and_largest_numbers_come_back_as_they_are(tmp_path):
    model = random_model(shape())
    with torch.no_grad():
        model.layers[1].moe.gate_up[2, 3, :4] = torch.tensor([-3e38, -0.0, 1e-42, 3e38])
    save_checkpoint(model, tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=None)
    import_checkpoint(tmp_path / "hf", tmp_path / "back")
    assert same_bits(tmp_path / "ours", tmp_path / "back")


@pytest.mark.parametrize("widths", [{}, {"d_model": 64, "d_expert": 24}])
def test_fitting_widths_run_with_transformers_defaults(tmp_path, widths):
    model = checkpoint(tmp_path / "ours", **widths)
    done = export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=None)
    assert done.opening is None
    assert "| to open | from_pretrained(...), as it is |" in (tmp_path / "hf/README.md").read_text()
    assert largest_difference(model, opened(tmp_path / "hf")) < LARGEST_DIFFERENCE
    half = opened(tmp_path / "hf", dtype=torch.bfloat16)
    with torch.no_grad():
        assert half(input_ids=some_tokens(model.config)).logits.isfinite().all()


def test_widths_that_transformers_defaults_do_not_take_are_told(tmp_path):
    checkpoint(tmp_path / "ours", d_model=20, num_heads=2, d_expert=7)
    done = export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=None)
    said = 'from_pretrained(..., experts_implementation="eager")'
    assert said in done.line().splitlines()[1]
    assert said in (tmp_path / "hf/README.md").read_text()
    model = load_checkpoint(tmp_path / "ours")
    theirs = opened(tmp_path / "hf", experts_implementation="eager")
    assert largest_difference(model, theirs) < LARGEST_DIFFERENCE


@pytest.mark.parametrize("max_shard_bytes", [1, 3000, 8192, 50_000, 10**9])
def test_shards_are_cut_at_the_asked_size_and_lose_nothing(max_shard_bytes):
    found = pieces(shape(), "classic")
    shards = split_shards(found, torch.float32, max_shard_bytes)
    assert [piece for shard in shards for piece in shard] == found
    for shard in shards:
        size = sum(num_bytes(piece.shape, torch.float32) for piece in shard)
        assert len(shard) == 1 or size <= max_shard_bytes


def test_the_index_names_every_tensor_and_the_size(tmp_path):
    checkpoint(tmp_path / "ours")
    export_checkpoint(
        tmp_path / "ours", tmp_path / "hf", tokenizer=None, max_shard_bytes=MANY_SHARDS
    )
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    held = {}
    for file in sorted(tmp_path.glob("hf/*.safetensors")):
        held |= dict.fromkeys(load_file(file), file.name)
    assert index["weight_map"] == held
    total = sum(torch.Size(size).numel() for size in parameter_shapes(shape()).values())
    assert index["metadata"]["total_size"] == 4 * total


def test_the_config_says_what_both_generations_of_transformers_read(tmp_path):
    checkpoint(tmp_path / "ours", rope_base=5000.0)
    path = tokenizer_file(tmp_path / "tokenizer", 300)
    known = study_tokenizer(path, TokenizerConfig(), 48)
    with pytest.raises(UserError, match=r"has ids up to .*vocabulary_size=96"):
        export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=known)
    checkpoint(tmp_path / "wide", rope_base=5000.0, vocabulary_size=384)
    export_checkpoint(tmp_path / "wide", tmp_path / "hf", tokenizer=known)
    fields = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert fields["rope_theta"] == fields["rope_parameters"]["rope_theta"] == 5000.0
    assert fields["torch_dtype"] == fields["dtype"] == "float32"
    assert (fields["bos_token_id"], fields["eos_token_id"]) == (known.eos_id, known.eos_id)
    # A padding row has no gradient in transformers; here it would be the end of text.
    assert fields["pad_token_id"] is None
    assert opened(tmp_path / "hf").generation_config.pad_token_id == known.eos_id
    # Ours is 0.01 for each of 2 layers at even use; theirs is k = 2 once.
    assert fields["router_aux_loss_coef"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"router_order": "softmax_then_topk"}, "sum to 1"),
        ({"router_order": "softmax_then_topk", "top_k": 1}, "top_k=1 of 4 experts"),
    ],
)
def test_a_router_that_mixtral_has_not_is_refused(tmp_path, changes, said):
    checkpoint(tmp_path / "ours", **changes)
    with pytest.raises(UserError, match="config.json: router_order=.*" + said):
        export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=None)
    assert names_in(tmp_path) == ["ours"]


def test_damaged_checkpoints_and_used_targets_are_refused(tmp_path):
    def refused(said: str, target: str = "hf") -> None:
        before = names_in(tmp_path)
        with pytest.raises(UserError, match=said):
            export_checkpoint(tmp_path / "ours", tmp_path / target, tokenizer=None)
        assert names_in(tmp_path) == before

    refused("config.json: no such file: no checkpoint here")
    checkpoint(tmp_path / "ours")
    refused("ours: is there and not empty", target="ours")
    (tmp_path / "file").write_text("mine")
    refused("file: is there and not empty", target="file")
    (tmp_path / "hf.part").mkdir()
    refused("hf.part: is there: another process is writing it, or a killed one left it")
    (tmp_path / "hf.part").rmdir()
    weights = tmp_path / "ours" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused("not a whole safetensors file")
    checkpoint(tmp_path / "ours")
    edit_json(tmp_path / "ours" / "config.json", norm_epsilon=1e-6)
    refused("was written for another config")
    checkpoint(tmp_path / "ours")
    (tmp_path / "hf").mkdir()
    export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=None)
    assert (tmp_path / "hf" / "model.safetensors").exists()


def test_a_config_of_before_a_field_was_added_is_read(tmp_path):
    """The weights carry the digest of the file as it was written."""
    checkpoint(tmp_path / "ours")
    path = tmp_path / "ours" / "config.json"
    fields = json.loads(path.read_text())
    del fields["num_key_value_heads"]
    path.write_text(json.dumps(fields))
    weights = tmp_path / "ours" / "model.safetensors"
    save_tensors(weights, load_tensors(weights)[0], {"config": digest(fields)})
    export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=None)
    assert (tmp_path / "hf" / "model.safetensors").exists()


def write_new(direction: str, folder: Path) -> None:
    """Make `new` from `ours` or from `hf`."""
    if direction == "export":
        export_checkpoint(folder / "ours", folder / "new", tokenizer=None)
    else:
        import_checkpoint(folder / "hf", folder / "new")


@pytest.mark.parametrize("direction", ["export", "import"])
def test_a_full_disk_leaves_nothing_and_is_named(tmp_path, direction):
    checkpoint(tmp_path / "ours", num_experts=16)
    export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=None)
    before = names_in(tmp_path)
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_new(direction, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "new")
    assert names_in(tmp_path) == before


@pytest.mark.parametrize("direction", ["export", "import"])
def test_an_interrupt_in_the_middle_leaves_nothing(tmp_path, monkeypatch, direction):
    checkpoint(tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "hf", tokenizer=None)
    before, turn, turned = names_in(tmp_path), Piece.turn, []

    def interrupted(piece: Piece, part: torch.Tensor) -> torch.Tensor:
        turned.append(piece)
        if len(turned) == 12:
            assert "new.part" in names_in(tmp_path)
            raise KeyboardInterrupt
        return turn(piece, part)

    monkeypatch.setattr(Piece, "turn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_new(direction, tmp_path)
    assert names_in(tmp_path) == before
