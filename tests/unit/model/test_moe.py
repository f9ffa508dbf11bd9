"""Laws of the Mixture-of-Experts layer: the fast way equals the definition; losses by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.model.config import ModelConfig
from isoflop.model.moe import (
    MoE,
    Routing,
    grouped_experts,
    loop_experts,
    route,
    router_losses,
)

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
    out, losses = moe(x)
    ((out * pull).sum() + losses.balance + losses.z).backward()
    gradients = {name: parameter.grad for name, parameter in moe.named_parameters()}
    return {"output": out.detach(), "x": x.grad, **gradients}


def layer_pair(shape: ModelConfig, generator: torch.Generator) -> tuple[MoE, MoE]:
    """The same weights, of order 1, computed in two ways."""
    fast, slow = MoE(shape, "grouped"), MoE(shape, "loop")
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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shape=shapes(), num_tokens=st.integers(1, 40), seed=st.integers(0, 2**16))
def test_grouped_experts_equal_the_loop_in_output_and_all_gradients(shape, num_tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    fast, slow = layer_pair(shape, generator)
    x = torch.randn(num_tokens, shape.d_model, generator=generator)
    pull = torch.randn(num_tokens, shape.d_model, generator=generator)
    expected = outputs_and_gradients(slow, x, pull)
    for name, value in outputs_and_gradients(fast, x, pull).items():
        assert_equal_relative(value, expected[name], name)


@pytest.mark.parametrize(
    ("d_model", "d_expert", "dtype", "said"),
    [
        (6, 16, torch.float32, "d_model=6 must be a multiple of 4"),
        (8, 14, torch.float32, "d_expert=14 must be a multiple of 4"),
        (8, 12, torch.bfloat16, "d_expert=12 must be a multiple of 8"),
    ],
)
def test_widths_that_grouped_products_do_not_take_are_refused(d_model, d_expert, dtype, said):
    shape = config(d_model=d_model, num_heads=1, d_expert=d_expert)
    fast, slow = layer_pair(shape, torch.Generator().manual_seed(0))
    x = torch.ones(3, d_model, dtype=dtype)
    with pytest.raises(UserError, match=said):
        fast(x)
    assert slow(x)[0].shape == x.shape


CROWDED = {
    "one expert takes all": ([[2]] * 7, 5),
    "the first takes all": ([[0]] * 7, 5),
    "the last takes all": ([[4]] * 7, 5),
    "empty first and last": ([[1, 3], [3, 1], [2, 1]], 5),
    "empty in the middle": ([[0, 4], [4, 0], [0, 4]], 5),
    "one token": ([[3, 0]], 5),
    "all experts": ([[4, 1, 0, 3, 2], [0, 1, 2, 3, 4]], 5),
}


@pytest.mark.parametrize("case", CROWDED)
def test_grouped_experts_equal_the_loop_under_uneven_use(case):
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
    for compute in (grouped_experts, loop_experts):
        x, weights, gate_up, down = (leaf.clone().requires_grad_(True) for leaf in leaves)
        logits = torch.zeros(len(chosen), num_experts)
        out = compute(x, Routing(weights, experts, logits), gate_up, down)
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
    half, _ = moe(x)
    full, _ = moe(x.float())
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
    torch.testing.assert_close(moe(x)[0], expected)


def test_softmax_orders_by_hand():
    logits = torch.tensor([[math.log(1.0), math.log(2.0), math.log(5.0), math.log(2e-9)]])
    after = route(logits, 2, "topk_then_softmax")
    before = route(logits, 2, "softmax_then_topk")
    assert after.experts.tolist() == before.experts.tolist() == [[2, 1]]
    torch.testing.assert_close(after.weights, torch.tensor([[5 / 7, 2 / 7]]))
    torch.testing.assert_close(before.weights, torch.tensor([[5 / 8, 2 / 8]]))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(num_experts=st.integers(2, 12), data=st.data())
def test_weights_sum_to_one_after_and_to_the_chosen_share_before(num_experts, data):
    top_k = data.draw(st.integers(1, num_experts))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    logits = torch.randn(9, num_experts, generator=generator)
    after = route(logits, top_k, "topk_then_softmax")
    before = route(logits, top_k, "softmax_then_topk")
    torch.testing.assert_close(after.weights.sum(dim=-1), torch.ones(9))
    expected = logits.softmax(dim=-1).gather(1, before.experts)
    torch.testing.assert_close(before.weights, expected)
    if top_k == num_experts:
        torch.testing.assert_close(before.weights, after.weights)


def test_routing_is_decided_in_float32():
    """Two logits that are one number in bfloat16 still differ here, and stay float32."""
    logits = torch.tensor([[1.0, 1.001]])
    assert logits.bfloat16()[0, 0] == logits.bfloat16()[0, 1]
    assert route(logits, 1, "softmax_then_topk").experts.tolist() == [[1]]
    assert route(logits.bfloat16(), 1, "softmax_then_topk").weights.dtype == torch.float32


@pytest.mark.parametrize("num_experts", [1, 4, 6])
def test_balance_loss_is_one_at_even_use_for_every_k(num_experts):
    for top_k in range(1, num_experts + 1):
        logits = torch.zeros(num_experts, num_experts)
        for token in range(num_experts):
            for slot in range(top_k):
                logits[token, (token + slot) % num_experts] = 4.0
        losses = router_losses(route(logits, top_k, "topk_then_softmax"))
        assert losses.balance.item() == pytest.approx(1.0, abs=1e-6)
        assert losses.expert_counts.tolist() == [top_k] * num_experts


def test_balance_loss_by_hand_for_uneven_use():
    """Shares 3/4 and 1/4, mean probabilities 0.7 and 0.3: 2 (0.525 + 0.075) = 1.2."""
    high, low = [math.log(0.9), math.log(0.1)], [math.log(0.1), math.log(0.9)]
    losses = router_losses(route(torch.tensor([high, high, high, low]), 1, "softmax_then_topk"))
    assert losses.balance.item() == pytest.approx(2 * (0.75 * 0.7 + 0.25 * 0.3))
    all_on_one = router_losses(route(torch.tensor([[30.0, 0.0, 0.0]] * 5), 1, "softmax_then_topk"))
    assert all_on_one.balance.item() == pytest.approx(3.0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(num_experts=st.integers(2, 8), seed=st.integers(0, 999), data=st.data())
def test_balance_loss_exceeds_one_when_one_expert_is_preferred(num_experts, seed, data):
    top_k = data.draw(st.integers(1, num_experts - 1))
    logits = torch.randn(50, num_experts, generator=torch.Generator().manual_seed(seed))
    logits[:, 0] += 6.0
    losses = router_losses(route(logits, top_k, "topk_then_softmax"))
    assert losses.balance.item() > 1.01


def test_gradient_of_the_balance_loss_reaches_the_router_and_lowers_the_crowded_expert():
    moe = MoE(config(num_experts=3, top_k=1, router_order="softmax_then_topk"))
    with torch.no_grad():
        moe.router.zero_()
        moe.router[0] = 0.5
    x = torch.ones(10, 8)
    _, losses = moe(x)
    (gradient,) = torch.autograd.grad(losses.balance, moe.router)
    assert (gradient[0] > 0).all()
    assert (gradient[1:] < 0).all()


def test_gradient_of_the_output_reaches_the_router():
    generator = torch.Generator().manual_seed(0)
    moe, _ = layer_pair(config(), generator)
    out, _ = moe(torch.randn(6, 8, generator=generator))
    (gradient,) = torch.autograd.grad(out.square().sum(), moe.router)
    assert gradient.abs().max() > 0


def test_z_loss_by_hand():
    """logsumexp of (log 1, log 3) is log 4, of (0, 0) is log 2."""
    logits = torch.tensor([[math.log(1.0), math.log(3.0)], [0.0, 0.0]])
    losses = router_losses(route(logits, 1, "softmax_then_topk"))
    assert losses.z.item() == pytest.approx((math.log(4) ** 2 + math.log(2) ** 2) / 2)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(shape=shapes(), num_tokens=st.integers(1, 30))
def test_expert_counts_sum_to_tokens_times_k(shape, num_tokens):
    generator = torch.Generator().manual_seed(num_tokens)
    moe, _ = layer_pair(shape, generator)
    _, losses = moe(torch.randn(num_tokens, shape.d_model, generator=generator))
    assert losses.expert_counts.sum().item() == num_tokens * shape.top_k
    assert losses.expert_counts.max().item() <= num_tokens


def test_router_losses_do_not_change_the_output():
    """The losses are returned, not added: the output is a function of the experts alone."""
    generator = torch.Generator().manual_seed(0)
    moe, _ = layer_pair(config(), generator)
    x = torch.randn(6, 8, generator=generator)
    logits = x @ moe.router.T
    out = grouped_experts(x, route(logits, 2, "topk_then_softmax"), moe.gate_up, moe.down)
    torch.testing.assert_close(moe(x)[0], out)
