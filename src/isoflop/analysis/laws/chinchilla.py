"""Hoffmann et al. 2022 ("Chinchilla"): loss from parameters and tokens (arXiv:2203.15556).

    L(N, D) = E + A / N^alpha + B / D^beta                                     eq. 2 and 10

Coefficients: Hoffmann et al., approach 3 (as printed, two digits of the exponents), and the refit of
Besiroglu et al. 2024 (arXiv:2404.10102), who found the printed ones to fit the paper's own figure
badly; its standard errors are E 0.03, A 125, B 1293, alpha 0.02, beta 0.02.

With C = 6 N D the loss is least at N = G (C/6)^a, D = (C/6)^b / G, a = beta / (alpha + beta),
b = alpha / (alpha + beta), G = (alpha A / (beta B))^(1 / (alpha + beta))                eq. 4
Worked example: 70e9 parameters on 1.4e12 tokens, below.
"""

from typing import NamedTuple

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

HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
BESIROGLU = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}

FLOPS_PER_PARAM_TOKEN = 6.0
"""C = 6 N D (Kaplan et al. 2020, section 2.1)."""


class Optimum(NamedTuple):
    """The cheapest way to a loss."""

    parameters: float
    tokens: float


def chinchilla_loss(
    parameters: Points,
    tokens: Points,
    *,
    E: float = HOFFMANN["E"],  # noqa: N803 - the paper's letters
    A: float = HOFFMANN["A"],  # noqa: N803
    B: float = HOFFMANN["B"],  # noqa: N803
    alpha: float = HOFFMANN["alpha"],
    beta: float = HOFFMANN["beta"],
) -> Points:
    """Loss in nats a token.

    >>> round(float(chinchilla_loss(np.array([70e9]), np.array([1.4e12]))[0]), 3)
    1.937
    """
    found: Points = E + A / parameters**alpha + B / tokens**beta
    return found


def chinchilla_optimum(
    flops: float,
    *,
    A: float = HOFFMANN["A"],  # noqa: N803
    B: float = HOFFMANN["B"],  # noqa: N803
    alpha: float = HOFFMANN["alpha"],
    beta: float = HOFFMANN["beta"],
) -> Optimum:
    """Parameters and tokens of least loss for a budget of `flops` = 6 N D (eq. 4).

    >>> best = chinchilla_optimum(5.76e23, **{k: v for k, v in BESIROGLU.items() if k != "E"})
    >>> round(best.tokens / best.parameters)
    18
    """
    scale = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    pairs = flops / FLOPS_PER_PARAM_TOKEN
    parameters = scale * pairs ** (beta / (alpha + beta))
    return Optimum(parameters=parameters, tokens=pairs / parameters)


def _basis(inputs: Inputs, exponents: Exponents) -> Basis:
    terms = [
        constant(exponents, inputs["N"]),
        powers(inputs["N"], -exponents[:, 0]),
        powers(inputs["D"], -exponents[:, 1]),
    ]
    return np.stack(terms, axis=-1)


CHINCHILLA = Law(
    name="chinchilla",
    title="Hoffmann et al. 2022 (Chinchilla)",
    source="arXiv:2203.15556, eq. 2 and 10",
    formula="L = E + A/N^alpha + B/D^beta",
    inputs=(
        Input(name="N", column="active_params", meaning="parameters", valid=(7e7, 1.6e10)),
        Input(name="D", column="tokens", meaning="training tokens", valid=(5e9, 5e11)),
    ),
    exponents=(
        Exponent(name="alpha", low=0.02, high=1.5),
        Exponent(name="beta", low=0.02, high=1.5),
    ),
    terms=(Term(name="E"), Term(name="A"), Term(name="B")),
    basis=_basis,
    published={
        "hoffmann": Published(source="arXiv:2203.15556, eq. 10", values=HOFFMANN),
        "besiroglu": Published(source="arXiv:2404.10102", values=BESIROGLU),
    },
    caution="Dense models; the two published sets disagree by more than their errors.",
)
