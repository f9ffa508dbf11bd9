"""Both decoders compute what the model does, and the prepared one refuses to write beyond its memory."""

import numpy as np
import pytest
import torch

from isoflop.model.config import ModelConfig
from isoflop.model.decode import PlainDecoder, PreparedDecoder, make_decoder
from isoflop.model.moe import MoE, SelectionNoise
from isoflop.model.ops.build import native_available
from isoflop.model.transformer import Transformer

BATCH, LENGTH = 5, 9

SHAPES = {
    "E4 k2": {},
    "E8 k3, one layer": {"num_experts": 8, "top_k": 3, "num_layers": 1},
    "shared keys": {"num_heads": 4, "num_key_value_heads": 2},
    "softmax first": {"router_order": "softmax_then_topk"},
    "heads of 16": {"d_model": 32, "num_heads": 2},
    "wide experts": {"d_expert": 40, "num_experts": 2},
    "more columns than vectors": {"d_model": 48, "num_heads": 2, "d_expert": 20},
}


def make_model(**changes) -> Transformer:
    config = {
        "vocabulary_size": 40,
        "num_layers": 2,
        "d_model": 16,
        "num_heads": 2,
        "d_expert": 8,
        "num_experts": 4,
        "top_k": 2,
        "sequence_length": LENGTH + 3,
        "init_std": 0.3,
    }
    return Transformer(ModelConfig(**{**config, **changes}), seed=1)


def texts() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 40, (BATCH, LENGTH))


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", [PlainDecoder, PreparedDecoder])
def test_steps_give_the_logits_and_experts_of_the_whole_text(kind, changes):
    if kind is PreparedDecoder and not native_available():
        pytest.skip("no C compiler")
    model, tokens = make_model(**changes), texts()
    decoder = kind(model, model.empty_cache(BATCH, LENGTH))
    record = []
    with torch.no_grad():
        hidden, _ = model.hidden(torch.from_numpy(tokens), record=record)
        expected = model.logits(hidden)
    for at in range(LENGTH):
        found = decoder.step(tokens[:, at], np.full(BATCH, at))
        torch.testing.assert_close(found, expected[:, at], rtol=1e-4, atol=1e-5)
        chosen = decoder.experts().sort(dim=-1).values
        assert torch.equal(chosen, torch.stack(record)[:, :, at].sort(dim=-1).values)


def test_sequences_stand_at_their_own_positions():
    model, tokens = make_model(), texts()
    decoder = make_decoder(model, model.empty_cache(2, LENGTH))
    # The second sequence begins three steps later; before, its place is computed for nothing.
    for at in range(LENGTH):
        later = max(at - 3, 0)
        logits = decoder.step(np.array([tokens[0, at], tokens[1, later]]), np.array([at, later]))
    with torch.no_grad():
        whole = model(torch.from_numpy(tokens[:2])).logits
    torch.testing.assert_close(logits[0], whole[0, -1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[1], whole[1, LENGTH - 4], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not native_available(), reason="no C compiler")
def test_weights_that_change_in_place_are_followed():
    model = make_model()
    decoder = make_decoder(model, model.empty_cache(BATCH, LENGTH))
    assert isinstance(decoder, PreparedDecoder)
    first = decoder.step(texts()[:, 0], np.zeros(BATCH, dtype=np.int64)).clone()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.5)
    second = decoder.step(texts()[:, 0], np.zeros(BATCH, dtype=np.int64))
    plain = PlainDecoder(model, model.empty_cache(BATCH, LENGTH))
    expected = plain.step(texts()[:, 0], np.zeros(BATCH, dtype=np.int64))
    assert not torch.allclose(first, second)
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not native_available(), reason="no C compiler")
@pytest.mark.parametrize("position", [-1, LENGTH])
def test_a_position_without_room_is_refused(position):
    model = make_model()
    decoder = PreparedDecoder(model, model.empty_cache(BATCH, LENGTH))
    with pytest.raises(IndexError, match="within 0 to 8"):
        decoder.step(texts()[:, 0], np.full(BATCH, position))


def test_what_the_kernels_do_not_know_is_left_to_the_model():
    noisy = make_model()
    for module in noisy.modules():
        if isinstance(module, MoE):
            module.noise = SelectionNoise(1.0, torch.Generator())
    config = make_model().config
    others = [
        noisy,
        Transformer(config, ops="torch"),
        Transformer(config, experts="padded"),
        Transformer(config, compute_dtype=torch.bfloat16),
    ]
    for model in others:
        assert isinstance(make_decoder(model, model.empty_cache(2, 4)), PlainDecoder)
