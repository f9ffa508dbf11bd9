"""The best fit from many starts, spread evenly over the bounds of a law's exponents."""

import numpy as np

from isoflop.analysis.fits.projection import Exponents, Held, Problem, Solution, project, solve
from isoflop.analysis.laws.law import SMALLEST, Law


def search(problem: Problem, starts: Exponents, *, keep: int, held: Held | None = None) -> Solution:
    """The best fit of one problem from many starts: all are projected, the best `keep` improved.

    `problem` holds one row; the solution too.
    """
    none = held or Held(exponents=np.zeros(starts.shape[1], dtype=bool))
    first = project(_repeat(problem, len(starts)), starts, none)
    best = np.argsort(first.cost, kind="stable")[:keep]
    found = solve(_repeat(problem, len(best)), starts[best], held)
    return found.take(np.array([found.best()]))


def _repeat(problem: Problem, times: int) -> Problem:
    return problem.take(np.zeros(times, dtype=int))


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
