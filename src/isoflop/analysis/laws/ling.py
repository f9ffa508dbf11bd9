"""Ling team 2025 ("Towards Greater Leverage"): efficiency leverage of a Mixture of Experts
(arXiv:2507.17702).

    EL(A, G, C) = Â^(alpha + gamma g^2 + beta g)      alpha = a + d log10 C,  g = log2 G
    1/Â = 1 / (A + 1/(1/A_start - 1/A_max)) + 1/A_max

Efficiency leverage is the compute of the dense model of equal loss / the compute of this one. A is
the activation ratio (density), G the granularity, C the training FLOPs.

Our facts do not state the bases of the logarithms. Of 2, e and 10 for each of the two, log10 of C and
log2 of G alone come near both published results, a best granularity of 8 to 12 (2^(-beta / 2 gamma) =
11.3; 33 with ln, 3,200 with log10) and a leverage of about 7 at C = 1e22, A = 3.1%, G = 12 (7.2; above
4,000 with another base of C). Other readings of the printed formula were not tried: the bases are
inferred, not verified.
"""

import numpy as np
from jaxtyping import Float

from isoflop.analysis.laws.law import (
    Basis,
    Exponent,
    Exponents,
    Input,
    Inputs,
    Law,
    Published,
    Term,
)

Points = Float[np.ndarray, " points"]

PUBLISHED = {
    **{"a": 1.23, "d": -7.61e-2, "gamma": 1.67e-2, "beta": -1.17e-1},
    **{"A_start": 1.63e-2, "A_max": 5.28e16},
}


def ling_leverage(
    activation: Points,
    granularity: Points,
    flops: Points,
    *,
    coefficients: dict[str, float] = PUBLISHED,
) -> Points:
    """Efficiency leverage; above 1 the sparse model needs less compute than a dense one.

    >>> found = ling_leverage(np.array([0.031]), np.array([12.0]), np.array([1e22]))
    >>> round(float(found[0]), 1)
    7.2
    """
    at = coefficients
    inner = 1 / (1 / at["A_start"] - 1 / at["A_max"])
    ratio = 1 / (1 / (activation + inner) + 1 / at["A_max"])
    fine = np.log2(granularity)
    slope = at["a"] + at["d"] * np.log10(flops)
    found: Points = ratio ** (slope + at["gamma"] * fine**2 + at["beta"] * fine)
    return found


def ling_best_granularity(coefficients: dict[str, float] = PUBLISHED) -> float:
    """Granularity of the greatest leverage, whatever A and C.

    >>> round(ling_best_granularity(), 1)
    11.3
    """
    return float(2 ** (-coefficients["beta"] / (2 * coefficients["gamma"])))


def _basis(inputs: Inputs, exponents: Exponents) -> Basis:
    # A_max is so far above any ratio that it only ever adds 0; it is kept in the published function.
    ratio = np.log(inputs["A"][None, :] + exponents[:, :1])
    fine = np.log2(inputs["G"])[None, :]
    terms = [ratio, ratio * np.log10(inputs["C"])[None, :], ratio * fine**2, ratio * fine]
    return np.stack(terms, axis=-1)


def _to_linear(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name != "A_max"}


LING = Law(
    name="ling",
    title="Ling team 2025 (efficiency leverage)",
    source="arXiv:2507.17702",
    formula="EL = A^^(a + d log10 C + gamma (log2 G)^2 + beta log2 G), A^ = A + A_start",
    inputs=(
        Input(name="A", column="density", meaning="activation ratio k/E"),
        Input(name="G", column="granularity", meaning="dense width / expert width"),
        Input(name="C", column="train_flops", meaning="training FLOPs"),
    ),
    exponents=(Exponent(name="A_start", low=1e-4, high=0.5),),
    terms=tuple(Term(name=name, positive=False) for name in ("a", "d", "gamma", "beta")),
    basis=_basis,
    link="log",
    response="efficiency_leverage",
    to_linear=_to_linear,
    published={"ling": Published(source="arXiv:2507.17702", values=PUBLISHED)},
    caution="The bases of the logarithms are inferred from its worked example.",
)
