"""Columns that follow from others: names, shares, ratios, FLOPs, the last checkpoint of a run."""

import math
from dataclasses import replace

import numpy as np

from isoflop.analysis.tables.run_table import RunTable, group_lines

FLOPS_PER_PARAM_TOKEN = 6.0
"""Forward 2, backward 4 (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)."""

HIDDEN_PER_WIDTH = 4.0
"""Feed-forward width / d_model of the dense model that granularity refers to (arXiv:2402.07871,
section 3: granularity is that width / the width of one expert)."""


def derive(table: RunTable) -> RunTable:
    """The table with every column that its others determine, each said in a note."""
    for step in (_params, _shape, _names, _ratios, _flops, _final, _stage):
        table = step(table)
    return table


def _with(table: RunTable, name: str, values: np.ndarray, note: str | None = None) -> RunTable:
    notes = (*table.notes, note) if note else table.notes
    return replace(table, numbers={**table.numbers, name: values}, notes=notes)


def _params(table: RunTable) -> RunTable:
    """Dense tables have one count of parameters, which is both."""
    both = ("total_params", "active_params")
    for missing, given in (both, both[::-1]):
        dense = not table.has("num_experts") or bool(
            (table.number("num_experts") == table.numbers.get("top_k", np.ones(len(table)))).all()
        )
        if not table.has(missing) and table.has(given) and dense:
            note = f"no {missing}: taken as {given}, as no experts are named"
            table = _with(table, missing, table.number(given), note)
    return table


def _shape(table: RunTable) -> RunTable:
    if table.has("num_experts") and not table.has("top_k"):
        alone = np.where(table.number("num_experts") == 1, 1.0, math.nan)
        table = _with(table, "top_k", alone)
    if table.has("num_experts", "top_k"):
        density = table.number("top_k") / table.number("num_experts")
        if not table.has("density"):
            table = _with(table, "density", density)
        if not table.has("sparsity"):
            table = _with(table, "sparsity", 1 - table.number("density"))
    if not table.has("granularity") and table.has("d_model", "d_expert"):
        granularity = HIDDEN_PER_WIDTH * table.number("d_model") / table.number("d_expert")
        table = _with(table, "granularity", granularity)
    return table


def _names(table: RunTable) -> RunTable:
    """Cells by their shape and runs by cell and seed, where the table does not name them."""
    texts, notes = dict(table.texts), list(table.notes)
    if not table.has("cell"):
        shape = ("d_model", "num_experts", "top_k", "total_params", "active_params")
        known = [name for name in shape if table.has(name)]
        texts["cell"] = tuple(
            "-".join(f"{name.replace('_', '')}{table.number(name)[i]:g}" for name in known)
            for i in range(len(table))
        )
        notes.append(f"no cell: named by {', '.join(known)}")
    numbers = dict(table.numbers)
    if not table.has("seed"):
        numbers["seed"] = np.zeros(len(table))
        notes.append("no seed: every run is taken as the one seed of its cell")
    seeds, cells = numbers["seed"], texts["cell"]
    named = table.text("run")
    texts["run"] = tuple(
        named[i] or f"{cells[i]}-s{0 if math.isnan(seeds[i]) else int(seeds[i])}"
        for i in range(len(table))
    )
    return replace(table, texts=texts, numbers=numbers, notes=tuple(notes))


def _ratios(table: RunTable) -> RunTable:
    for ratio, params in (("tpp", "total_params"), ("active_tpp", "active_params")):
        if not table.has(ratio) and table.has("tokens", params):
            table = _with(table, ratio, table.number("tokens") / table.number(params))
    return table


def _flops(table: RunTable) -> RunTable:
    if not table.has("active_params"):
        return table
    plain = FLOPS_PER_PARAM_TOKEN * table.number("active_params") * table.number("tokens")
    if not table.has("train_flops_6n"):
        table = _with(table, "train_flops_6n", plain)
    if not table.has("train_flops"):
        note = "no train_flops: taken as 6 x active_params x tokens"
        table = _with(table, "train_flops", plain, note)
    return table


def _final(table: RunTable) -> RunTable:
    if table.has("final"):
        return table
    tokens = table.number("tokens")
    final = np.zeros(len(table))
    for places in group_lines(table.run_keys).values():
        most = np.nanmax(tokens[places])
        for place in places:
            final[place] = float(tokens[place] == most)
    return _with(table, "final", final)


def _stage(table: RunTable) -> RunTable:
    stages = tuple(stage or "pretrained" for stage in table.text("stage"))
    return replace(table, texts={**table.texts, "stage": stages})
