"""Ludziejewski et al. 2025: joint law of active parameters, experts and tokens (arXiv:2502.05172).

    L = a Ê^delta N^(alpha + gamma ln Ê) + b Ê^omega D^(beta + zeta ln Ê) + c
    1/Ê = 1 / (E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max

N are active parameters, embeddings included (2 d V + 13 L d^2 in the paper), E experts of which one
sees a token. For fixed E this is L = m N^mu + n D^nu + c; the paper prints m, mu, n, nu for
E = 1, 8, 32, which the tests compare. For k above 1 we read E as num_experts / top_k (ours).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isoflop.analysis.laws.clark import effective_experts
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
)

Points = Float[np.ndarray, " points"]

PUBLISHED = {
    **{"a": 35.91, "b": 35.98, "c": 1.3637},
    **{"alpha": -0.1889, "delta": -0.2285, "gamma": 0.0098},
    **{"beta": -0.1775, "omega": 0.5529, "zeta": -0.0259},
    **{"E_start": 2.0732, "E_max": 290.4521},
}


class Reduced(NamedTuple):
    """The law at one number of experts: L = m N^mu + n D^nu + c."""

    m: float
    mu: float
    n: float
    nu: float


def joint_loss(
    parameters: Points,
    tokens: Points,
    experts: Points,
    *,
    a: float = PUBLISHED["a"],
    b: float = PUBLISHED["b"],
    c: float = PUBLISHED["c"],
    alpha: float = PUBLISHED["alpha"],
    delta: float = PUBLISHED["delta"],
    gamma: float = PUBLISHED["gamma"],
    beta: float = PUBLISHED["beta"],
    omega: float = PUBLISHED["omega"],
    zeta: float = PUBLISHED["zeta"],
    E_start: float = PUBLISHED["E_start"],  # noqa: N803 - the paper's letters
    E_max: float = PUBLISHED["E_max"],  # noqa: N803
) -> Points:
    """Loss in nats a token.

    >>> dense, sparse = joint_loss(np.full(2, 1.1e9), np.full(2, 5e10), np.array([1.0, 32.0]))
    >>> round(float(dense), 3), round(float(sparse), 3)
    (2.481, 2.351)
    """
    count = effective_experts(experts, E_start, E_max)
    logs = np.log(count)
    size = a * count**delta * parameters ** (alpha + gamma * logs)
    found: Points = size + b * count**omega * tokens ** (beta + zeta * logs) + c
    return found


def joint_reduced(experts: float) -> Reduced:
    """The published law at one number of experts.

    >>> [round(value, 3) for value in joint_reduced(1.0)]
    [30.399, -0.182, 53.843, -0.196]
    """
    count = float(
        effective_experts(np.array([experts]), PUBLISHED["E_start"], PUBLISHED["E_max"])[0]
    )
    logs = float(np.log(count))
    return Reduced(
        m=PUBLISHED["a"] * count ** PUBLISHED["delta"],
        mu=PUBLISHED["alpha"] + PUBLISHED["gamma"] * logs,
        n=PUBLISHED["b"] * count ** PUBLISHED["omega"],
        nu=PUBLISHED["beta"] + PUBLISHED["zeta"] * logs,
    )


def _basis(inputs: Inputs, exponents: Exponents) -> Basis:
    alpha, delta, gamma, beta, omega, zeta, start, most = (
        exponents[:, place, None] for place in range(8)
    )
    inner = 1 / (1 / start - 1 / most)
    logs = -np.log(1 / (inputs["E"][None, :] - 1 + inner) + 1 / most)
    size, tokens = np.log(inputs["N"])[None, :], np.log(inputs["D"])[None, :]
    terms = [
        np.exp(delta * logs + (alpha + gamma * logs) * size),
        np.exp(omega * logs + (beta + zeta * logs) * tokens),
        constant(exponents, inputs["N"]),
    ]
    return np.stack(terms, axis=-1)


JOINT = Law(
    name="joint",
    title="Ludziejewski et al. 2025 (joint Mixture-of-Experts law)",
    source="arXiv:2502.05172",
    formula="L = a E^^delta N^(alpha + gamma ln E^) + b E^^omega D^(beta + zeta ln E^) + c",
    inputs=(
        Input(name="N", column="active_params", meaning="active parameters", valid=(7.9e7, 2.7e9)),
        Input(name="D", column="tokens", meaning="training tokens"),
        Input(name="E", column="expansion", meaning="experts / experts a token", valid=(1.0, 32.0)),
    ),
    exponents=(
        Exponent(name="alpha", low=-1.0, high=-0.02),
        Exponent(name="delta", low=-1.5, high=0.5),
        Exponent(name="gamma", low=-0.1, high=0.1),
        Exponent(name="beta", low=-1.0, high=-0.02),
        Exponent(name="omega", low=-1.0, high=2.0),
        Exponent(name="zeta", low=-0.15, high=0.1),
        Exponent(name="E_start", low=1.02, high=20.0),
        Exponent(name="E_max", low=25.0, high=5000.0),
    ),
    terms=(Term(name="a"), Term(name="b"), Term(name="c")),
    basis=_basis,
    published={"joint": Published(source="arXiv:2502.05172", values=PUBLISHED)},
    caution="One expert a token; eleven coefficients, of which few tables identify all.",
)
