"""A law is judged while PyTorch adds in one order; what was set before is set again."""

import dataclasses

import pytest
import torch

from fakes_doctor import ours
from isoflop.doctor.law import Measurement, judge
from isoflop.doctor.laws import LAWS


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_law_is_judged_under_deterministic_algorithms(error):
    modes = []

    def check(subject, seed):
        modes.append(torch.are_deterministic_algorithms_enabled())
        if error is not None:
            raise error("of the model")
        return Measurement(value=0.0, expected=0.0)

    row = judge(dataclasses.replace(LAWS[0], check=check), ours(), 0)
    assert row.verdict == ("pass" if error is None else "error")
    assert modes == [True]
    assert not torch.are_deterministic_algorithms_enabled()
