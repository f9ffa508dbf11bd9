"""Krajewski et al. 2024: fine-grained experts (arXiv:2402.07871).

    L(N, D, G) = c + (g / G^gamma + a) / N^alpha + b / D^beta                  eq. 9

N are parameters, G is granularity: the dense feed-forward width / the width of one expert, so that
G times as many experts see a token. Coefficients for a Mixture of Experts of expansion 64 (root mean
square error 0.015) and for dense models (0.019; g = 0). That N leaves embeddings out and counts
all experts is how we read the paper; it is not verified here, nor is its saving of 20 times the
compute at 1e20 FLOP, which depends on its own count of FLOPs.
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
    constant,
    powers,
)

Points = Float[np.ndarray, " points"]

MOE = {
    **{"a": 18.1, "b": 30.8, "c": 0.47, "g": 2.1},
    **{"alpha": 0.115, "beta": 0.147, "gamma": 0.58},
}
DENSE = {
    **{"a": 16.3, "b": 26.7, "c": 0.47, "g": 0.0},
    **{"alpha": 0.126, "beta": 0.127, "gamma": 0.58},
}
"""gamma has no meaning where g = 0; it is the other set's."""


def krajewski_loss(
    parameters: Points,
    tokens: Points,
    granularity: Points,
    *,
    a: float = MOE["a"],
    b: float = MOE["b"],
    c: float = MOE["c"],
    g: float = MOE["g"],
    alpha: float = MOE["alpha"],
    beta: float = MOE["beta"],
    gamma: float = MOE["gamma"],
) -> Points:
    """Loss in nats a token.

    >>> one, sixteen = krajewski_loss(np.full(2, 1e9), np.full(2, 2e10), np.array([1.0, 16.0]))
    >>> round(float(one), 3), round(float(sixteen), 3)
    (3.276, 3.121)
    """
    size = (g / granularity**gamma + a) / parameters**alpha
    found: Points = c + size + b / tokens**beta
    return found


def _basis(inputs: Inputs, exponents: Exponents) -> Basis:
    size = powers(inputs["N"], -exponents[:, 0])
    terms = [
        size,
        powers(inputs["D"], -exponents[:, 1]),
        constant(exponents, inputs["N"]),
        size * powers(inputs["G"], -exponents[:, 2]),
    ]
    return np.stack(terms, axis=-1)


KRAJEWSKI = Law(
    name="krajewski",
    title="Krajewski et al. 2024 (fine-grained)",
    source="arXiv:2402.07871, eq. 9",
    formula="L = c + (g/G^gamma + a)/N^alpha + b/D^beta",
    inputs=(
        Input(name="N", column="total_params", meaning="all parameters"),
        Input(name="D", column="tokens", meaning="training tokens"),
        Input(name="G", column="granularity", meaning="dense width / expert width"),
    ),
    exponents=(
        Exponent(name="alpha", low=0.02, high=1.0),
        Exponent(name="beta", low=0.02, high=1.0),
        Exponent(name="gamma", low=0.05, high=3.0),
    ),
    terms=(Term(name="a"), Term(name="b"), Term(name="c"), Term(name="g")),
    basis=_basis,
    published={
        "moe": Published(source="arXiv:2402.07871, Mixture of Experts of expansion 64", values=MOE),
        "dense": Published(source="arXiv:2402.07871, dense", values=DENSE),
    },
    caution="Published for an expansion of 64; how its N and FLOPs are counted is not verified here.",
)
