"""Which further runs would tell most between the best choice and the runner-up."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from isoflop.analysis.recommend.candidates import Candidate
from isoflop.analysis.recommend.choose import Scored, settings_of
from isoflop.analysis.recommend.surrogate import Surrogate

NEXT_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class NextRun:
    """A run that would tell more."""

    name: str
    num_experts: int
    top_k: int
    total_params: int
    tokens: float
    flops: float
    share_settled: float
    """Share of the variance of (best less runner-up) that one such run would remove."""


def next_runs(
    best: Scored,
    second: Scored | None,
    models: tuple[Candidate, ...],
    surrogates: tuple[Surrogate, ...],
    weights: Float[np.ndarray, " tasks"],
) -> tuple[NextRun, ...]:
    """Runs of the table's own size that would settle best against runner-up the most.

    One run's figure u and the difference d of the two choices vary together over the draws; seeing
    u once removes cov(d, u)^2 / (var(u) + noise^2) of d's variance.
    """
    if second is None:
        return ()
    learnt = [surrogate.runs for surrogate in surrogates]
    tokens = sorted({amount for runs in learnt for amount in runs.settings["tokens"].tolist()})
    chosen = [tokens[-1], tokens[len(tokens) // 2]] if len(tokens) > 1 else tokens
    sized = [
        (model, amount)
        for model in models
        for amount in dict.fromkeys(chosen)
        if Scored.of(model, amount, learnt) is not None
    ]
    if not sized:
        return ()
    share = weights / weights.sum()
    places = settings_of(sized, learnt)
    seen = np.zeros((len(best.draws), len(sized)))
    noise = np.zeros(len(sized))
    for weight, surrogate in zip(share, surrogates, strict=True):
        predicted = surrogate.predict(places)
        seen += weight * predicted.draws
        scale = 1.0 if surrogate.runs.is_share else predicted.mean
        noise += (weight * surrogate.noise * scale) ** 2
    gap = best.draws - second.draws
    total = float(gap.var())
    if total <= 0:
        return ()
    covariance = ((gap - gap.mean())[:, None] * (seen - seen.mean(axis=0))).mean(axis=0)
    return _most_telling(sized, covariance**2 / (seen.var(axis=0) + noise) / total)


def _most_telling(
    sized: list[tuple[Candidate, float]], settled: Float[np.ndarray, " runs"]
) -> tuple[NextRun, ...]:
    """The models that settle most, each with its better number of tokens."""
    found: list[NextRun] = []
    for place in np.argsort(-settled, kind="stable"):
        model, amount = sized[int(place)]
        if any(one.name == model.name for one in found):
            continue
        found.append(
            NextRun(
                name=model.name,
                num_experts=model.num_experts,
                top_k=model.top_k,
                total_params=model.total_params,
                tokens=amount,
                flops=amount * model.flops_per_token,
                share_settled=float(settled[place]),
            )
        )
        if len(found) == NEXT_RUNS:
            break
    return tuple(found)
