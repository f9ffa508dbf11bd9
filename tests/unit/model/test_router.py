"""Laws of the router: its two orders, its losses by hand, and over which tokens use is even."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.model.config import ModelConfig
from isoflop.model.moe import MoE
from isoflop.model.ops import select_ops
from isoflop.model.router import (
    RouterStatistics,
    balance_loss,
    route,
    router_statistics,
    z_loss,
)


def statistics_of(logits, top_k, order, num_sequences=1, counted=None) -> RouterStatistics:
    experts = route(logits, top_k, order).experts
    return router_statistics(logits, experts, num_sequences, counted)


def test_softmax_orders_by_hand():
    logits = torch.tensor([[math.log(1.0), math.log(2.0), math.log(5.0), math.log(2e-9)]])
    after = route(logits, 2, "topk_then_softmax")
    before = route(logits, 2, "softmax_then_topk")
    assert after.experts.tolist() == before.experts.tolist() == [[2, 1]]
    torch.testing.assert_close(after.weights, torch.tensor([[5 / 7, 2 / 7]]))
    torch.testing.assert_close(before.weights, torch.tensor([[5 / 8, 2 / 8]]))


@settings(max_examples=30)
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
        statistics = statistics_of(logits, top_k, "topk_then_softmax")
        assert balance_loss(statistics, "micro").item() == pytest.approx(1.0, abs=1e-6)
        assert statistics.expert_counts.tolist() == [top_k] * num_experts


def test_balance_loss_by_hand_for_uneven_use():
    """Shares 3/4 and 1/4, mean probabilities 0.7 and 0.3: 2 (0.525 + 0.075) = 1.2."""
    high, low = [math.log(0.9), math.log(0.1)], [math.log(0.1), math.log(0.9)]
    statistics = statistics_of(torch.tensor([high, high, high, low]), 1, "softmax_then_topk")
    assert balance_loss(statistics, "micro").item() == pytest.approx(2 * (0.75 * 0.7 + 0.25 * 0.3))
    all_on_one = statistics_of(torch.tensor([[30.0, 0.0, 0.0]] * 5), 1, "softmax_then_topk")
    assert balance_loss(all_on_one, "micro").item() == pytest.approx(3.0)


@settings(max_examples=30)
@given(num_experts=st.integers(2, 8), seed=st.integers(0, 999), data=st.data())
def test_balance_loss_exceeds_one_when_one_expert_is_preferred(num_experts, seed, data):
    top_k = data.draw(st.integers(1, num_experts - 1))
    logits = torch.randn(50, num_experts, generator=torch.Generator().manual_seed(seed))
    logits[:, 0] += 6.0
    statistics = statistics_of(logits, top_k, "topk_then_softmax")
    assert balance_loss(statistics, "micro").item() > 1.01


def test_gradient_of_the_balance_loss_reaches_the_router_and_lowers_the_crowded_expert():
    shape = ModelConfig(
        vocabulary_size=32,
        num_layers=1,
        d_model=8,
        num_heads=2,
        d_expert=16,
        num_experts=3,
        top_k=1,
        sequence_length=16,
        router_order="softmax_then_topk",
    )
    moe = MoE(shape, select_ops("torch"))
    with torch.no_grad():
        moe.router.zero_()
        moe.router[0] = 0.5
    _, statistics = moe(torch.ones(1, 10, 8))
    (gradient,) = torch.autograd.grad(balance_loss(statistics, "micro"), moe.router)
    assert (gradient[0] > 0).all()
    assert (gradient[1:] < 0).all()


def test_z_loss_by_hand():
    """logsumexp of (log 1, log 3) is log 4, of (0, 0) is log 2."""
    logits = torch.tensor([[math.log(1.0), math.log(3.0)], [0.0, 0.0]])
    statistics = statistics_of(logits, 1, "softmax_then_topk")
    assert z_loss(statistics).item() == pytest.approx((math.log(4) ** 2 + math.log(2) ** 2) / 2)


def some_logits(num_tokens: int, num_experts: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_tokens, num_experts, generator=torch.Generator().manual_seed(seed))


def test_sequence_scope_is_the_mean_of_the_sequences_own_losses():
    logits = some_logits(12)
    whole = statistics_of(logits, 2, "topk_then_softmax", num_sequences=3)
    alone = [
        balance_loss(statistics_of(part, 2, "topk_then_softmax"), "micro")
        for part in logits.split(4)
    ]
    torch.testing.assert_close(balance_loss(whole, "sequence"), torch.stack(alone).mean())


def test_each_sequence_using_one_expert_is_even_over_the_batch_but_not_within_sequences():
    """Four sequences, each true to its own expert: the scopes' whole difference in one case."""
    logits = 30.0 * torch.eye(4).repeat_interleave(6, dim=0)
    statistics = statistics_of(logits, 1, "softmax_then_topk", num_sequences=4)
    assert balance_loss(statistics, "micro").item() == pytest.approx(1.0)
    assert balance_loss(statistics, "sequence").item() == pytest.approx(4.0)
    one = statistics_of(logits[:6], 1, "softmax_then_topk")
    assert balance_loss(one, "micro").item() == pytest.approx(4.0)
    batch_counts = torch.tensor([6, 6, 6, 6])
    assert balance_loss(one, "global", batch_counts).item() == pytest.approx(1.0)


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_global_scope_is_the_same_under_any_split_in_value_and_gradient(parts):
    logits = some_logits(24).requires_grad_(True)
    whole = statistics_of(logits, 2, "topk_then_softmax", num_sequences=6)
    expected = balance_loss(whole, "global")
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    pieces = [
        statistics_of(part, 2, "topk_then_softmax", num_sequences=6 // parts)
        for part in logits.split(24 // parts)
    ]
    counts = torch.stack([piece.expert_counts for piece in pieces]).sum(dim=0)
    found = torch.stack([balance_loss(piece, "global", counts) for piece in pieces]).mean()
    (gradient,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    micro = torch.stack([balance_loss(piece, "micro") for piece in pieces]).mean()
    assert micro.item() > found.item() + 0.01


def test_global_scope_of_one_micro_batch_is_micro():
    statistics = statistics_of(some_logits(20), 2, "topk_then_softmax", num_sequences=4)
    assert balance_loss(statistics, "global").item() == balance_loss(statistics, "micro").item()


@pytest.mark.parametrize("scope", ["micro", "sequence", "global"])
def test_padding_changes_no_loss(scope):
    """Tokens that are not counted might as well not be there, wherever they stand."""
    logits = some_logits(20)
    padded = torch.cat([logits[:10], some_logits(10, seed=1), logits[10:], some_logits(10, seed=2)])
    counted = torch.tensor([True] * 10 + [False] * 10).repeat(2)
    expected = statistics_of(logits, 2, "topk_then_softmax", num_sequences=2)
    found = statistics_of(padded, 2, "topk_then_softmax", 2, counted)
    torch.testing.assert_close(balance_loss(found, scope), balance_loss(expected, scope))
    torch.testing.assert_close(z_loss(found), z_loss(expected))
    assert found.expert_counts.tolist() == expected.expert_counts.tolist()


def test_a_sequence_of_padding_alone_is_left_out_of_the_sequence_scope():
    logits = some_logits(10)
    counted = torch.tensor([True] * 5 + [False] * 5)
    found = statistics_of(logits, 2, "topk_then_softmax", 2, counted)
    expected = statistics_of(logits[:5], 2, "topk_then_softmax")
    torch.testing.assert_close(balance_loss(found, "sequence"), balance_loss(expected, "micro"))


def test_an_unknown_scope_is_refused():
    statistics = statistics_of(some_logits(4), 2, "topk_then_softmax")
    with pytest.raises(ValueError, match="scope='batch' must be one of micro, sequence, global"):
        balance_loss.__wrapped__(statistics, "batch")
