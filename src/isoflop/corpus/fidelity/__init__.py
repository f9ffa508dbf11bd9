"""Did a rewriting keep the behaviour? What nobody else reports, measured by running both texts.

functions.py      which functions are the same before and after
arguments.py      typed, seeded arguments
inside.py         what runs in the sandbox
observations.py   same, different, or not comparable, with the reason
math.py           final answers and formulas of pages
"""

from isoflop.corpus.fidelity.code import LIMITS, Pair, compare_code
from isoflop.corpus.fidelity.join import join
from isoflop.corpus.fidelity.math import compare_page
from isoflop.corpus.fidelity.rates import Rate, wilson
from isoflop.corpus.fidelity.result import FidelityRow, FidelitySummary, summarise

__all__ = [
    "LIMITS",
    "FidelityRow",
    "FidelitySummary",
    "Pair",
    "Rate",
    "compare_code",
    "compare_page",
    "join",
    "summarise",
    "wilson",
]
