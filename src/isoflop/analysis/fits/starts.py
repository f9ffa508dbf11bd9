"""Where the search for a law's exponents begins: spread evenly over their bounds."""

import numpy as np

from isoflop.analysis.laws.law import SMALLEST, Exponents, Law


def spread_starts(law: Law, number: int, more: tuple[dict[str, float], ...] = ()) -> Exponents:
    """Starts spread evenly over the bounds, by Halton's sequence, and those of `more`.

    Source: Halton 1960 (Numerische Mathematik 2, 84).
    """
    low = np.array([exponent.low for exponent in law.exponents])
    high = np.array([exponent.high for exponent in law.exponents])
    primes = (2, 3, 5, 7, 11, 13, 17, 19)[: len(low)]
    unit = np.array([[_radical_inverse(i + 1, prime) for prime in primes] for i in range(number)])
    # Ranges of several powers of ten are spread by their logarithm.
    wide = (low > 0) & (high / np.maximum(low, SMALLEST) > 50)
    even = low + unit * (high - low)
    safe = np.where(wide, low, 1.0)
    geometric = safe * (np.where(wide, high, 1.0) / safe) ** unit
    starts = np.where(wide, geometric, even)
    given = [[values[exponent.name] for exponent in law.exponents] for values in more]
    found: Exponents = np.concatenate([np.array(given), starts]) if given else starts
    return found


def _radical_inverse(index: int, base: int) -> float:
    result, part = 0.0, 1.0 / base
    while index:
        result += part * (index % base)
        index //= base
        part /= base
    return result
