"""Means over items and their standard errors."""

import math
from collections.abc import Sequence


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and its standard error.

    No values have no mean; fewer than two have no standard error.

    >>> mean_and_error([2.0, 4.0])
    (3.0, 1.0)
    >>> mean_and_error([3.0]), mean_and_error([])
    ((3.0, None), (None, None))
    """
    count = len(values)
    if not count:
        return None, None
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def share_and_error(values: Sequence[float] | Sequence[bool]) -> tuple[float | None, float | None]:
    """Mean of values within 0 to 1 and its standard error, which is above 0 for all 0 and all 1 too.

    The error is that of the values with one 0 and one 1 added (Laplace's rule; Agresti and Coull
    1998, The American Statistician 52, 119, add two each): a score without scatter is known to
    about one item, not exactly. For values that are 0 or 1, shares of correct items, it is
    sqrt(p (1 - p) / (n + 2)) with p = (k + 1) / (n + 2).

    >>> share_and_error([True, False])
    (0.5, 0.25)
    >>> [round(value, 6) for value in share_and_error([0.5, 0.5])]
    [0.5, 0.176777]
    """
    count = len(values)
    if not count:
        return None, None
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    added = [*values, 0.0, 1.0]
    centre = math.fsum(added) / len(added)
    variance = math.fsum((value - centre) ** 2 for value in added) / len(added)
    return mean, math.sqrt(variance / len(added))
