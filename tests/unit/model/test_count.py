"""Counts equal the papers' numbers, the built model, and PyTorch's own FLOP counter."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isoflop.model.config import ModelConfig
from isoflop.model.count import (
    active_params,
    active_params_without_embeddings,
    attention_params,
    embedding_params,
    forward_flops_per_token,
    router_params,
    total_params,
    train_flops_per_token_6n,
    train_flops_per_token_megatron,
    train_flops_per_token_with_router,
)
from isoflop.model.transformer import Transformer, next_token_loss


def paper_model(d_model: int, num_experts: int, top_k: int) -> ModelConfig:
    """A cell of the study, written out without the package's own grid."""
    return ModelConfig(
        vocabulary_size=99_584,
        num_layers=16,
        d_model=d_model,
        num_heads=d_model // 128,
        d_expert=2 * d_model,
        num_experts=num_experts,
        top_k=top_k,
        sequence_length=4096,
    )


# Sizes of the released checkpoints, recomputed from their shapes.
PAPER_TOTALS = {
    (512, 8): 320_160_256,
    (512, 16): 521_552_384,
    (512, 32): 924_336_640,
    (512, 64): 1_729_905_152,
    (512, 128): 3_341_042_176,
    (512, 256): 6_563_316_224,
    (1024, 8): 1_076_528_128,
    (1024, 16): 1_881_965_568,
    (1024, 32): 3_492_840_448,
    (1024, 64): 6_714_590_208,
    (1024, 128): 13_158_089_728,
    (1024, 256): 26_045_088_768,
    (2048, 8): 3_897_886_720,
    (2048, 16): 7_119_374_336,
    (2048, 32): 13_562_349_568,
    (2048, 64): 26_448_300_032,
    (2048, 128): 52_220_200_960,
}

# d, k, active M, active M without embeddings and head, Megatron GFLOP/token, 6N GFLOP/token,
# training FLOP for 125 B tokens.
PAPER_COSTS = [
    (512, 2, "169.1", "67.1", "1.111", "1.015", "1.389e+20"),
    (512, 4, "219.4", "117.5", "1.413", "1.317", "1.767e+20"),
    (512, 8, "320.1", "218.1", "2.017", "1.921", "2.522e+20"),
    (512, 16, "521.4", "419.4", "3.225", "3.129", "4.032e+20"),
    (1024, 2, "472.4", "268.5", "3.028", "2.835", "3.785e+20"),
    (1024, 4, "673.7", "469.8", "4.236", "4.042", "5.295e+20"),
    (1024, 8, "1076.4", "872.4", "6.652", "6.458", "8.315e+20"),
    (1024, 16, "1881.7", "1677.8", "11.483", "11.290", "1.435e+21"),
    (2048, 2, "1481.7", "1073.8", "9.277", "8.890", "1.160e+21"),
    (2048, 4, "2287.0", "1879.1", "14.109", "13.722", "1.764e+21"),
    (2048, 8, "3897.6", "3489.7", "23.772", "23.386", "2.972e+21"),
    (2048, 16, "7118.9", "6711.0", "43.100", "42.713", "5.388e+21"),
]
PAPER_TOKENS = 29_803 * 1024 * 4096


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Any allowed shape, small enough to build."""
    num_heads = draw(st.integers(1, 4))
    key_value_heads = draw(st.sampled_from([m for m in range(1, 5) if num_heads % m == 0] + [None]))
    num_experts = draw(st.integers(1, 6))
    return ModelConfig(
        vocabulary_size=draw(st.integers(1, 40)),
        num_layers=draw(st.integers(1, 3)),
        d_model=num_heads * 2 * draw(st.integers(1, 4)),
        num_heads=num_heads,
        num_key_value_heads=key_value_heads,
        d_expert=draw(st.integers(1, 20)),
        num_experts=num_experts,
        top_k=draw(st.integers(1, num_experts)),
        sequence_length=draw(st.integers(1, 9)),
        router_order="softmax_then_topk",
    )


def shapes_of_one_token(config: ModelConfig, num_experts: int) -> list[tuple[int, ...]]:
    """Every array a token meets if `num_experts` experts answer it, routers left out."""
    d, h, v = config.d_model, config.d_expert, config.vocabulary_size
    shared = d // config.num_heads * (config.num_key_value_heads or config.num_heads)
    layer = [(d, d), (shared, d), (shared, d), (d, d), (d,), (d,)]
    layer += [(d, h), (d, h), (h, d)] * num_experts
    return [(v, d), (v, d), (d,)] + layer * config.num_layers


def elements(shapes: list[tuple[int, ...]]) -> int:
    """Numbers in all arrays together."""
    return sum(torch.Size(shape).numel() for shape in shapes)


@pytest.mark.parametrize(("shape", "total"), PAPER_TOTALS.items())
def test_totals_are_those_of_the_released_checkpoints(shape, total):
    assert total_params(paper_model(*shape, top_k=2)) == total
    assert total_params(paper_model(*shape, top_k=8)) == total


@pytest.mark.parametrize("row", PAPER_COSTS)
def test_costs_are_those_of_the_paper_to_every_digit(row):
    d_model, top_k, active, inner, megatron, six_n, run = row
    model = paper_model(d_model, 64, top_k)
    assert f"{active_params(model) / 1e6:.1f}" == active
    assert f"{active_params_without_embeddings(model) / 1e6:.1f}" == inner
    assert f"{train_flops_per_token_megatron(model, 4096) / 1e9:.3f}" == megatron
    assert f"{train_flops_per_token_6n(model) / 1e9:.3f}" == six_n
    assert f"{train_flops_per_token_megatron(model, 4096) * PAPER_TOKENS:.3e}" == run


@given(configs(), st.integers(1, 10_000))
def test_megatron_count_is_the_closed_form_where_experts_are_twice_as_wide(config, length):
    config = replace(config, d_expert=2 * config.d_model, num_key_value_heads=None)
    d, layers, v, k = config.d_model, config.num_layers, config.vocabulary_size, config.top_k
    # 12 L d^2 [2 + s/d + 3k + V/(2Ld)], multiplied out so that it stays exact.
    expected = 12 * layers * d * (2 * d + length + 3 * k * d) + 6 * v * d
    assert train_flops_per_token_megatron(config, length) == expected


@given(configs())
def test_counts_equal_the_sum_over_all_shapes(config):
    routers = config.num_layers * config.num_experts * config.d_model
    assert router_params(config) == routers
    assert total_params(config) == elements(shapes_of_one_token(config, config.num_experts)) + (
        routers
    )
    assert active_params(config) == elements(shapes_of_one_token(config, config.top_k))
    assert embedding_params(config) == elements([(config.vocabulary_size, config.d_model)] * 2)


@given(configs())
def test_a_dense_model_is_active_but_for_its_router(config):
    dense = replace(config, top_k=config.num_experts)
    assert active_params(dense) == total_params(dense) - router_params(dense)


@given(configs())
def test_sharing_keys_and_values_saves_their_rows_alone(config):
    own = replace(config, num_key_value_heads=None)
    assert replace(config, num_key_value_heads=config.num_heads).key_value_heads == (
        own.key_value_heads
    )
    d, saved_heads = config.d_model, config.num_heads - config.key_value_heads
    saved = 2 * d * config.head_width * saved_heads
    assert attention_params(own) - attention_params(config) == saved
    assert total_params(own) - total_params(config) == saved * config.num_layers
    assert active_params(own) - active_params(config) == saved * config.num_layers
    # Six FLOPs for every weight that a token is multiplied with; the scores stay.
    difference = train_flops_per_token_megatron(own, 8) - train_flops_per_token_megatron(config, 8)
    assert difference == 6 * saved * config.num_layers


@given(configs(), st.integers(1, 50))
def test_more_experts_leave_active_parameters_and_megatron_count_alone(config, more):
    larger = replace(config, num_experts=config.num_experts + more)
    assert active_params(larger) == active_params(config)
    assert train_flops_per_token_megatron(larger, 8) == train_flops_per_token_megatron(config, 8)
    added = more * config.num_layers * config.d_model
    assert total_params(larger) - total_params(config) == added * (3 * config.d_expert + 1)
    # Six FLOPs for every weight that a token is multiplied with.
    difference = train_flops_per_token_with_router(larger, 8) - (
        train_flops_per_token_with_router(config, 8)
    )
    assert difference == 6 * added


@settings(max_examples=25)
@given(configs())
def test_the_built_model_has_as_many_parameters(config):
    model = Transformer(config)
    assert total_params(config) == sum(weight.numel() for weight in model.parameters())
    routers = [w.numel() for name, w in model.named_parameters() if "router" in name]
    assert router_params(config) == sum(routers)


@settings(max_examples=25)
@given(configs(), st.integers(1, 3))
def test_flops_equal_those_that_torch_counts(config, batch):
    # The kernels compute attention's scores twice, which no count of the model's own work holds.
    model = Transformer(config, experts="loop", ops="torch")
    shape = (batch, config.sequence_length)
    tokens = torch.zeros(shape, dtype=torch.long)
    # The counter knows the plain attention only, not the fused one of the CPU.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = next_token_loss(model(tokens).logits, tokens).mean()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    per_token = forward_flops_per_token(config, config.sequence_length)
    assert forward.get_total_flops() == tokens.numel() * per_token
    counted = forward.get_total_flops() + backward.get_total_flops()
    expected = train_flops_per_token_with_router(config, config.sequence_length)
    assert counted == tokens.numel() * expected
