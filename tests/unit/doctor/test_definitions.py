"""The slow definitions against numbers made by hand."""

import math

import pytest
import torch

from isoflop.doctor import definitions
from isoflop.doctor.compare import differing, relative_difference, same_bits


def test_balance_loss_by_hand():
    """Shares 3/4 and 1/4, mean probabilities 0.7 and 0.3: 2 (0.525 + 0.075) = 1.2."""
    high, low = [math.log(0.9), math.log(0.1)], [math.log(0.1), math.log(0.9)]
    logits = torch.tensor([high, high, high, low])
    assert definitions.balance_loss(logits, 1) == pytest.approx(1.2)


def test_z_loss_by_hand():
    """logsumexp of (log 1, log 3) is log 4, of (0, 0) is log 2."""
    logits = torch.tensor([[math.log(1.0), math.log(3.0)], [0.0, 0.0]])
    expected = (math.log(4) ** 2 + math.log(2) ** 2) / 2
    assert definitions.z_loss(logits) == pytest.approx(expected)


def test_gate_weights_by_hand():
    logits = torch.tensor([[math.log(1.0), math.log(2.0), math.log(5.0)]])
    chosen = definitions.chosen_experts(logits, 2)
    assert chosen.tolist() == [[2, 1]]
    shares = definitions.gate_weights(logits, chosen, sum_to_one=False)
    assert shares.tolist()[0] == pytest.approx([5 / 8, 2 / 8])
    summed = definitions.gate_weights(logits, chosen, sum_to_one=True)
    assert summed.tolist()[0] == pytest.approx([5 / 7, 2 / 7])


def test_tensors_that_only_one_has_are_a_difference():
    one, two = {"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.ones(1)}
    assert differing(one, two) == differing(two, one) == ["b"]
    assert relative_difference(one, two) == pytest.approx(math.sqrt(1 / 3))
    assert math.isnan(relative_difference(one, {"a": torch.zeros(2)}))


def test_bits_are_compared_not_values():
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor([math.nan]), torch.tensor([math.nan]))
    assert not same_bits(torch.ones(2), torch.ones(2).double())
