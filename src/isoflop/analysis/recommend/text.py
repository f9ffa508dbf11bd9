"""A recommendation in words, for a terminal, and as plain values for programs."""

import dataclasses
import json

from isoflop.analysis.fits.text import finite, short
from isoflop.analysis.recommend.choose import Choice
from isoflop.analysis.recommend.recommend import Recommendation
from isoflop.design.plan import format_count, format_quantity

SURE = 0.95

LITTLE = 0.1
"""Share of the doubt below which a run is not said to settle it. Chosen."""


def recommendation_to_text(found: Recommendation) -> str:
    """What a terminal shows: the answer first, then how sure, then what would tell more."""
    request = found.request
    budget = (
        f"{request.flops:.3g} FLOP"
        if request.flops is not None
        else f"{request.gpu_hours:g} GPU-hours"
    )
    lines = [f"For {budget}, of {found.num_candidates} candidates from {found.table}:", ""]
    lines += [f"Train {choice_text(found.best)}", *_figures(found.best)]
    lines += ["", _sureness(found)]
    lines += _reach(found.best)
    lines += _wall_clock(found)
    if found.next_runs:
        few = found.next_runs[0].share_settled < LITTLE
        head = (
            "No single run would settle much; these would settle most"
            if few
            else "Runs that would settle it most"
        )
        lines += ["", f"{head} (share of the doubt that one run removes):"]
        lines += [
            f"  {run.name}: {format_count(round(run.tokens))} tokens, {run.flops:.3g} FLOP: "
            f"{100 * run.share_settled:.0f}%"
            for run in found.next_runs
        ]
    lines += ["", "Predicted by:"]
    for one in found.surrogates:
        kinds = " and ".join(
            f"{'surfaces' if kind == 'surface' else f'the law {kind}'} ({100 * share:.0f}%)"
            for kind, share in one.kinds
            if share
        )
        unit = "points" if one.runs.is_share else "%"
        lines.append(
            f"  {one.column}: {kinds} of {', '.join(one.runs.varying)}; cells not seen are missed by "
            f"{100 * one.left_out_error:.2g} {unit} (root mean square)"
        )
    lines += [f"Left out: {line}." for line in found.excluded]
    lines += [f"Note: {note}." for note in found.notes]
    return "\n".join(lines)


def choice_text(choice: Choice) -> str:
    """One model with its tokens, in a line."""
    shape = [f"E={choice.num_experts}, k={choice.top_k}"]
    if choice.d_model is not None:
        shape.insert(0, f"d={choice.d_model}, {choice.num_layers} layers")
    time = "" if choice.device_hours is None else f", {choice.device_hours:.3g} device-hours"
    return (
        f"{choice.name}: {', '.join(shape)}, {format_count(choice.total_params)} parameters "
        f"({format_count(choice.active_params)} active), {format_count(round(choice.tokens))} tokens, "
        f"{choice.flops:.3g} FLOP{time}; {format_quantity(round(choice.train_bytes))}B to train (without "
        f"activations), {format_quantity(round(choice.serve_bytes))}B to serve"
    )


def _reach(choice: Choice) -> list[str]:
    """What of the choice was not run, and where the answer stops at an end of what is offered."""
    lines = []
    if choice.extrapolated:
        lines.append(f"Extrapolated: {'; '.join(choice.extrapolated)}.")
    elif not choice.measured:
        lines.append("No cell of this shape was run; each of its settings lies within what was.")
    else:
        lines.append("Nothing is extrapolated: all settings lie within what was run.")
    return lines + [f"The best may lie beyond: {line}." for line in choice.at_ends]


def _figures(choice: Choice) -> list[str]:
    return [
        f"  {one.column}: {short(one.value)} (95% interval {short(one.low)} to {short(one.high)})"
        for one in choice.predictions
    ]


def _sureness(found: Recommendation) -> str:
    if found.runner_up is None or found.beats_runner_up is None:
        return "There is no other candidate to compare it with."
    share = found.beats_runner_up
    words = "better" if share >= SURE else "not surely better"
    return (
        f"Runner-up {choice_text(found.runner_up)}: weighted figure {short(found.runner_up.weighted)} "
        f"against {short(found.best.weighted)}. The first is {words}: ahead in {100 * share:.0f}% of "
        "the draws."
    )


def _wall_clock(found: Recommendation) -> list[str]:
    """FLOP-optimal and wall-clock-optimal side by side."""
    if found.wall_clock_best is None or found.speed is None:
        return ["", "Wall clock: no speeds (tokens_per_second) of three cells are known."]
    speed = found.speed
    by_flops = found.request.flops is not None
    other = found.wall_clock_best if by_flops else found.flop_best
    head = (
        f"Speeds of {speed.num_cells} shapes are known (a model of them misses by "
        f"{100 * speed.typical_error:.0f}%)"
    )
    same = "hours" if by_flops else "FLOPs"
    if other.name == found.best.name:
        return ["", f"{head}: the same model is best in the same {same}."]
    return [
        "",
        f"{head}. In the same {same} better is {choice_text(other)}, weighted figure "
        f"{short(other.weighted)} (95% interval {short(other.weighted_low)} to "
        f"{short(other.weighted_high)}).",
        *(f"  {line}" for line in _reach(other)),
    ]


def recommendation_to_json(found: Recommendation) -> str:
    """The recommendation as JSON; numbers that do not exist are null."""
    data = {
        "table": found.table,
        "request": dataclasses.asdict(found.request),
        "better": found.better,
        "best": dataclasses.asdict(found.best),
        "runner_up": None if found.runner_up is None else dataclasses.asdict(found.runner_up),
        "beats_runner_up": found.beats_runner_up,
        "wall_clock_best": None
        if found.wall_clock_best is None
        else dataclasses.asdict(found.wall_clock_best),
        "flop_best": dataclasses.asdict(found.flop_best),
        "next_runs": [dataclasses.asdict(run) for run in found.next_runs],
        "models": [
            {
                "column": one.column,
                "kinds": dict(one.kinds),
                "features": one.runs.varying,
                "left_out_error": one.left_out_error,
                "noise": one.noise,
            }
            for one in found.surrogates
        ],
        "num_candidates": found.num_candidates,
        "excluded": found.excluded,
        "notes": found.notes,
    }
    return json.dumps(finite(data), indent=2, allow_nan=False)
