"""Candidates with their tokens, predictions and draws; which is best, and what to run next."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from isoflop.analysis.recommend.candidates import Candidate
from isoflop.analysis.recommend.runs import Runs, Settings
from isoflop.analysis.recommend.speed import Speed

REACH = 10.0
"""How many times beyond the range of the table a setting may lie to be predicted at all. Chosen: a
factor of ten is what scaling studies extrapolate and what their authors then check."""

SECONDS_PER_HOUR = 3600.0

TRAIN_BYTES_PER_PARAM = 16.0
"""float32 weights, gradients and AdamW's two moments; activations come on top (design.estimate)."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One figure of one choice."""

    column: str
    value: float
    low: float
    """Of the 95% interval of the mean over runs."""
    high: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A model with its tokens."""

    name: str
    measured: bool
    """Whether a cell of this shape was run (with other tokens perhaps)."""
    num_layers: int | None
    d_model: int | None
    d_expert: int | None
    num_experts: int
    top_k: int
    total_params: int
    active_params: int
    tokens: float
    flops: float
    device_hours: float | None
    serve_bytes: float
    train_bytes: float
    predictions: tuple[Prediction, ...]
    weighted: float
    """Weighted mean of the figures."""
    weighted_low: float
    weighted_high: float
    extrapolated: tuple[str, ...]
    """What lies beyond the table, in words; () where nothing does."""
    at_ends: tuple[str, ...]
    """Settings in which it is the first or last that could be chosen: better ones may lie beyond."""


@dataclass
class Scored:
    """A candidate while it is compared."""

    model: Candidate
    tokens: float
    extrapolated: tuple[str, ...]
    figures: list[tuple[str, float, np.ndarray]] = field(default_factory=list)
    mean: float = 0.0
    draws: np.ndarray = field(default_factory=lambda: np.zeros(0))
    better: str = "lower"
    at_ends: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, model: Candidate, tokens: float, learnt: Sequence[Runs]) -> "Scored | None":
        """A candidate within reach of the runs of every figure; None beyond those of any."""
        settings = _settings(model, tokens)
        beyond: dict[str, None] = {}
        for runs in learnt:
            for name, value in settings.items():
                if name not in runs.settings:
                    continue
                low, high = float(runs.settings[name].min()), float(runs.settings[name].max())
                if name not in runs.varying:
                    if abs(value / low - 1) > 0.05:
                        return None
                    continue
                if value > high * REACH or value < low / REACH:
                    return None
                if value > high * 1.001:
                    beyond[f"{name} {value / high:.3g} times the largest that was run"] = None
                if value < low * 0.999:
                    beyond[f"{name} {low / value:.3g} times below the smallest that was run"] = None
        return cls(model=model, tokens=tokens, extrapolated=tuple(beyond))

    def add(
        self,
        figures: list[tuple[str, float, np.ndarray]],
        share: Float[np.ndarray, " tasks"],
        better: str,
    ) -> None:
        """Set predictions: column, value and draws of each task, weighted by `share`."""
        self.figures = figures
        self.mean = float(sum(w * value for w, (_, value, _) in zip(share, figures, strict=True)))
        self.draws = np.asarray(
            sum(w * draws for w, (_, _, draws) in zip(share, figures, strict=True))
        )
        self.better = better

    def same_model(self, other: "Scored") -> bool:
        """Whether both are one shape."""
        first, second = self.model, other.model
        return (first.total_params, first.active_params, first.top_k) == (
            second.total_params,
            second.active_params,
            second.top_k,
        )

    def beats(self, other: "Scored") -> float:
        """Share of the draws in which this one is better."""
        gain = other.draws - self.draws if self.better == "lower" else self.draws - other.draws
        return float((gain > 0).mean())

    def choice(self, speed: Speed | None, serve_bytes_per_param: float) -> Choice:
        """The candidate as a result."""
        model = self.model
        low, high = np.quantile(self.draws, [0.025, 0.975])
        seconds = None if speed is None else speed.seconds_per_token(model) * self.tokens
        return Choice(
            name=model.name,
            measured=model.measured,
            num_layers=model.num_layers,
            d_model=model.d_model,
            d_expert=model.d_expert,
            num_experts=model.num_experts,
            top_k=model.top_k,
            total_params=model.total_params,
            active_params=model.active_params,
            tokens=self.tokens,
            flops=self.tokens * model.flops_per_token,
            device_hours=None if seconds is None else seconds / SECONDS_PER_HOUR,
            serve_bytes=model.total_params * serve_bytes_per_param,
            train_bytes=model.total_params * TRAIN_BYTES_PER_PARAM,
            predictions=tuple(
                Prediction(
                    column=column,
                    value=value,
                    low=float(np.quantile(draws, 0.025)),
                    high=float(np.quantile(draws, 0.975)),
                )
                for column, value, draws in self.figures
            ),
            weighted=self.mean,
            weighted_low=float(low),
            weighted_high=float(high),
            extrapolated=self.extrapolated,
            at_ends=tuple(self.at_ends),
        )


def mark_ends(scored: list[Scored]) -> None:
    """Note on each candidate the settings in which it is the first or last offered."""
    for name in ("active_params", "expansion"):
        offered = sorted({_settings(one.model, one.tokens)[name] for one in scored})
        for one in scored:
            value = _settings(one.model, one.tokens)[name]
            if len(offered) > 1 and value in (offered[0], offered[-1]):
                end = "smallest" if value == offered[0] else "largest"
                one.at_ends.append(f"{name} {value:.4g} is the {end} offered")


def order(scored: list[Scored]) -> list[Scored]:
    """Best first; of equal ones the smaller."""
    return sorted(
        scored,
        key=lambda one: (
            one.mean if one.better == "lower" else -one.mean,
            one.model.total_params,
            not one.model.measured,
        ),
    )


def tokens_of(
    model: Candidate,
    flops: float | None,
    device_hours: float | None,
    speed: Speed | None,
    fixed_tokens: float | None,
) -> float | None:
    """Tokens that the budget pays for; None where it pays for none, or for fewer than are fixed."""
    if flops is not None:
        tokens = flops / model.flops_per_token
    elif device_hours is not None and speed is not None:
        tokens = device_hours * SECONDS_PER_HOUR / speed.seconds_per_token(model)
    else:
        return None
    if fixed_tokens is not None:
        return fixed_tokens if tokens >= 0.999 * fixed_tokens else None
    return tokens if tokens >= 1 else None


def settings_of(sized: list[tuple[Candidate, float]], learnt: Sequence[Runs]) -> Settings:
    """The features of candidates, as the surrogates read them."""
    lines = [_settings(model, tokens) for model, tokens in sized]
    names = dict.fromkeys(name for runs in learnt for name in runs.settings)
    return {name: np.array([line[name] for line in lines]) for name in names}


def _settings(model: Candidate, tokens: float) -> dict[str, float]:
    return {
        "active_params": float(model.active_params),
        "expansion": model.expansion,
        "tokens": tokens,
        "top_k": float(model.top_k),
    }
