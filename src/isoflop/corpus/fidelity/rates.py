"""Shares with their uncertainty."""

import math
from dataclasses import dataclass

NORMAL_95 = 1.959963984540054
"""Of a standard normal variable, 95% lie within this distance."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of a number of trials, with Wilson's 95% interval; None where there was no trial."""

    successes: int
    trials: int
    share: float | None
    low: float | None
    high: float | None


def wilson(successes: int, trials: int) -> Rate:
    """Wilson's score interval (1927), which stays within 0 and 1 and holds for few trials.

    >>> rate = wilson(8, 10)
    >>> round(rate.low, 3), round(rate.high, 3)
    (0.49, 0.943)
    """
    assert 0 <= successes <= trials
    if not trials:
        return Rate(successes=0, trials=0, share=None, low=None, high=None)
    share, square = successes / trials, NORMAL_95**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    spread = math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    half = NORMAL_95 * spread / (1 + square / trials)
    # Rounding may pass the share itself at its ends.
    low, high = max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))
    return Rate(successes=successes, trials=trials, share=share, low=low, high=high)
