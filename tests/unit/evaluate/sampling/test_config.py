"""Impossible ways to sample are refused with their value."""

import pytest

from isoflop.config import UserError
from isoflop.evaluate.sampling.config import Sampling


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be"),
        ({"temperature": -0.1}, "temperature=-0.1 must be"),
        ({"temperature": float("nan")}, "temperature=nan must be"),
        ({"temperature": float("inf")}, "temperature=inf must be"),
        ({"top_p": 0.0}, "top_p=0.0 must be"),
        ({"top_p": 1.1}, "top_p=1.1 must be"),
        ({"top_k": 0}, "top_k=0 must be"),
        ({"stop": ("a", "")}, "empty stop text"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Sampling(**{"max_new_tokens": 1, **changes})
