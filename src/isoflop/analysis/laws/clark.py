"""Clark et al. 2022: loss of routed models from the dense size and the number of experts
(arXiv:2202.01169).

    log10 L = a log10 N + b log10 Ê + c log10 N log10 Ê + d                    eq. 7
    1/Ê = 1 / (E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max                      eq. 6, saturation

N is the size of the dense model that a token passes, E the number of experts, one of which sees a
token. All runs read 130e9 tokens, so the law has no D. Coefficients for three ways of routing.

Where more experts stop helping, N = 10^(-b/c): 937e9 (S-BASE), 85e9 (RL-R), 83e9 (Hash) in the
paper; from the printed coefficients, whose c has two digits, 1e12, 3.2e10 and 2.2e11.
For k above 1 we read E as num_experts / top_k, which is our generalisation, not the paper's.
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
)

Points = Float[np.ndarray, " points"]

S_BASE = {
    **{"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104},
    **{"E_start": 1.847, "E_max": 314.478},
}
RL_R = {
    **{"a": -0.083, "b": -0.126, "c": 0.012, "d": 1.111},
    **{"E_start": 1.880, "E_max": 469.982},
}
HASH = {
    **{"a": -0.087, "b": -0.136, "c": 0.012, "d": 1.157},
    **{"E_start": 4.175, "E_max": 477.741},
}


def effective_experts(experts: Points, start: float, most: float) -> Points:
    """Ê: `start` at one expert, never above `most` (eq. 6).

    >>> effective_experts(np.array([1.0, 1e9]), 1.847, 314.478).round(3).tolist()
    [1.847, 314.478]
    """
    inner = 1 / (1 / start - 1 / most)
    found: Points = 1 / (1 / (experts - 1 + inner) + 1 / most)
    return found


def clark_loss(
    parameters: Points,
    experts: Points,
    *,
    a: float = S_BASE["a"],
    b: float = S_BASE["b"],
    c: float = S_BASE["c"],
    d: float = S_BASE["d"],
    E_start: float = S_BASE["E_start"],  # noqa: N803 - the paper's letters
    E_max: float = S_BASE["E_max"],  # noqa: N803
) -> Points:
    """Validation loss in nats a token after 130e9 tokens.

    >>> clark_loss(np.array([1.3e9, 1.3e9]), np.array([1.0, 512.0])).round(2).tolist()
    [2.24, 1.98]
    """
    size, logs = np.log10(parameters), np.log10(effective_experts(experts, E_start, E_max))
    found: Points = 10 ** (a * size + b * logs + c * size * logs + d)
    return found


def clark_cutoff(*, b: float, c: float) -> float:
    """Size of the dense model from which on more experts no longer lower the loss.

    >>> round(clark_cutoff(b=-0.108, c=0.009) / 1e9)
    1000
    """
    return float(10 ** (-b / c))


def _basis(inputs: Inputs, exponents: Exponents) -> Basis:
    start, most = exponents[:, :1], exponents[:, 1:2]
    inner = 1 / (1 / start - 1 / most)
    experts = inputs["E"][None, :]
    # Natural logarithms throughout: the link is one, and log10 L x ln 10 = ln L.
    logs = -np.log(1 / (experts - 1 + inner) + 1 / most)
    size = np.broadcast_to(np.log(inputs["N"]), logs.shape)
    terms = [size, logs, size * logs / np.log(10), np.log(10) * constant(exponents, inputs["N"])]
    return np.stack(terms, axis=-1)


CLARK = Law(
    name="clark",
    title="Clark et al. 2022 (routed)",
    source="arXiv:2202.01169, eq. 6 and 7",
    formula="log10 L = a log10 N + b log10 E^ + c log10 N log10 E^ + d",
    inputs=(
        Input(
            name="N",
            column="active_params",
            meaning="size of the dense model",
            valid=(1.5e7, 1.3e9),
        ),
        Input(
            name="E", column="expansion", meaning="experts / experts a token", valid=(1.0, 512.0)
        ),
    ),
    exponents=(
        Exponent(name="E_start", low=1.02, high=20.0),
        Exponent(name="E_max", low=25.0, high=5000.0),
    ),
    terms=tuple(Term(name=name, positive=False) for name in ("a", "b", "c", "d")),
    basis=_basis,
    link="log",
    published={
        "s-base": Published(source="arXiv:2202.01169, S-BASE", values=S_BASE),
        "rl-r": Published(source="arXiv:2202.01169, RL-R", values=RL_R),
        "hash": Published(source="arXiv:2202.01169, Hash", values=HASH),
    },
    caution="One expert a token, 130e9 tokens for every run; it has no D and no floor.",
)
