"""What is written is what is read: fields and our config are two forms of one thing."""

from pathlib import Path
from typing import get_args

import pytest

from fakes_huggingface import shape
from isoflop.model.config import ModelConfig, RouterOrder
from isoflop.model.huggingface.fields import (
    DEFAULT_INITIALIZER_RANGE,
    DEFAULT_KEY_VALUE_HEADS,
    DEFAULT_NORM_EPSILON,
    DEFAULT_ROPE_BASE,
    SIZES,
    mixtral_config_fields,
    model_config,
    order_fields,
)

PATH = Path("config.json")


@pytest.mark.parametrize(
    "config",
    [
        shape(),
        shape(num_key_value_heads=1, rope_base=1e6, norm_epsilon=1e-6, init_std=0.088),
        shape(num_experts=1, top_k=1),
    ],
)
def test_fields_read_back_are_the_config(config):
    fields = {"model_type": "mixtral", **mixtral_config_fields(config)}
    assert model_config(fields, PATH) == (config, ())


def test_a_dense_model_comes_back_with_its_own_order():
    """Over all experts both orders give one answer, so a Mixtral may hold either."""
    for order in get_args(RouterOrder):
        config = shape(num_experts=4, top_k=4, router_order=order)
        fields = {"model_type": "mixtral", **mixtral_config_fields(config), **order_fields(config)}
        assert model_config(fields, PATH)[0] == config
    assert order_fields(shape()) == {}


def test_as_many_key_heads_as_heads_is_one_config():
    """Otherwise the same model would have two digests."""
    fields = {"model_type": "mixtral", **mixtral_config_fields(shape(num_key_value_heads=4))}
    assert model_config(fields, PATH)[0] == shape()
    assert model_config({**fields, "num_key_value_heads": None}, PATH)[0] == shape()


def test_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.MixtralConfig()
    assert theirs.num_key_value_heads == DEFAULT_KEY_VALUE_HEADS
    assert theirs.rope_parameters["rope_theta"] == DEFAULT_ROPE_BASE
    assert theirs.rms_norm_eps == DEFAULT_NORM_EPSILON
    assert theirs.initializer_range == DEFAULT_INITIALIZER_RANGE


def test_transformers_reads_every_field_as_it_is_written():
    """None is unknown to it, misspelt or renamed."""
    transformers = pytest.importorskip("transformers")
    fields = mixtral_config_fields(shape(rope_base=5e3))
    theirs = transformers.MixtralConfig(**fields).to_dict()
    known = {name: theirs[name] for name in fields if name != "rope_theta"}
    assert known == {name: value for name, value in fields.items() if name != "rope_theta"}


def test_every_size_of_ours_is_mapped():
    wanted = {name for name, kind in ModelConfig.__annotations__.items() if kind is int}
    assert wanted == set(SIZES.values())


def test_a_silent_file_has_the_default_key_heads():
    fields = {"model_type": "mixtral", **mixtral_config_fields(shape(num_heads=16))}
    del fields["num_key_value_heads"]
    assert model_config(fields, PATH)[0].key_value_heads == DEFAULT_KEY_VALUE_HEADS
