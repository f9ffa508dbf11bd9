"""What to train next: width, experts, k and tokens for a budget, with how sure that is.

Every candidate gets the tokens that the budget pays for; each task's figure is predicted there with
400 draws of its error; the weighted figures are added. The best mean is recommended. The draws say
how often it beats the runner-up, and which further runs would settle that most.

FLOP-optimal spends the FLOPs; wall-clock-optimal spends the hours that the FLOP-optimal model would
take at the measured speed, on whatever is best in that time.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from isoflop.analysis.laws.catalogue import law_column
from isoflop.analysis.recommend.candidates import Candidate, candidates
from isoflop.analysis.recommend.choose import (
    TRAIN_BYTES_PER_PARAM,
    Choice,
    Scored,
    mark_ends,
    order,
    settings_of,
    tokens_of,
)
from isoflop.analysis.recommend.columns import direction, task_column
from isoflop.analysis.recommend.next_runs import NextRun, next_runs
from isoflop.analysis.recommend.runs import FEATURES, Runs
from isoflop.analysis.recommend.speed import Speed, learn_speed
from isoflop.analysis.recommend.surrogate import Surrogate, learn
from isoflop.analysis.tables.columns import is_share
from isoflop.analysis.tables.run_table import RunTable
from isoflop.config import UserError


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    flops: float | None = None
    """Training FLOPs of the one run."""
    gpu_hours: float | None = None
    """Device-hours of the one run, at the table's measured speeds."""
    train_memory_bytes: float | None = None
    """Of all devices together: weights, gradients and optimiser must fit."""
    serve_memory_bytes: float | None = None
    """In which the weights must fit while serving."""
    serve_bytes_per_param: float = 2.0
    """bfloat16."""
    tasks: tuple[tuple[str, float], ...] = ()
    """Tasks or columns with their weights; () for the table's own loss."""

    def __post_init__(self) -> None:
        if (self.flops is None) == (self.gpu_hours is None):
            raise UserError("give a budget in FLOPs or in GPU-hours, one of the two")
        given = (self.flops, self.gpu_hours, self.train_memory_bytes, self.serve_memory_bytes)
        for value in (*given, self.serve_bytes_per_param):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"a budget of {value:g} must be above 0 and finite")
        for name, weight in self.tasks:
            if not 0 < weight < math.inf:
                raise UserError(
                    f"the weight of {name} is {weight:g}; it must be above 0 and finite"
                )


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The answer."""

    table: str
    request: Request
    better: str
    """"lower" (losses) or "higher" (accuracies)."""
    best: Choice
    runner_up: Choice | None
    beats_runner_up: float | None
    """Share of the draws in which the best is better than the runner-up."""
    wall_clock_best: Choice | None
    """Best within the hours of `best` at the measured speeds; None where no speeds are known. It
    is `best` itself where hours were asked."""
    flop_best: Choice
    """Best within the FLOPs of `best`; it is `best` itself where FLOPs were asked."""
    next_runs: tuple[NextRun, ...]
    surrogates: tuple[Surrogate, ...]
    speed: Speed | None
    num_candidates: int
    excluded: tuple[str, ...]
    """Why candidates were left out, with their number."""
    notes: tuple[str, ...]


def recommend(table: RunTable, request: Request) -> Recommendation:
    """The best candidate for the request.

    Raises:
        UserError: no such task, too few cells, no speeds where hours are asked, or nothing fits.
    """
    models, speed = _models_and_speed(table, request)
    named = [(task_column(table, name), weight) for name, weight in _tasks(table, request)]
    surrogates = tuple(learn(_runs(table, column)) for column, _ in named)
    weights = np.array([weight for _, weight in named])
    better = _common_direction([column for column, _ in named])
    fixed_tokens = _fixed_tokens([surrogate.runs for surrogate in surrogates])
    fitting, excluded = _fitting(models, request)
    sized = _sized(fitting, request.flops, request.gpu_hours, speed, fixed_tokens)
    scored = _score(sized, surrogates, weights, better, excluded)
    ranked = order(scored)

    def again(flops: float | None, hours: float | None) -> Choice | None:
        """The best for another budget; None where there is none to speak of."""
        if flops is None and (hours is None or speed is None):
            return None
        sized = _sized(fitting, flops, hours, speed, fixed_tokens)
        other = order(_score(sized, surrogates, weights, better, []))[0]
        return other.choice(speed, request.serve_bytes_per_param)

    best = ranked[0].choice(speed, request.serve_bytes_per_param)
    second = next((one for one in ranked[1:] if not one.same_model(ranked[0])), None)
    return Recommendation(
        table=table.name,
        request=request,
        better=better,
        best=best,
        runner_up=None if second is None else second.choice(speed, request.serve_bytes_per_param),
        beats_runner_up=None if second is None else ranked[0].beats(second),
        wall_clock_best=best if request.flops is None else again(None, best.device_hours),
        flop_best=best if request.flops is not None else again(best.flops, None) or best,
        next_runs=next_runs(ranked[0], second, models, surrogates, weights),
        surrogates=surrogates,
        speed=speed,
        num_candidates=len(scored),
        excluded=tuple(excluded),
        notes=(*table.notes, *_tokens_note(fixed_tokens)),
    )


def _models_and_speed(
    table: RunTable, request: Request
) -> tuple[tuple[Candidate, ...], Speed | None]:
    models = candidates(table)
    if not models:
        raise UserError(f"{table.name}: no cell with total_params, active_params and tokens")
    speed = learn_speed(table, models)
    if request.gpu_hours is not None and speed is None:
        raise UserError(
            f"{table.name}: a budget in GPU-hours needs tokens_per_second for at least three cells; "
            "give FLOPs instead, or add the column"
        )
    return models, speed


def _tokens_note(fixed_tokens: float | None) -> tuple[str, ...]:
    if fixed_tokens is None:
        return ()
    return (
        f"every run read {fixed_tokens:.4g} tokens, so nothing is known of other numbers: tokens "
        "are held there, whatever the budget pays for. Train some cells on more tokens",
    )


def _tasks(table: RunTable, request: Request) -> tuple[tuple[str, float], ...]:
    if request.tasks:
        return request.tasks
    for name in table.losses:
        return ((name, 1.0),)
    raise UserError(f"{table.name}: no loss to recommend by; name a task with --task NAME=WEIGHT")


def _common_direction(columns: list[str]) -> str:
    """Losses are lowered, accuracies raised; a sum of both has no meaning.

    Raises:
        UserError: both, or a figure without a direction.
    """
    found = sorted({direction(column) for column in columns})
    if len(found) > 1:
        raise UserError(
            f"{', '.join(columns)}: figures that improve upwards and downwards cannot be added; name "
            "columns of one kind, e.g. --task TASK.accuracy=1"
        )
    return found[0]


def _runs(table: RunTable, column: str) -> Runs:
    """Final checkpoints with the figure and all features; runs of equal features are one cell's."""
    final = table.final
    y = final.number(column)
    settings = {
        name: values for name in FEATURES if (values := law_column(final, name)) is not None
    }
    known = np.isfinite(y) & ((y > 0) | is_share(column))
    for values in settings.values():
        known &= np.isfinite(values)
    lines = np.stack([np.log(values[known]) for values in settings.values()], axis=1).round(6)
    return Runs(
        column=column,
        settings={name: values[known] for name, values in settings.items()},
        figure=y[known],
        cluster=np.unique(lines, axis=0, return_inverse=True)[1].reshape(-1),
    )


def _fixed_tokens(learnt: list[Runs]) -> float | None:
    """The one number of tokens that something asked for was seen at; None where all saw several.

    Raises:
        UserError: two figures, each seen at one number of tokens of its own.
    """
    fixed = {r.column: float(r.settings["tokens"][0]) for r in learnt if "tokens" not in r.varying}
    if len(set(fixed.values())) > 1:
        told = ", ".join(f"{column} at {tokens:.4g}" for column, tokens in fixed.items())
        raise UserError(
            f"figures were each seen at one number of tokens, not the same: {told}; ask for one "
            "of them, or measure them at the same tokens"
        )
    return next(iter(fixed.values()), None)


def _fitting(models: tuple[Candidate, ...], request: Request) -> tuple[list[Candidate], list[str]]:
    """Candidates that fit the memories, and how many do not."""
    fitting, excluded = [], []
    limits = (
        ("training", request.train_memory_bytes, TRAIN_BYTES_PER_PARAM),
        ("serving", request.serve_memory_bytes, request.serve_bytes_per_param),
    )
    for model in models:
        if all(limit is None or model.total_params * each <= limit for _, limit, each in limits):
            fitting.append(model)
    for name, limit, each in limits:
        over = [m for m in models if limit is not None and m.total_params * each > limit]
        if over:
            excluded.append(f"{len(over)} of {len(models)} need more memory for {name}")
    if not fitting:
        smallest = min(models, key=lambda m: m.total_params)
        raise UserError(
            f"no candidate fits the memory; the smallest, {smallest.name}, needs "
            f"{TRAIN_BYTES_PER_PARAM * smallest.total_params:.3g} bytes for training and "
            f"{request.serve_bytes_per_param * smallest.total_params:.3g} for serving"
        )
    return fitting, excluded


def _score(
    sized: list[tuple[Candidate, float]],
    surrogates: tuple[Surrogate, ...],
    weights: Float[np.ndarray, " tasks"],
    better: str,
    excluded: list[str],
) -> list[Scored]:
    """Predictions for every candidate within reach of what was run."""
    learnt = [surrogate.runs for surrogate in surrogates]
    scored = []
    far = 0
    for model, tokens in sized:
        one = Scored.of(model, tokens, learnt)
        if one is None:
            far += 1
        else:
            scored.append(one)
    if far:
        excluded.append(f"{far} of {len(sized)} lie too far from what was run to say anything")
    if not scored:
        raise UserError(
            "every candidate lies too far from what was run: the budget is more than ten times beyond "
            "the table in tokens or size, or changes what did not vary. Run larger cells first"
        )
    mark_ends(scored)
    places = settings_of([(one.model, one.tokens) for one in scored], learnt)
    predicted = [surrogate.predict(places) for surrogate in surrogates]
    share = weights / weights.sum()
    for place, one in enumerate(scored):
        one.add(
            [
                (s.column, float(p.mean[place]), p.draws[:, place])
                for s, p in zip(surrogates, predicted, strict=True)
            ],
            share,
            better,
        )
    return scored


def _sized(
    models: list[Candidate],
    flops: float | None,
    hours: float | None,
    speed: Speed | None,
    fixed_tokens: float | None,
) -> list[tuple[Candidate, float]]:
    """Candidates with the tokens that the budget pays for; those it pays for none are left out."""
    return [
        (model, tokens)
        for model in models
        if (tokens := tokens_of(model, flops, hours, speed, fixed_tokens))
    ]
