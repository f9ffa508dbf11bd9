"""A family of models to compare: from one config and a grid to named cells.

A fair comparison changes one thing. `vary_experts` changes E and nothing that a
token sees; `vary_top_k_matched` changes k and makes the experts narrower to
match; `vary_top_k_unmatched` changes k and lets the active parameters grow;
`vary_width` changes the width; `grid` is the whole product, as the study trains
it. `check_matched` refuses cells that differ more than they may.

Every family comes out sorted by total parameters, then active ones, then name.

Source: the optimal-sparsity study (arXiv:2508.18672), sections 3.1, 3.3 and 3.4.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from isoflop.config import UserError
from isoflop.model.config import ModelConfig
from isoflop.model.count import (
    active_params,
    total_params,
    train_flops_per_token_megatron,
    train_flops_per_token_with_router,
)

PAPER_HEAD_WIDTH = 128
"""Width of one attention head at every width of the study (launch scripts)."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model of a study."""

    name: str
    """Unique within the study, e.g. "d512-E8-k2-320M-A170M"."""
    model: ModelConfig


def short_count(params: int) -> str:
    """A number of parameters as in the names of the released checkpoints.

    From 1 B on to one decimal, below that to 10 M. The study has nothing below
    170 M; smaller numbers keep two significant digits, below 1,000 all of them.

    >>> [short_count(n) for n in (13_158_089_728, 320_160_256, 3_241_000, 48_700, 512)]
    ['13.2B', '320M', '3.2M', '49K', '512']
    """
    # The rounded number decides: 999 M is 1.0B, not 1000M.
    rounded, unit, letter = next(
        (rounded, unit, letter)
        for below, step, unit, letter in _COUNT_STEPS
        if (rounded := (params + step // 2) // step * step) < below
    )
    # One digit before the point leaves room for one behind it; so do billions.
    decimals = 1 if letter and (letter == "B" or rounded < 10 * unit) else 0
    return f"{rounded / unit:.{decimals}f}{letter}"


def released_name(model: ModelConfig) -> str:
    """Name in the form of the released checkpoints.

    All 65 names of the study come out as released; the active count leaves the
    router out.

    >>> released_name(ModelConfig(vocabulary_size=99_584, num_layers=16, d_model=512, num_heads=4,
    ...     d_expert=1024, num_experts=8, top_k=2, sequence_length=4096))
    'd512-E8-k2-320M-A170M'
    """
    shape = f"d{model.d_model}-E{model.num_experts}-k{model.top_k}"
    return f"{shape}-{short_count(total_params(model))}-A{short_count(active_params(model))}"


def family(models: Iterable[ModelConfig]) -> list[Cell]:
    """Cells with released names, sorted by total parameters.

    Raises:
        UserError: no model, or two models of one name.
    """
    cells = [Cell(name=released_name(model), model=model) for model in models]
    if not cells:
        raise UserError("a family needs at least one model with top_k at most num_experts")
    check_distinct_names(cells)
    return sorted_by_total(cells)


def sorted_by_total(cells: Iterable[Cell]) -> list[Cell]:
    """By total parameters, then active parameters, then name."""
    return sorted(cells, key=lambda c: (total_params(c.model), active_params(c.model), c.name))


def vary_experts(base: ModelConfig, num_experts: Sequence[int]) -> list[Cell]:
    """Other numbers of experts, everything else as in `base`: the same active parameters.

    E = k gives the dense model of the same active parameters.

    Raises:
        UserError: an E below k.
    """
    return family(replace(base, num_experts=experts) for experts in num_experts)


def vary_top_k_matched(base: ModelConfig, top_ks: Sequence[int]) -> list[Cell]:
    """Other k at the same E, with k x d_expert, and so the active parameters, as in `base`.

    Total parameters fall as k grows, since all experts become narrower.

    Raises:
        UserError: a k above E, or one that does not divide k x d_expert of `base`.
    """
    return family(_with_top_k(base, top_k) for top_k in top_ks)


def vary_top_k_unmatched(base: ModelConfig, top_ks: Sequence[int]) -> list[Cell]:
    """Other k at the same E and experts: the same total, other active parameters.

    Raises:
        UserError: a k above E.
    """
    return family(replace(base, top_k=top_k) for top_k in top_ks)


def vary_width(
    base: ModelConfig, d_models: Sequence[int], *, head_width: int = PAPER_HEAD_WIDTH
) -> list[Cell]:
    """Other widths, with heads of `head_width` and experts as wide against d_model as in `base`.

    Raises:
        UserError: a width that does not split into such heads or experts.
    """
    return family(_with_width(base, d_model, head_width) for d_model in d_models)


def grid(
    base: ModelConfig,
    *,
    d_models: Sequence[int],
    num_experts: Sequence[int],
    top_ks: Sequence[int],
    head_width: int = PAPER_HEAD_WIDTH,
) -> list[Cell]:
    """Every width with every E and every k, pairs with k above E left out.

    Active parameters are the same along E and differ along k and width.

    Raises:
        UserError: as `vary_width`, or nothing is left.
    """
    pairs = [(experts, top_k) for experts in num_experts for top_k in top_ks if top_k <= experts]
    widths = [_with_width(base, d_model, head_width) for d_model in d_models]
    return family(
        replace(width, num_experts=experts, top_k=top_k)
        for width in widths
        for experts, top_k in pairs
    )


def with_active_params(base: ModelConfig, active: int, *, multiple_of: int = 1) -> ModelConfig:
    """`base` with the width of experts that brings it nearest to `active` parameters.

    Args:
        active: Budget by the count of `active_params`.
        multiple_of: The width of an expert is a multiple of this, e.g. 128 for fast products.

    Raises:
        UserError: the rest of the model alone exceeds the budget.
    """
    narrowest = replace(base, d_expert=multiple_of)
    step = active_params(replace(base, d_expert=2 * multiple_of)) - active_params(narrowest)
    steps = 1 + round((active - active_params(narrowest)) / step)
    if steps < 1:
        raise UserError(
            f"active_params={active:,} is too small: with experts of width {multiple_of} "
            f"the model has {active_params(narrowest):,}"
        )
    return replace(base, d_expert=steps * multiple_of)


def check_distinct_names(cells: Sequence[Cell]) -> None:
    """Refuse two cells of one name: their results would be one.

    Raises:
        UserError: names the twice used name.
    """
    names = [cell.name for cell in cells]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"two cells are named {twice[0]!r}; every cell needs its own name")


def check_matched(
    cells: Sequence[Cell], *, active_tolerance: float, flops_tolerance: float
) -> None:
    """Refuse to compare cells whose cost for one token differs.

    Differences are (larger - smaller) / smaller, over all pairs. FLOPs are those
    of training, router included: Megatron-LM's count leaves the router out and
    would call E = 2 and E = 128 equal where a narrow model pays for it. Each
    model is taken at its own sequence length.

    Args:
        active_tolerance: Largest relative difference of active parameters; 0 demands equality.
        flops_tolerance: Largest relative difference of training FLOPs per token.

    Raises:
        UserError: names the two cells that differ most, and by how much.
    """
    _check_equal(cells, "active parameters", active_tolerance, active_params)
    _check_equal(
        cells,
        "training FLOPs per token, router included,",
        flops_tolerance,
        lambda model: train_flops_per_token_with_router(model, model.sequence_length),
    )


def train_flops(model: ModelConfig, *, train_tokens: int, sequence_length: int) -> int:
    """FLOPs of a whole training run by Megatron-LM's count."""
    return train_tokens * train_flops_per_token_megatron(model, sequence_length)


def tokens_for_flops(model: ModelConfig, *, flops: int, sequence_length: int) -> int:
    """Most training tokens that a budget of FLOPs (Megatron-LM's count) pays for, rounded down.

    Raises:
        UserError: the budget does not pay for one token.
    """
    per_token = train_flops_per_token_megatron(model, sequence_length)
    if flops < per_token:
        raise UserError(f"flops={flops:,} must be at least the {per_token:,} of one training token")
    return flops // per_token


def tokens_per_parameter(model: ModelConfig, train_tokens: int) -> float:
    """TPP: training tokens / total parameters (arXiv:2508.18672, section 3.4)."""
    return train_tokens / total_params(model)


def tokens_per_active_parameter(model: ModelConfig, train_tokens: int) -> float:
    """Active TPP: training tokens / active parameters."""
    return train_tokens / active_params(model)


_COUNT_STEPS: tuple[tuple[float, int, int, str], ...] = (
    (10**3, 1, 1, ""),
    (10**4, 10**2, 10**3, "K"),
    (10**5, 10**3, 10**3, "K"),
    (10**6, 10**4, 10**3, "K"),
    (10**7, 10**5, 10**6, "M"),
    (10**8, 10**6, 10**6, "M"),
    (10**9, 10**7, 10**6, "M"),
    (math.inf, 10**8, 10**9, "B"),
)
"""Below which rounded count, rounded to what, in which unit. The last two rows are the released
names' (seen on all 65); the others continue them downwards."""


def _check_equal(
    cells: Sequence[Cell], what: str, tolerance: float, measure: Callable[[ModelConfig], int]
) -> None:
    if not tolerance >= 0:
        raise UserError(f"the tolerance of {what} is {tolerance}; it must be 0 or above")
    if not cells:
        return
    smallest = min(cells, key=lambda cell: measure(cell.model))
    largest = max(cells, key=lambda cell: measure(cell.model))
    low, high = measure(smallest.model), measure(largest.model)
    difference = (high - low) / low
    if difference > tolerance:
        raise UserError(
            f"{smallest.name} and {largest.name} cannot be compared: {what} differ by "
            f"{difference:.2%} ({low:,} and {high:,}); allowed is {tolerance:.2%}"
        )


def _with_top_k(base: ModelConfig, top_k: int) -> ModelConfig:
    hidden = base.top_k * base.d_expert
    if top_k < 1 or hidden % top_k:
        raise UserError(
            f"top_k={top_k} must divide top_k x d_expert = {hidden} of the base model, "
            "so that the active parameters stay the same"
        )
    return replace(base, top_k=top_k, d_expert=hidden // top_k)


def _with_width(base: ModelConfig, d_model: int, head_width: int) -> ModelConfig:
    if head_width < 1 or d_model < 1 or d_model % head_width:
        raise UserError(f"d_model={d_model} must be a multiple of head_width={head_width}")
    if d_model * base.d_expert % base.d_model:
        raise UserError(
            f"d_model={d_model} gives experts of no whole width at the base model's "
            f"d_expert / d_model = {base.d_expert} / {base.d_model}"
        )
    return replace(
        base,
        d_model=d_model,
        num_heads=d_model // head_width,
        d_expert=d_model * base.d_expert // base.d_model,
    )
