"""Memory is what PyTorch keeps; time follows FLOPs and parameters."""

from dataclasses import replace

import pytest
import torch

from isoflop.config import UserError
from isoflop.design.estimate import (
    ComputePrecision,
    Machine,
    activation_bytes_per_token,
    estimate_memory,
    estimate_seconds,
    seconds_at,
)
from isoflop.model.config import ModelConfig
from isoflop.model.count import total_params, train_flops_per_token_with_router
from isoflop.model.transformer import Transformer, next_token_loss

BASE = ModelConfig(
    vocabulary_size=300,
    num_layers=2,
    d_model=64,
    num_heads=2,
    d_expert=96,
    num_experts=7,
    top_k=3,
    sequence_length=50,
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def saved_bytes(config: ModelConfig, batch: int, precision: ComputePrecision) -> int:
    """Bytes of all different arrays, weights apart, that autograd keeps for the backward pass."""
    model = Transformer(config, compute_dtype=DTYPES[precision])
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(array: torch.Tensor) -> torch.Tensor:
        # Held alive, so that no address is used twice.
        saved[array.untyped_storage().data_ptr()] = array
        return array

    tokens = torch.zeros((batch, config.sequence_length), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda array: array):
        output = model(tokens)
        loss = next_token_loss(output.logits, tokens).mean()
        loss = loss + sum(losses.balance + losses.z for losses in output.router)
    return sum(a.untyped_storage().nbytes() for key, a in saved.items() if key not in weights)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [
        BASE,
        replace(BASE, num_experts=64, top_k=2, d_model=32, vocabulary_size=2048),
        replace(BASE, num_layers=4, d_model=128, d_expert=256, top_k=7),
    ],
)
def test_activations_are_what_torch_saves(config, precision):
    batch = 4
    tokens = batch * config.sequence_length
    memory = estimate_memory(config, micro_batch_tokens=tokens, precision=precision)
    # Logits and their gradient are in memory at the peak, but not saved by autograd.
    not_saved = tokens * 2 * 4 * config.vocabulary_size
    estimate = memory.activations + memory.weight_copies - not_saved
    assert estimate == pytest.approx(saved_bytes(config, batch, precision), rel=0.03)


def test_states_are_sixteen_bytes_a_parameter():
    memory = estimate_memory(BASE, micro_batch_tokens=10)
    assert memory.weights + memory.gradients + memory.optimiser == 16 * total_params(BASE)
    assert memory.weight_copies == 0
    assert memory.activations == 10 * activation_bytes_per_token(BASE)
    assert memory.total == 16 * total_params(BASE) + memory.activations


def test_bfloat16_copies_every_matrix_of_the_products():
    weights = dict(Transformer(BASE).named_parameters())
    copied = [
        weight.numel()
        for name, weight in weights.items()
        if weight.ndim > 1 and "router" not in name and name != "embedding"
    ]
    memory = estimate_memory(BASE, micro_batch_tokens=1, precision="bfloat16")
    assert memory.weight_copies == 2 * sum(copied)


def test_time_is_flops_over_speed_and_optimiser_traffic_over_memory_speed():
    def seconds(flops_per_second: float, memory_bytes_per_second: float) -> float:
        return estimate_seconds(
            BASE,
            train_tokens=1050,
            batch_tokens=100,
            sequence_length=50,
            machine=Machine(
                flops_per_second=flops_per_second,
                memory_bytes_per_second=memory_bytes_per_second,
            ),
        )

    flops = 1050 * train_flops_per_token_with_router(BASE, 50)
    traffic = 10 * 40 * total_params(BASE)
    assert seconds(2.0, 1e30) == pytest.approx(flops / 2)
    assert seconds(1e30, 4.0) == pytest.approx(traffic / 4)
    assert seconds(2.0, 4.0) == pytest.approx(flops / 2 + traffic / 4)


def test_a_measured_speed_gives_the_time_directly():
    assert seconds_at(90_000, tokens_per_second=45_000.0) == 2.0


def test_senseless_speeds_and_sizes_are_refused():
    with pytest.raises(UserError, match="must be above 0"):
        Machine(flops_per_second=0.0, memory_bytes_per_second=1.0)
    with pytest.raises(UserError, match=r"tokens_per_second=0\.0 must be above 0"):
        seconds_at(1, tokens_per_second=0.0)
    with pytest.raises(UserError, match="micro_batch_tokens=0 must be at least 1"):
        estimate_memory(BASE, micro_batch_tokens=0)
