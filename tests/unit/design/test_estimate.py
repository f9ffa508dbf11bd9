"""Memory is what PyTorch keeps; time follows FLOPs and parameters."""

from dataclasses import replace

import pytest
import torch

from isoflop.config import UserError
from isoflop.design.estimate import (
    INT64_BYTES,
    LOSS_CHUNK_BYTES,
    ComputePrecision,
    Machine,
    Ops,
    estimate_memory,
    estimate_seconds,
    seconds_at,
)
from isoflop.model.config import ModelConfig
from isoflop.model.count import total_params, train_flops_per_token_with_router
from isoflop.model.loss import CHUNK_BYTES
from isoflop.model.ops.build import native_available
from isoflop.model.ops.products import float32_tiles_available, many_rows, tiles_available
from isoflop.model.transformer import Recompute, Transformer

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
BATCH = 4


def saved_bytes(
    config: ModelConfig, precision: ComputePrecision, ops: Ops, recompute: Recompute = "none"
) -> int:
    """Bytes of all different arrays, weights and the head's gradient apart, that autograd keeps."""
    model = Transformer(config, compute_dtype=DTYPES[precision], ops=ops, recompute=recompute)
    own = (*model.parameters(), model.cosine, model.sine)
    known = {array.untyped_storage().data_ptr() for array in own}
    saved: dict[int, torch.Tensor] = {}

    def keep(array: torch.Tensor) -> torch.Tensor:
        # Held alive, so that no address is used twice.
        saved[array.untyped_storage().data_ptr()] = array
        return array

    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, config.sequence_length + 1)
    tokens = torch.randint(config.vocabulary_size, shape, generator=generator)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda array: array):
        loss, router = model.mean_loss(tokens[:, :-1], tokens[:, 1:])
        loss = loss + router.probability_sum.sum() + router.z_sum.sum()
    held = sum(a.untyped_storage().nbytes() for key, a in saved.items() if key not in known)
    return held - 4 * model.head.numel()


NEEDS_COMPILER = pytest.mark.skipif(not native_available(), reason="no C compiler here")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("ops", [pytest.param("native", marks=NEEDS_COMPILER), "torch"])
@pytest.mark.parametrize(
    "config",
    [
        BASE,
        replace(BASE, num_experts=64, top_k=2, d_model=32, vocabulary_size=2048),
        replace(BASE, num_layers=4, d_model=128, num_heads=4, d_expert=256, top_k=7),
        replace(BASE, num_heads=4, num_key_value_heads=2),
    ],
)
def test_activations_are_what_torch_saves(config, ops, precision):
    if (ops, precision) == ("native", "bfloat16") and not tiles_available():
        pytest.skip("this processor has no bfloat16 instructions, so weights are copied")
    tokens = BATCH * config.sequence_length
    fused = ops == "native" and float32_tiles_available()
    fused = fused and many_rows(tokens * config.top_k, config.num_experts)
    given = {"precision": precision, "ops": ops, "fused_experts": fused}
    memory = estimate_memory(config, micro_batch_tokens=tokens, **given)
    # Where rows are and how to come back, which autograd's hooks do not see.
    dispatch = 2 * INT64_BYTES * config.top_k * config.num_layers * tokens
    estimate = memory.activations + memory.weight_copies - dispatch
    assert estimate == pytest.approx(saved_bytes(config, precision, ops), rel=0.03)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_computing_layers_again_keeps_their_inputs(precision):
    config = replace(BASE, num_layers=6)
    tokens = BATCH * config.sequence_length
    given = {"micro_batch_tokens": tokens, "precision": precision, "ops": "torch"}
    once = estimate_memory(config, **given)
    again = estimate_memory(config, **given, recompute="layers")
    per_token = 64 * (4 + DTYPES[precision].itemsize)
    outside = tokens * 64 * (8 + DTYPES[precision].itemsize)
    assert again.activations == config.num_layers * tokens * per_token + outside
    assert again.total < once.total
    # One layer's activations come back while it is computed again.
    layer = (once.activations - outside) // config.num_layers
    assert again.backward - once.backward == layer


def test_states_are_sixteen_bytes_a_parameter():
    memory = estimate_memory(BASE, micro_batch_tokens=10)
    assert memory.weights + memory.gradients + memory.optimiser == 16 * total_params(BASE)
    assert memory.weight_copies == 0
    working = memory.activations + memory.loss + memory.backward
    assert memory.total == 16 * total_params(BASE) + working


def test_torch_copies_every_matrix_of_the_layers_to_bfloat16_and_native_none():
    weights = dict(Transformer(BASE).named_parameters())
    copied = [
        weight.numel()
        for name, weight in weights.items()
        if weight.ndim > 1 and "router" not in name and name not in ("embedding", "head")
    ]
    given = {"micro_batch_tokens": 1, "precision": "bfloat16"}
    assert estimate_memory(BASE, **given, ops="torch").weight_copies == 2 * sum(copied)
    assert estimate_memory(BASE, **given, ops="native").weight_copies == 0


def test_the_loss_holds_one_chunk_of_logits_however_many_tokens():
    assert LOSS_CHUNK_BYTES == CHUNK_BYTES
    large = replace(BASE, vocabulary_size=100_000)
    head = 4 * 100_000 * 64
    few, more, many = (
        estimate_memory(large, micro_batch_tokens=tokens).loss for tokens in (10, 10_000, 100_000)
    )
    assert few == 10 * 4 * 100_000 + head
    assert more == many == CHUNK_BYTES + head
    # torch's own softmax makes float32 copies of the chunk.
    copied = estimate_memory(large, micro_batch_tokens=10_000, ops="torch").loss
    assert copied == 3 * CHUNK_BYTES + head


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
