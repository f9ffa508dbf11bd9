"""A shape that cannot be built is refused before anything is."""

import pytest

from isoflop.config import UserError
from isoflop.model.config import ModelConfig

SHAPE = {
    "vocabulary_size": 32,
    "num_layers": 2,
    "d_model": 8,
    "num_heads": 2,
    "d_expert": 16,
    "num_experts": 8,
    "top_k": 2,
    "sequence_length": 16,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"top_k": 9}, "top_k=9 must be between 1 and num_experts=8"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"d_model": 9}, "d_model=9 must split into num_heads=2"),
        ({"d_model": 6}, "even width"),
        ({"num_layers": 0}, "num_layers=0 must be at least 1"),
        ({"vocabulary_size": -1}, "vocabulary_size=-1"),
        ({"sequence_length": 0}, "sequence_length=0"),
        ({"top_k": 1}, "the router learns nothing"),
        ({"num_key_value_heads": 0}, "num_key_value_heads=0 must divide num_heads=2"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 must divide num_heads=2"),
        ({"num_key_value_heads": 4}, "num_key_value_heads=4 must divide num_heads=2"),
        ({"num_key_value_heads": -1}, "num_key_value_heads=-1 must divide num_heads=2"),
        ({"init_std": 0.0}, "init_std"),
        ({"init_std": float("nan")}, "init_std=nan must be above 0 and finite"),
        ({"norm_epsilon": float("nan")}, "norm_epsilon=nan"),
        ({"rope_base": float("inf")}, "rope_base=inf must be above 1 and finite"),
        ({"sequence_length": (1 << 24) + 1}, "sequence_length=16777217 must be at most 16777216"),
        ({"rope_base": 1.0}, "rope_base"),
    ],
)
def test_impossible_shapes_are_refused_with_the_value(changes, said):
    with pytest.raises(UserError, match=said):
        ModelConfig(**(SHAPE | changes))


def test_density_and_sparsity_sum_to_one_and_dense_is_k_equal_e():
    for top_k in range(2, 9):
        config = ModelConfig(**(SHAPE | {"top_k": top_k}))
        assert config.density == top_k / 8
        assert config.sparsity + config.density == 1
    assert config.sparsity == 0


@pytest.mark.parametrize(("given", "heads"), [(None, 2), (2, 2), (1, 1)])
def test_every_head_has_its_own_keys_and_values_unless_they_are_shared(given, heads):
    config = ModelConfig(**(SHAPE | {"num_key_value_heads": given}))
    assert config.key_value_heads == heads
    # Queries, keys, values; heads of width 4.
    assert config.query_key_value_width == 4 * (2 + heads + heads)
