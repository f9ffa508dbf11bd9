"""Laws of the Mixture-of-Experts layer: the fast way equals the definition; losses by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.model.config import ModelConfig
from isoflop.model.moe import MoE, grouped_experts, loop_experts, padded_experts
from isoflop.model.ops import select_ops
from isoflop.model.router import Routing, balance_loss, route, z_loss

RELATIVE_TOLERANCE = 1e-5
"""Largest difference over the largest value: the issue's bound for float32."""


def config(**changes) -> ModelConfig:
    fields = {
        "vocabulary_size": 32,
        "num_layers": 1,
        "d_model": 8,
        "num_heads": 2,
        "d_expert": 16,
        "num_experts": 4,
        "top_k": 2,
        "sequence_length": 16,
    }
    return ModelConfig(**(fields | changes))


def assert_equal_relative(actual: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    scale = expected.abs().max().item()
    difference = (actual - expected).abs().max().item()
    assert difference <= RELATIVE_TOLERANCE * scale, f"{what}: {difference} of {scale}"


def outputs_and_gradients(moe: MoE, x: torch.Tensor, pull: torch.Tensor) -> dict:
    """Output and every gradient of a layer for an upstream gradient `pull` and both losses."""
    x = x.clone().requires_grad_(True)
    out, statistics = moe(x[None])
    ((out * pull).sum() + balance_loss(statistics, "micro") + z_loss(statistics)).backward()
    gradients = {name: parameter.grad for name, parameter in moe.named_parameters()}
    return {"output": out[0].detach(), "x": x.grad, **gradients}


def layer_pair(
    shape: ModelConfig, generator: torch.Generator, experts="grouped"
) -> tuple[MoE, MoE]:
    """The same weights, of order 1, computed in two ways."""
    ops = select_ops("torch")
    fast, slow = MoE(shape, ops, experts), MoE(shape, ops, "loop")
    with torch.no_grad():
        for quick, plain in zip(fast.parameters(), slow.parameters(), strict=True):
            quick.normal_(0.0, 0.5, generator=generator)
            plain.copy_(quick)
    return fast, slow


@st.composite
def shapes(draw):
    num_experts = draw(st.integers(1, 9))
    top_k = draw(st.integers(1, num_experts))
    router_order = draw(st.sampled_from(["topk_then_softmax", "softmax_then_topk"]))
    if top_k == 1:
        router_order = "softmax_then_topk"
    return config(
        d_model=4 * draw(st.integers(1, 10)),
        num_heads=1,
        d_expert=4 * draw(st.integers(1, 10)),
        num_experts=num_experts,
        top_k=top_k,
        router_order=router_order,
    )


@settings(max_examples=60)
@given(
    shape=shapes(),
    num_tokens=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    experts=st.sampled_from(["grouped", "padded"]),
)
def test_fast_experts_equal_the_loop_in_output_and_all_gradients(shape, num_tokens, seed, experts):
    generator = torch.Generator().manual_seed(seed)
    fast, slow = layer_pair(shape, generator, experts)
    x = torch.randn(num_tokens, shape.d_model, generator=generator)
    pull = torch.randn(num_tokens, shape.d_model, generator=generator)
    expected = outputs_and_gradients(slow, x, pull)
    for name, value in outputs_and_gradients(fast, x, pull).items():
        assert_equal_relative(value, expected[name], name)


@pytest.mark.parametrize(
    ("d_model", "d_expert", "dtype", "said"),
    [
        (6, 16, torch.float32, r"must be multiples of 4 .* got 6"),
        (8, 14, torch.float32, r"must be multiples of 4 .* got 14"),
        (8, 12, torch.bfloat16, r"must be multiples of 8 .* got 12"),
    ],
)
def test_widths_that_grouped_products_do_not_take_are_refused(d_model, d_expert, dtype, said):
    shape = config(d_model=d_model, num_heads=1, d_expert=d_expert)
    fast, slow = layer_pair(shape, torch.Generator().manual_seed(0))
    x = torch.ones(3, d_model, dtype=dtype)
    with pytest.raises(UserError, match=said):
        fast(x[None])
    assert slow(x[None])[0][0].shape == x.shape


CROWDED = {
    "one expert takes all": ([[2]] * 7, 5),
    "the first takes all": ([[0]] * 7, 5),
    "the last takes all": ([[4]] * 7, 5),
    "empty first and last": ([[1, 3], [3, 1], [2, 1]], 5),
    "empty in the middle": ([[0, 4], [4, 0], [0, 4]], 5),
    "one token": ([[3, 0]], 5),
    "all experts": ([[4, 1, 0, 3, 2], [0, 1, 2, 3, 4]], 5),
}


@pytest.mark.parametrize("compute", [grouped_experts, padded_experts])
@pytest.mark.parametrize("case", CROWDED)
def test_fast_experts_equal_the_loop_under_uneven_use(case, compute):
    chosen, num_experts = CROWDED[case]
    generator = torch.Generator().manual_seed(3)
    experts = torch.tensor(chosen)
    leaves = [
        torch.randn(len(chosen), 8, generator=generator),
        torch.rand(experts.shape, generator=generator),
        torch.randn(num_experts, 8, 32, generator=generator),
        torch.randn(num_experts, 16, 8, generator=generator),
    ]
    results = []
    for way in (compute, loop_experts):
        x, weights, gate_up, down = (leaf.clone().requires_grad_(True) for leaf in leaves)
        out = way(x, Routing(weights, experts), gate_up, down, select_ops("torch"))
        out.square().sum().backward()
        results.append([out.detach(), x.grad, weights.grad, gate_up.grad, down.grad])
    names = ("output", "x", "weights", "gate_up", "down")
    for name, fast, slow in zip(names, *results, strict=True):
        assert_equal_relative(fast, slow, name)
    unused = sorted(set(range(num_experts)) - set(experts.flatten().tolist()))
    assert not results[0][3][unused].any()
    assert not results[0][4][unused].any()


@pytest.mark.parametrize(("num_experts", "top_k"), [(8, 2), (4, 4), (16, 1)])
def test_bfloat16_grouped_experts_stay_near_float32(num_experts, top_k):
    generator = torch.Generator().manual_seed(0)
    shape = config(
        d_model=32, num_experts=num_experts, top_k=top_k, router_order="softmax_then_topk"
    )
    moe, _ = layer_pair(shape, generator)
    # Rounded first, so that both precisions route from the same numbers.
    x = torch.randn(64, 32, generator=generator).bfloat16()
    half, _ = moe(x[None])
    full, _ = moe(x.float()[None])
    assert half.dtype == torch.bfloat16
    error = (half.float() - full).norm() / full.norm()
    assert error < 0.02  # bfloat16 keeps 8 bits: 0.4% a rounding, several roundings in a row.


def test_output_is_linear_in_each_expert_and_none_is_dropped():
    """With k = E and equal logits, the layer is the plain mean of all experts."""
    generator = torch.Generator().manual_seed(1)
    moe, _ = layer_pair(config(num_experts=3, top_k=3), generator)
    with torch.no_grad():
        moe.router.zero_()
    x = torch.randn(5, 8, generator=generator)
    expected = 0
    for expert in range(3):
        gate, up = (x @ moe.gate_up[expert]).chunk(2, dim=-1)
        expected = expected + (gate * gate.sigmoid() * up) @ moe.down[expert] / 3
    torch.testing.assert_close(moe(x[None])[0][0], expected)


def test_gradient_of_the_output_reaches_the_router():
    generator = torch.Generator().manual_seed(0)
    moe, _ = layer_pair(config(), generator)
    out, _ = moe(torch.randn(1, 6, 8, generator=generator))
    (gradient,) = torch.autograd.grad(out.square().sum(), moe.router)
    assert gradient.abs().max() > 0


@settings(max_examples=30)
@given(shape=shapes(), num_tokens=st.integers(1, 30))
def test_expert_counts_sum_to_tokens_times_k(shape, num_tokens):
    generator = torch.Generator().manual_seed(num_tokens)
    moe, _ = layer_pair(shape, generator)
    _, statistics = moe(torch.randn(1, num_tokens, shape.d_model, generator=generator))
    assert statistics.expert_counts.sum().item() == num_tokens * shape.top_k
    assert statistics.expert_counts.max().item() <= num_tokens


def test_router_losses_do_not_change_the_output():
    """The losses are returned, not added: the output is a function of the experts alone."""
    generator = torch.Generator().manual_seed(0)
    moe, _ = layer_pair(config(), generator)
    x = torch.randn(6, 8, generator=generator)
    logits = x @ moe.router.T
    routing = route(logits, 2, "topk_then_softmax")
    out = grouped_experts(x, routing, moe.gate_up, moe.down, moe.ops)
    torch.testing.assert_close(moe(x[None])[0][0], out)
