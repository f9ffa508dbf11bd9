"""Kaplan et al. 2020: loss from parameters and tokens, without a floor (arXiv:2001.08361).

    L(N, D) = [ (N_c / N)^(alpha_N / alpha_D) + D_c / D ]^alpha_D              eq. 1.5

N counts parameters without embeddings. Coefficients: Table 2 (the joint fit), and section 1.2 for
the two limits L(N) = (N_c / N)^0.076 with N_c = 8.8e13 and L(D) = (D_c / D)^0.095 with D_c = 5.4e13.
Worked example: doubling N at unlimited D multiplies the loss by 2^-0.076 = 0.95 (section 1.2).
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
    powers,
)

Points = Float[np.ndarray, " points"]

TABLE_2 = {"alpha_N": 0.076, "alpha_D": 0.103, "N_c": 6.4e13, "D_c": 1.8e13}


def kaplan_loss(
    parameters: Points,
    tokens: Points,
    *,
    alpha_N: float = TABLE_2["alpha_N"],  # noqa: N803 - the paper's letters
    alpha_D: float = TABLE_2["alpha_D"],  # noqa: N803
    N_c: float = TABLE_2["N_c"],  # noqa: N803
    D_c: float = TABLE_2["D_c"],  # noqa: N803
) -> Points:
    """Loss in nats a token (eq. 1.5); `parameters` without embeddings.

    >>> round(float(kaplan_loss(np.array([1.5e9]), np.array([23e9]))[0]), 2)
    2.31
    """
    inner = (N_c / parameters) ** (alpha_N / alpha_D) + D_c / tokens
    found: Points = inner**alpha_D
    return found


def _basis(inputs: Inputs, exponents: Exponents) -> Basis:
    n_term = powers(inputs["N"], -exponents[:, 0] / exponents[:, 1])
    d_term = np.broadcast_to(1 / inputs["D"], n_term.shape)
    return np.stack([n_term, d_term], axis=-1)


def _power(exponents: Exponents) -> Float[np.ndarray, " fits"]:
    return exponents[:, 1]


def _to_linear(values: dict[str, float]) -> dict[str, float]:
    scale = values["N_c"] ** (values["alpha_N"] / values["alpha_D"])
    return {**values, "N_c": scale}


def _from_linear(values: dict[str, float]) -> dict[str, float]:
    scale = values["N_c"] ** (values["alpha_D"] / values["alpha_N"])
    return {**values, "N_c": scale}


KAPLAN = Law(
    name="kaplan",
    title="Kaplan et al. 2020",
    source="arXiv:2001.08361, eq. 1.5 and Table 2",
    formula="L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D",
    inputs=(
        Input(
            name="N",
            column="active_params",
            meaning="parameters, in the paper without embeddings",
            valid=(768.0, 1.5e9),
        ),
        Input(name="D", column="tokens", meaning="training tokens", valid=(2.2e7, 2.3e10)),
    ),
    exponents=(
        Exponent(name="alpha_N", low=0.01, high=0.6),
        Exponent(name="alpha_D", low=0.01, high=0.6),
    ),
    terms=(Term(name="N_c"), Term(name="D_c")),
    basis=_basis,
    power=_power,
    to_linear=_to_linear,
    from_linear=_from_linear,
    published={"table 2": Published(source="arXiv:2001.08361, Table 2", values=TABLE_2)},
    caution="It has no irreducible loss, and its N leaves the embeddings out.",
)
