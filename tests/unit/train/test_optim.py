"""Laws of the schedule and of what decays."""

import itertools
import math

import pytest
import torch

from fakes import tiny_model, tiny_train
from isoflop.model.transformer import Transformer
from isoflop.train.optim import learning_rate, make_optimizer


def test_the_schedule_warms_up_in_a_line_and_ends_at_a_tenth():
    train = tiny_train(train_tokens=120 * 256, warmup_steps=20, peak_learning_rate=3.0)
    rates = [learning_rate(step, train) for step in range(1, 121)]
    assert rates[:20] == pytest.approx([3.0 * step / 20 for step in range(1, 21)])
    assert rates[69] == pytest.approx((3.0 + 0.3) / 2)  # Half of the way the cosine is at its mean.
    assert rates[-1] == pytest.approx(0.3)
    assert all(after < before for before, after in itertools.pairwise(rates[19:]))


def test_without_warm_up_the_first_step_is_already_on_the_cosine():
    train = tiny_train(warmup_steps=0, peak_learning_rate=1.0, final_learning_rate_share=0.0)
    assert learning_rate(1, train) == pytest.approx(0.5 * (1 + math.cos(math.pi / 20)))
    assert learning_rate(20, train) == pytest.approx(0.0)


def test_a_final_share_of_one_keeps_the_peak():
    train = tiny_train(final_learning_rate_share=1.0)
    assert {learning_rate(step, train) for step in range(4, 21)} == {train.peak_learning_rate}


def test_matrices_decay_and_norms_do_not():
    """With zero gradients AdamW does nothing but decay."""
    train = tiny_train(weight_decay=0.5)
    model = Transformer(tiny_model())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = make_optimizer(model, train)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shrunk = {
        name: torch.allclose(value, 0.95 * before[name]) for name, value in model.named_parameters()
    }
    kept = {name: torch.equal(value, before[name]) for name, value in model.named_parameters()}
    norms = {name for name in before if "norm" in name}
    assert {name for name, is_kept in kept.items() if is_kept} == norms
    assert {name for name, is_shrunk in shrunk.items() if is_shrunk} == set(before) - norms


def test_every_weight_is_optimised_once():
    model = Transformer(tiny_model(num_layers=2))
    groups = make_optimizer(model, tiny_train()).param_groups
    optimised = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(optimised) == sorted(id(parameter) for parameter in model.parameters())
