"""Families of models to compare, counted before anything is built.

>>> from isoflop.design import check_matched, grid, tokens_for_flops, vary_experts
"""

from isoflop.design.family import (
    Cell,
    check_matched,
    grid,
    released_name,
    tokens_for_flops,
    vary_experts,
    vary_top_k_matched,
    vary_top_k_unmatched,
    vary_width,
    with_active_params,
)

__all__ = [
    "Cell",
    "check_matched",
    "grid",
    "released_name",
    "tokens_for_flops",
    "vary_experts",
    "vary_top_k_matched",
    "vary_top_k_unmatched",
    "vary_width",
    "with_active_params",
]
