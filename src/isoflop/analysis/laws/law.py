"""What a scaling law is: a formula with a source, ranges, published coefficients, and a form to fit.

Shapes in this file:
    points        runs that a law is evaluated at
    fits          sets of coefficients at once, e.g. the replicates of a bootstrap
    exponents     coefficients that enter non-linearly
    terms         terms whose coefficients enter linearly

Every law here is, for given exponents, linear in its other coefficients c:

    link "power"   prediction = (basis @ c) ^ power     power 1 unless the law has an own
    link "log"     log(prediction) = basis @ c
    link "plain"   prediction = basis @ c               for shares, whose errors are not relative

The first two are fitted to the logarithm of what was measured, the last to the measured figure
itself: that is the law's scale. This form is what variable projection needs (Golub and Pereyra
1973, SIAM Journal on Numerical Analysis 10, 413).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from isoflop.config import UserError

Inputs = Mapping[str, Float[np.ndarray, " points"]]
Exponents = Float[np.ndarray, "fits exponents"]
Basis = Float[np.ndarray, "fits points terms"]
Link = Literal["power", "log", "plain"]


SMALLEST = 1e-300
"""Stands for numbers that have no logarithm while it is taken of the others."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One set of coefficients as a paper gives them."""

    source: str
    values: dict[str, float]
    """All exponents and linear coefficients by name."""


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """A coefficient that enters non-linearly, and where fits look for it."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Term:
    """A linear coefficient."""

    name: str
    positive: bool = True
    """Whether it must be 0 or above."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """A variable of the law and the table's column that it is read from."""

    name: str
    column: str
    meaning: str
    valid: tuple[float, float] | None = None
    """Least and greatest value behind the published coefficients; None: not known here."""


def _power_one(exponents: Exponents) -> Float[np.ndarray, " fits"]:
    return np.ones(exponents.shape[0])


def _as_named(values: dict[str, float]) -> dict[str, float]:
    return values


@dataclass(frozen=True, kw_only=True)
class Law:
    """One law in the form that fits, overlays and predictions share."""

    name: str
    title: str
    source: str
    formula: str
    """The formula in words and letters, for a reader."""
    inputs: tuple[Input, ...]
    exponents: tuple[Exponent, ...]
    terms: tuple[Term, ...]
    basis: Callable[[Inputs, Exponents], Basis]
    published: dict[str, Published]
    """By name; the first is the default."""
    link: Link = "power"
    power: Callable[[Exponents], Float[np.ndarray, " fits"]] = _power_one
    response: Literal["loss", "accuracy", "efficiency_leverage"] = "loss"
    to_linear: Callable[[dict[str, float]], dict[str, float]] = field(default=_as_named)
    """From coefficients as published to those of `basis`, where they differ (Kaplan's N_c, D_c)."""
    from_linear: Callable[[dict[str, float]], dict[str, float]] = field(default=_as_named)
    """The inverse of `to_linear`."""
    caution: str = ""
    """What a reader must know before believing it."""

    @property
    def coefficient_names(self) -> tuple[str, ...]:
        """Names of all coefficients, linear ones first."""
        terms = tuple(term.name for term in self.terms)
        return (*terms, *(exponent.name for exponent in self.exponents))

    def predict(self, inputs: Inputs, values: Mapping[str, float]) -> Float[np.ndarray, " points"]:
        """The law's response at `inputs` for coefficients as published."""
        linear = self.to_linear(dict(values))
        exponents = np.array([[linear[exponent.name] for exponent in self.exponents]])
        coefficients = np.array([[linear[term.name] for term in self.terms]])
        fitted = self.on_scale(self.basis(inputs, exponents), coefficients, exponents)[0]
        return self.off_scale(fitted)

    def on_scale(
        self,
        basis: Basis,
        coefficients: Float[np.ndarray, "fits terms"],
        exponents: Exponents,
    ) -> Float[np.ndarray, "fits points"]:
        """The prediction on the scale of the fit; -inf where its logarithm does not exist."""
        plain: Float[np.ndarray, "fits points"] = np.matmul(basis, coefficients[:, :, None])[
            :, :, 0
        ]
        if self.link != "power":
            return plain
        logs = np.where(plain > 0, np.log(np.maximum(plain, SMALLEST)), -np.inf)
        found: Float[np.ndarray, "fits points"] = self.power(exponents)[:, None] * logs
        return found

    def to_scale(self, response: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        """What was measured, on the scale of the fit."""
        return response if self.link == "plain" else np.log(response)

    def off_scale(self, fitted: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        """From the scale of the fit back to the response."""
        return fitted if self.link == "plain" else np.exp(fitted)

    def outside(self, inputs: Inputs) -> tuple[str, ...]:
        """Which inputs lie outside the range behind the published coefficients, in words."""
        found = []
        for given in self.inputs:
            values = inputs[given.name]
            if given.valid is None or not values.size:
                continue
            low, high = given.valid
            if values.min() < low or values.max() > high:
                found.append(
                    f"{given.name} {values.min():.3g} to {values.max():.3g} "
                    f"(published for {low:.3g} to {high:.3g})"
                )
        return tuple(found)


def published_values(law: Law, name: str | None = None) -> Published:
    """The coefficients `name`, or the law's default ones.

    Raises:
        UserError: no such set.
    """
    if name is None:
        return next(iter(law.published.values()))
    if name not in law.published:
        raise UserError(f"{law.name}: no coefficients {name!r}; it has {', '.join(law.published)}")
    return law.published[name]


def powers(
    base: Float[np.ndarray, " points"], exponents: Float[np.ndarray, " fits"]
) -> Float[np.ndarray, "fits points"]:
    """base ^ exponent for every pair; base must be above 0."""
    found: Float[np.ndarray, "fits points"] = np.exp(exponents[:, None] * np.log(base)[None, :])
    return found


def constant(
    exponents: Exponents, base: Float[np.ndarray, " points"]
) -> Float[np.ndarray, "fits points"]:
    """The term of a coefficient that stands alone."""
    return np.ones((exponents.shape[0], base.shape[0]))
