"""The mapping loses nothing: every element of ours is in theirs, once."""

from unittest import mock

import pytest
import torch

from fakes_huggingface import random_model, shape
from isoflop.config import UserError
from isoflop.model.huggingface.weights import (
    mixtral_model,
    mixtral_state,
    parameter_shapes,
    pieces,
)
from isoflop.model.transformer import Transformer

SHAPES = [
    shape(),
    shape(num_key_value_heads=2, num_layers=3, d_expert=20),
    shape(num_experts=1, top_k=1, num_heads=1),
]


@pytest.mark.parametrize("config", SHAPES)
def test_shapes_are_those_of_the_built_model(config):
    built = {name: tuple(p.shape) for name, p in Transformer(config).named_parameters()}
    assert parameter_shapes(config) == built


@pytest.mark.parametrize("style", ["classic", "fused"])
@pytest.mark.parametrize("config", SHAPES)
def test_every_element_of_ours_is_in_theirs_once(config, style):
    seen = {name: torch.zeros(size) for name, size in parameter_shapes(config).items()}
    found = pieces(config, style)
    assert len({piece.theirs for piece in found}) == len(found)
    for piece in found:
        part = piece.take(seen[piece.ours])
        assert tuple(part.shape) == piece.shape
        part += 1
    assert all((count == 1).all() for count in seen.values())


def test_the_state_is_what_transformers_holds(tmp_path):
    pytest.importorskip("transformers")
    ours = random_model(shape(num_key_value_heads=2))
    theirs = mixtral_model(ours)
    held = dict(theirs.named_parameters())
    state = mixtral_state(ours)
    assert state.keys() == held.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, held[name])
    # A copy: training the one leaves the other as it was.
    with torch.no_grad():
        held["model.norm.weight"].zero_()
    assert ours.norm.weight.abs().min() > 0


def test_without_transformers_the_way_to_get_it_is_told():
    with (
        mock.patch.dict("sys.modules", {"transformers": None}),
        pytest.raises(UserError, match=r"pip install 'isoflop\[hf\]'"),
    ):
        mixtral_model(random_model(shape()))


def test_a_router_that_mixtral_has_not_is_refused():
    with pytest.raises(UserError, match="softmax_then_topk"):
        mixtral_model(random_model(shape(router_order="softmax_then_topk")))
