"""The method by hand and by its laws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoflop.config import UserError
from isoflop.posttrain.config import GrpoConfig, ProblemSource
from isoflop.posttrain.grpo import (
    MAX_DIVERGENCE,
    aggregate,
    clip_by_norm,
    clipped_objective,
    divergence,
    group_advantages,
)
from isoflop.posttrain.settings import MAX_REWARD

REWARDS = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 1.0, -2.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=4,
)


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    found = group_advantages(rewards)
    deviation = math.sqrt((0.8**2 + 4 * 0.2**2) / 4)
    torch.testing.assert_close(found[0, 0].item(), 0.8 / (deviation + 1e-6))
    torch.testing.assert_close(found[0, 1].item(), -0.2 / (deviation + 1e-6))
    assert found[1].tolist() == [0.0] * 5
    assert group_advantages(rewards, scale="none")[0].tolist() == pytest.approx([0.8] + [-0.2] * 4)


@given(REWARDS, st.sampled_from(["group_std", "none"]))
def test_advantages_sum_to_nothing_ignore_a_shift_and_are_zero_where_all_are_equal(rewards, scale):
    table = torch.tensor(rewards, dtype=torch.float64)
    found = group_advantages(table, scale=scale)
    torch.testing.assert_close(found.sum(dim=1), torch.zeros(len(table), dtype=torch.float64))
    shifted = group_advantages(table + 8.0, scale=scale)
    torch.testing.assert_close(shifted, found, rtol=1e-6, atol=1e-9)
    for row, advantages in zip(rewards, found, strict=True):
        if len(set(row)) == 1:
            assert advantages.tolist() == [0.0] * 4
    if scale == "group_std":
        scaled = group_advantages(table * 5.0, scale=scale)
        torch.testing.assert_close(scaled, found, rtol=1e-4, atol=1e-4)


def test_equal_rewards_that_no_float_holds_exactly_have_no_advantage():
    """The mean of three times 0.1 is not 0.1: divided by a deviation of nearly 0 it would be large."""
    found = group_advantages(torch.full((2, 3), 0.1))
    assert not found.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300, -1e16])
def test_a_reward_that_is_no_number_or_beyond_the_bound_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        group_advantages(torch.tensor([[0.0, bad]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_rewards_still_have_advantages(dtype):
    """Beyond the bound the deviation overflows and every advantage is 0."""
    rewards = torch.tensor([[MAX_REWARD, -MAX_REWARD]], dtype=dtype)
    found = group_advantages(rewards).float()[0].tolist()
    assert found == pytest.approx([0.5**0.5, -(0.5**0.5)])
    assert group_advantages(rewards, scale="none").float().isfinite().all()


def test_the_clip_holds_gradients_back_only_where_the_ratio_went_too_far_its_way():
    new = torch.log(torch.tensor([[1.5, 1.1, 0.5, 0.9]])).requires_grad_()
    old = torch.zeros(1, 4)
    for advantage, expected_held in (
        (1.0, [True, False, False, False]),
        (-1.0, [False, False, True, False]),
    ):
        loss, held = clipped_objective(
            new, old, torch.tensor([advantage]), clip_low=0.2, clip_high=0.2
        )
        assert held.tolist() == [expected_held]
        (gradient,) = torch.autograd.grad(loss.sum(), new)
        assert (gradient == 0).tolist() == [expected_held]
        ratio = new.detach().exp()
        bounded = ratio.clamp(0.8, 1.2)
        expected = -torch.minimum(ratio * advantage, bounded * advantage)
        torch.testing.assert_close(loss.detach(), expected)


def test_two_bounds_of_the_clip():
    new = torch.log(torch.tensor([[1.25, 0.75]]))
    for high, low, held in ((0.3, 0.3, [False, False]), (0.2, 0.3, [True, False])):
        _, found = clipped_objective(
            new, torch.zeros(1, 2), torch.tensor([1.0]), clip_low=low, clip_high=high
        )
        assert found.tolist() == [held]


def test_at_ratio_one_the_gradient_is_the_policy_gradient():
    log_probs = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    loss, held = clipped_objective(
        log_probs, log_probs.detach(), torch.tensor([2.0, -1.0]), clip_low=0.2, clip_high=0.2
    )
    assert not held.any()
    (gradient,) = torch.autograd.grad(loss.sum(), log_probs)
    assert gradient.tolist() == [[-2.0, -2.0], [1.0, 1.0]]


def test_estimators_agree_with_the_divergence_in_expectation():
    """k1 and k3 are unbiased: averaged over the policy's own tokens they are the exact divergence."""
    source = torch.Generator().manual_seed(0)
    p = (0.5 * torch.randn(50, generator=source, dtype=torch.float64)).log_softmax(dim=0)
    q = (0.5 * torch.randn(50, generator=source, dtype=torch.float64)).log_softmax(dim=0)
    exact = (p.exp() * (p - q)).sum()
    for name in ("k1", "k3"):
        estimates = divergence(p[None], q[None], name)[0]
        torch.testing.assert_close((p.exp() * estimates).sum(), exact)
    assert (divergence(p[None], q[None], "k3") >= 0).all()
    assert (divergence(p[None], q[None], "k2") >= 0).all()
    near = p + 1e-3 * torch.randn(50, generator=source, dtype=torch.float64)
    near = near.log_softmax(dim=0)
    small = (p.exp() * (p - near)).sum().item()
    k2 = (p.exp() * divergence(p[None], near[None], "k2")[0]).sum().item()
    assert k2 == pytest.approx(small, rel=0.01)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_weighed_by_the_ratio_the_divergence_and_its_gradient_are_exact_for_any_old_policy(
    estimator,
):
    """Over tokens of another policy; unweighed neither is."""
    source = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 12, dtype=torch.float64, generator=source)
    old, reference = logits[0].log_softmax(-1), logits[1].log_softmax(-1)

    def value_and_gradient(of):
        weights = logits[2].clone().requires_grad_()
        value = of(weights.log_softmax(-1))
        (gradient,) = torch.autograd.grad(value, weights)
        return value.item(), gradient

    exact = value_and_gradient(lambda p: (p.exp() * (p - reference)).sum())

    def expected(p, weighed):
        estimates = divergence(
            p[None], reference[None], estimator, old_log_probs=old[None] if weighed else None
        )
        return (old.exp() * estimates[0]).sum()

    found = value_and_gradient(lambda p: expected(p, True))
    assert found[0] == pytest.approx(exact[0], rel=1e-12)
    torch.testing.assert_close(found[1], exact[1])
    plain = value_and_gradient(lambda p: expected(p, False))
    assert abs(plain[0] - exact[0]) > 0.01
    assert (plain[1] - exact[1]).norm() > 0.01


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_equal_policies_have_no_divergence_and_no_gradient_of_it(estimator):
    log_probs = torch.tensor([[-1.0, -2.5]], requires_grad=True)
    found = divergence(log_probs, log_probs.detach(), estimator)
    assert found.tolist() == [[0.0, 0.0]]
    (gradient,) = torch.autograd.grad(found.sum(), log_probs)
    # k1's own gradient has mean zero only over samples.
    assert gradient.tolist() == ([[1.0, 1.0]] if estimator == "k1" else [[0.0, 0.0]])


def test_k3_is_bounded():
    found = divergence(torch.tensor([[-50.0]]), torch.tensor([[-1.0]]), "k3")
    assert found.item() == MAX_DIVERGENCE


@given(st.data(), st.sampled_from(["token_mean", "sequence_mean", "constant"]))
def test_parts_of_a_batch_add_up_to_the_whole(data, how):
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=6))
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    values = torch.randn(len(lengths), 5, generator=torch.Generator().manual_seed(0))
    whole = {"num_tokens": sum(lengths), "num_sequences": len(lengths), "max_tokens": 7}
    cut = data.draw(st.integers(1, len(lengths) - 1))
    together = aggregate(values, mask, how, **whole)
    apart = sum(
        aggregate(values[rows], mask[rows], how, **whole) for rows in (slice(cut), slice(cut, None))
    )
    torch.testing.assert_close(together, apart)
    garbage = torch.where(mask, values, math.nan)
    torch.testing.assert_close(aggregate(garbage, mask, how, **whole), together)
    slow = [row[: lengths[place]] for place, row in enumerate(values)]
    expected = {
        "token_mean": torch.cat(slow).mean(),
        "sequence_mean": torch.stack([row.mean() for row in slow]).mean(),
        "constant": torch.cat(slow).sum() / (7 * len(lengths)),
    }
    torch.testing.assert_close(together, expected[how])


def test_clipping_by_the_l2_norm_and_what_clipping_the_l1_norm_after_it_does():
    def gradients() -> list[torch.Tensor]:
        return [torch.tensor([3.0, 0.0]), torch.tensor([[-4.0]])]

    kept = gradients()
    assert clip_by_norm(kept, max_l2_norm=10.0, max_l1_norm=None) == (5.0, 7.0)
    assert kept[0].tolist() == [3.0, 0.0]
    halved = gradients()
    assert clip_by_norm(halved, max_l2_norm=2.5, max_l1_norm=None) == (5.0, 7.0)
    assert halved[1].item() == pytest.approx(-2.0, rel=1e-5)
    both = gradients()
    clip_by_norm(both, max_l2_norm=1.0, max_l1_norm=1.0)
    l1 = sum(one.abs().sum().item() for one in both)
    assert l1 == pytest.approx(1.0, rel=1e-5)
    # With more weights of the same size the L2 norm stays 1 and the L1 norm grows: updates shrink.
    for number in (100, 10_000):
        many = [torch.full((number,), 1.0)]
        clip_by_norm(many, max_l2_norm=1.0, max_l1_norm=1.0)
        assert many[0].abs().mean().item() == pytest.approx(1 / number, rel=1e-4)


@pytest.mark.parametrize("apart", [100.0, -100.0, 1e4, -1e4])
def test_probabilities_far_apart_leave_finite_losses_and_gradients(apart):
    new = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    old = torch.full((1, 2), -1.0 - apart)
    for advantage in (0.0, 1.0, -1.0):
        loss, _ = clipped_objective(
            new, old, torch.tensor([advantage]), clip_low=0.2, clip_high=0.2
        )
        (gradient,) = torch.autograd.grad(loss.sum(), new)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()
    for estimator in ("k1", "k2", "k3"):
        for sampled in (None, old, -old):
            estimate = divergence(new, old, estimator, old_log_probs=sampled)
            (gradient,) = torch.autograd.grad(estimate.sum(), new)
            assert estimate.isfinite().all()
            assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": "mean"},
        {"advantage_scale": "std"},
        {"divergence": "k4"},
        {"old_log_probs": "samplr"},
        {"reward": "foo"},
        {"beta1": 1.5},
        {"temperature": math.nan},
        {"learning_rate": math.inf},
        {"program_seconds": 0.0},
        {"program_seconds": 1e5},
    ],
)
def test_settings_that_mean_nothing_are_refused(changes):
    config = GrpoConfig(train=ProblemSource(task="probes"))
    # Past the tests' own check of types, which a user's process does not have.
    ((name, value),) = changes.items()
    object.__setattr__(config, name, value)
    with pytest.raises(UserError, match=name):
        config.__post_init__()
