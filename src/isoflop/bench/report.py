"""What was measured, as tables for people and as JSON."""

import dataclasses
import json
import statistics
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from isoflop.bench.machine import Machine
from isoflop.bench.memory import MemoryRow
from isoflop.bench.results import Duel, Options, ShapeResult, Side, Trial
from isoflop.bench.speed import FIRST_LOSS_TOLERANCE, LOSS_TOLERANCE


def speed_to_json(machine: Machine, options: Options, results: list[ShapeResult]) -> str:
    """Everything: exact numbers, null for what is not told."""
    data = {
        "machine": dataclasses.asdict(machine),
        "options": dataclasses.asdict(options),
        "loss_tolerance_nats": {"first": FIRST_LOSS_TOLERANCE, "later": LOSS_TOLERANCE},
        "shapes": [_shape_to_data(result) for result in results],
    }
    return json.dumps(data, indent=2, allow_nan=False)


def _shape_to_data(result: ShapeResult) -> dict[str, Any]:
    shape = result.shape
    return {
        "shape": shape.name,
        "model": dataclasses.asdict(shape.model),
        "batch_sequences": shape.batch_sequences,
        "train_flops_per_token_with_router": result.flops_per_token,
        "matrix_product_flops_per_second": result.matrix_peaks,
        "contestants": [_trial_to_data(trial) for trial in result.trials],
        "alternation": None if result.duel is None else _duel_to_data(result.duel),
    }


def _trial_to_data(trial: Trial) -> dict[str, Any]:
    data = dataclasses.asdict(trial)
    # A loss that is not a number is not JSON.
    data["losses"] = [loss if loss - loss == 0 else None for loss in trial.losses]
    return {"name": trial.contestant.name, **data}


def _duel_to_data(duel: Duel) -> dict[str, Any]:
    ratios = duel.ratios
    return {
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ratios": ratios,
        "together_in_memory": duel.together,
        "ours": _side_to_data(duel.ours),
        "peer": _side_to_data(duel.peer),
    }


def _side_to_data(side: Side) -> dict[str, Any]:
    return {
        "name": side.contestant.name,
        "losses": side.losses,
        "tokens_per_second_median": side.speed,
        "tokens_per_second": side.tokens_per_second,
        "flops_per_second_median": side.speed * side.flops_per_token,
        "matrix_product_flops_per_second": side.peak_flops_per_second,
        "peak_share_median": side.peak_share,
    }


def show_speed(machine: Machine, results: list[ShapeResult], console: Console) -> None:
    """For each shape its contestants, then ours against the best peer."""
    console.print(machine_line(machine), markup=False, highlight=False, soft_wrap=True)
    for result in results:
        console.print(_trials_table(result))
        line = duel_line(result)
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def machine_line(machine: Machine) -> str:
    """Where and with what, in one line."""
    where = machine.processor if machine.device == "cpu" else machine.device
    return (
        f"{where}, {machine.threads} thread(s), torch {machine.torch}, transformers "
        f"{machine.transformers or 'not installed'}, {machine.date}"
    )


def _trials_table(result: ShapeResult) -> Table:
    shape = result.shape
    peaks = ", ".join(
        f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in result.matrix_peaks.items()
    )
    title = (
        f"{shape.name}, vocabulary {shape.model.vocabulary_size:,}, batch {shape.batch_sequences} "
        f"x {shape.model.sequence_length}; matrix products: {peaks}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("contestant", no_wrap=True)
    for heading in ("tokens/s", "GFLOP/s", "of peak", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("last loss or reason")
    for trial in result.trials:
        table.add_row(trial.contestant.name, *_figures(trial))
    return table


def _figures(trial: Trial) -> list[str]:
    if trial.state != "measured":
        return ["", "", "", "", f"{trial.state}: {trial.reason}"]
    return [
        f"{trial.tokens_per_second or 0:,.0f}",
        f"{(trial.flops_per_second or 0) / 1e9:,.1f}",
        f"{trial.peak_share or 0:.1%}",
        gigabytes(trial.peak_memory_bytes),
        f"{trial.losses[-1]:.4f}",
    ]


def gigabytes(number: int | None) -> str:
    """Three digits; nothing where nothing was measured.

    >>> gigabytes(9_876_543_210), gigabytes(None)
    ('9.88 GB', '')
    """
    return "" if number is None else f"{number / 1e9:.3g} GB"


def duel_line(result: ShapeResult) -> str:
    """Ours against the best peer, or that there was no one to compare."""
    duel = result.duel
    if duel is None:
        return f"{result.shape.name}: no ratio: one side has no contestant with equal losses\n"
    ratios, ours, peer = duel.ratios, duel.ours, duel.peer
    return (
        f"{result.shape.name}: {ours.contestant.name} / {peer.contestant.name} = "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} "
        f"rounds); {ours.speed:,.0f} and {peer.speed:,.0f} tokens/s, {ours.peak_share:.1%} and "
        f"{peer.peak_share:.1%} of their products' peak; losses after {len(ours.losses) - 1} "
        f"steps {ours.losses[-1]:.4f} and {peer.losses[-1]:.4f}\n"
    )


def memory_to_json(machine: Machine, rows: list[MemoryRow]) -> str:
    """One object a case, bytes."""
    cases = [{**dataclasses.asdict(row), "planned_share": row.planned_share} for row in rows]
    data = {"machine": dataclasses.asdict(machine), "cases": cases}
    return json.dumps(data, indent=2, allow_nan=False)


def show_memory(machine: Machine, rows: list[MemoryRow], console: Console) -> None:
    """One line a case."""
    console.print(machine_line(machine), markup=False, highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in ("shape", "precision", "recompute", "loss"):
        table.add_column(heading, no_wrap=True)
    for heading in ("tokens", "measured", "planned", "planned / measured"):
        table.add_column(heading, justify="right", no_wrap=heading != "planned / measured")
    for row in rows:
        share = "" if row.planned_share is None else f"{row.planned_share:.2f}"
        measured = gigabytes(row.measured) if row.reason is None else row.reason
        figures = (f"{row.tokens:,}", measured, gigabytes(row.planned), share)
        table.add_row(row.case, row.precision, row.recompute, row.loss, *figures)
    console.print(table)
