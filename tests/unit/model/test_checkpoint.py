"""What is saved comes back bit for bit; what is broken is named in one clear line."""

import json

import pytest
import torch

from isoflop.config import UserError, digest
from isoflop.model.checkpoint import (
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
    writing_folder,
)
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer


def config(**changes) -> ModelConfig:
    fields = {
        "vocabulary_size": 32,
        "num_layers": 2,
        "d_model": 8,
        "num_heads": 2,
        "d_expert": 16,
        "num_experts": 4,
        "top_k": 2,
        "sequence_length": 16,
    }
    return ModelConfig(**(fields | changes))


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(Transformer(config(), seed=1), tmp_path / "step-00000001")
    return tmp_path / "step-00000001"


def test_weights_and_logits_come_back_bit_for_bit(folder):
    model, loaded = Transformer(config(), seed=1), load_checkpoint(folder)
    assert loaded.config == model.config
    assert not loaded.training
    for name, weights in model.named_parameters():
        assert torch.equal(weights, dict(loaded.named_parameters())[name]), name
    tokens = torch.arange(16)[None]
    assert torch.equal(model(tokens).logits, loaded(tokens).logits)


def test_same_model_same_bytes(folder, tmp_path):
    save_checkpoint(load_checkpoint(folder), tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_compute_precision_is_chosen_at_loading_and_weights_stay_float32(folder):
    loaded = load_checkpoint(folder, compute_dtype=torch.bfloat16)
    assert loaded.compute_dtype == torch.bfloat16
    assert loaded.embedding.dtype == torch.float32


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_checkpoint_cut_short_is_refused(folder, kept):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=r"model\.safetensors: not a whole safetensors file"):
        load_checkpoint(folder)


def test_noise_in_place_of_weights_is_refused(folder):
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_checkpoint(folder)


def test_a_config_of_another_model_is_refused(folder):
    path = folder / "config.json"
    # The shapes of all weights stay the same: only the digest can tell.
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {"top_k": 1, "num_heads": 1, "router_order": "softmax_then_topk"}
        )
    )
    with pytest.raises(UserError, match="written for another config"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", r"config\.json:1: not JSON|config\.json: not UTF-8"),
        (b"", r"config\.json:1: not JSON|config\.json: not UTF-8"),
        (b"\xff\xfe", r"config\.json:1: not JSON|config\.json: not UTF-8"),
        (b'{"kind": "ModelConfig"}', "config.json"),
        (b"[]", "config.json"),
        (b"null", "config.json"),
    ],
)
def test_a_broken_config_is_named(folder, content, said):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=said):
        load_checkpoint(folder)


def test_values_that_are_no_model_are_told_with_their_file(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"top_k": 99}))
    with pytest.raises(UserError, match=r"config\.json: .*top_k=99") as caught:
        load_checkpoint(folder)
    assert str(caught.value).count("config.json") == 1


def test_missing_and_misshapen_tensors_are_named(folder):
    tensors, metadata = load_tensors(folder / "model.safetensors")
    head = tensors.pop("head")
    save_tensors(folder / "model.safetensors", tensors, metadata)
    with pytest.raises(UserError, match="missing or not expected: head"):
        load_checkpoint(folder)
    save_tensors(folder / "model.safetensors", {**tensors, "head": head[:5]}, metadata)
    with pytest.raises(UserError, match=r"head has shape \(5, 8\), expected \(32, 8\)"):
        load_checkpoint(folder)
    save_tensors(folder / "model.safetensors", {**tensors, "head": head}, {})
    with pytest.raises(UserError, match="written for another config"):
        load_checkpoint(folder)


@pytest.mark.parametrize("widths", [{"d_model": 6, "d_expert": 16}, {"d_model": 8, "d_expert": 13}])
def test_widths_that_only_some_ways_to_compute_take_can_be_loaded_and_run(tmp_path, widths):
    model = Transformer(config(num_heads=1, **widths), experts="loop")
    save_checkpoint(model, tmp_path / "odd")
    tokens = torch.arange(16)[None]
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load_checkpoint(tmp_path / "odd", compute_dtype=dtype)
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, rtol=0, atol=0.01)


def test_a_checkpoint_written_before_a_field_was_added_still_opens(tmp_path):
    """The digest is of the file's text, so that a new field with a default changes nothing."""
    folder = tmp_path / "old"
    save_checkpoint(Transformer(config(), seed=1), folder)
    data = json.loads((folder / "config.json").read_text())
    del data["num_key_value_heads"]
    (folder / "config.json").write_text(json.dumps(data))
    tensors, _ = load_tensors(folder / "model.safetensors")
    save_tensors(folder / "model.safetensors", tensors, {"config": digest(data)})
    assert load_checkpoint(folder).config == config()


def test_what_a_killed_process_left_of_a_file_is_gone_with_the_next(tmp_path):
    left = writing_folder(tmp_path / "model.safetensors")
    left.mkdir()
    (left / ".tmpAbCdEf").write_bytes(b"half")
    save_tensors(tmp_path / "model.safetensors", {"head": torch.ones(2)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
