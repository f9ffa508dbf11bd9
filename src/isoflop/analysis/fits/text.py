"""A fit in words, for a terminal, and as plain values for programs."""

import dataclasses
import json
import math
from typing import Any

from isoflop.analysis.fits.fit import Coefficient, Fit
from isoflop.analysis.fits.heldout import HeldOut
from isoflop.analysis.fits.parabola import ParabolaFit, parabola_fit
from isoflop.analysis.fits.profile import WEAK_FACTOR

NO_INTERVAL = "none"
"""In place of an interval that there is not."""

MISFIT_BELOW = 0.01
"""P-value of lack of fit below which a reader is told. Chosen."""


def fit_to_text(fit: Fit) -> str:
    """The fit as a terminal shows it."""
    law = fit.points.law
    lines = [
        f"{law.title}: {law.formula}",
        f"{fit.column} of {fit.table}: {fit.num_points} runs, {fit.num_designs} settings, "
        f"{fit.num_cells} cells",
        "",
        f"{'':10} {'value':>12} {'95% interval':>27}",
    ]
    lines += [_coefficient_line(found) for found in fit.coefficients]
    lines += ["", *fit_sentences(fit)]
    return "\n".join(line.rstrip() for line in lines)


def fit_sentences(fit: Fit) -> list[str]:
    """What a reader must know beside the coefficients, a sentence each."""
    law = fit.points.law
    scale = "" if law.link == "plain" else " of the loss"
    size = f"{fit.rms_residual:.4f}" if law.link == "plain" else f"{100 * fit.rms_residual:.2f}%"
    found = [
        f"Typical distance of a run from the law: {size}{scale} (root mean square).",
        f"Intervals: wild bootstrap over {fit.num_cells} cells, {fit.replicates} fits; a cell's "
        "seeds and checkpoints stay together, as they share its misfit.",
    ]
    if fit.unidentified:
        found.append(
            f"{', '.join(fit.unidentified)}: these points do not tell; other values fit as well, and "
            "the value above is one of many. Do not use the law where they matter."
        )
    if fit.misfit_p is not None and fit.misfit_p < MISFIT_BELOW:
        found.append(
            f"Cells miss the law by more than their seeds explain (p = {fit.misfit_p:.2g}): "
            "it is not the whole truth of these runs."
        )
    found.append(_held_out_sentence(fit.held_out, law.link == "plain"))
    if fit.law == "chinchilla":
        found.append(_parabola_sentence(parabola_fit(fit)))
    outside = law.outside(fit.points.inputs)
    if outside:
        found.append(f"Outside the range behind the published coefficients: {'; '.join(outside)}.")
    if law.caution:
        found.append(law.caution)
    return [*found, *(f"Note: {note}." for note in fit.notes)]


def _coefficient_line(found: Coefficient) -> str:
    low, high = end_texts(found)
    span = NO_INTERVAL if low == NO_INTERVAL else f"{low} to {high}"
    return f"{found.name:10} {short(found.value):>12} {span:>27}  {status_text(found)}"


def end_texts(found: Coefficient) -> tuple[str, str]:
    """Both ends of the interval; a coefficient that is not identified has none."""
    if found.status == "not identified" or found.low is None or found.high is None:
        return NO_INTERVAL, NO_INTERVAL
    return short(found.low), short(found.high)


def status_text(found: Coefficient) -> str:
    """What these points tell of the coefficient; "" where they identify it."""
    if found.status == "identified":
        return ""
    if found.status == "weak":
        return f"weak: its interval changes sign or spans a factor above {WEAK_FACTOR:g}"
    if found.low is None and found.high is None:
        fits = "any value"
    elif found.low is None or found.high is None:
        end = found.high if found.low is None else found.low
        fits = f"anything {'below' if found.low is None else 'above'} {short(end or 0.0)}"
    else:
        fits = f"anything from {short(found.low)} to {short(found.high)}"
    return f"NOT IDENTIFIED: {fits} fits as well"


def _held_out_sentence(held: HeldOut, plain: bool) -> str:
    if held.mean_error is None or held.worst_error is None or held.share_inside is None:
        return f"How far it reaches is not known: {held.reason}."
    errors = [held.mean_error, held.worst_error]
    mean, worst = (f"{error:+.4f}" if plain else f"{100 * error:+.2f}%" for error in errors)
    return (
        f"Fitted without the largest budget ({held.flops:.2g} FLOP, {held.factor:.1f} times the next) "
        f"it predicts those {held.num_points} runs with a mean error of {mean} (worst {worst}); "
        f"{100 * held.share_inside:.0f}% lie inside their 95% intervals."
    )


def _parabola_sentence(found: ParabolaFit) -> str:
    if found.exponent is None or found.law_exponent is None:
        return f"No IsoFLOP parabola beside it: {found.reason or 'a coefficient is 0'}."
    text = (
        f"N_opt grows as C^{found.law_exponent:.3f} by this fit, as C^{found.exponent:.3f} by "
        f"IsoFLOP parabolas over {len(found.bowls)} budgets"
    )
    if found.exponent_bias is None or found.size_bias is None or found.size_bias_beyond is None:
        return text + "."
    return (
        f"{text}. On these sizes, without any noise, parabolas alone miss the exponent by "
        f"{found.exponent_bias:+.3f}, the best size at the largest budget by "
        f"{100 * found.size_bias:+.0f}% and at 100 times it by {100 * found.size_bias_beyond:+.0f}%."
    )


def fit_to_json(fit: Fit) -> str:
    """The fit as JSON; numbers that do not exist are null."""
    law = fit.points.law
    data: dict[str, Any] = {
        "law": fit.law,
        "source": law.source,
        "formula": law.formula,
        "table": fit.table,
        "column": fit.column,
        "coefficients": [_coefficient_data(found) for found in fit.coefficients],
        "num_points": fit.num_points,
        "num_settings": fit.num_designs,
        "num_cells": fit.num_cells,
        "rms_residual": fit.rms_residual,
        "misfit_p": fit.misfit_p,
        "huber_threshold": fit.huber,
        "replicates": fit.replicates,
        "held_out": dataclasses.asdict(fit.held_out),
        "parabola": dataclasses.asdict(parabola_fit(fit)) if fit.law == "chinchilla" else None,
        "sentences": fit_sentences(fit),
    }
    return json.dumps(finite(data), indent=2, allow_nan=False)


def _coefficient_data(found: Coefficient) -> dict[str, Any]:
    """A coefficient with `low` and `high` where they are an interval; else what is not ruled out."""
    data = dataclasses.asdict(found)
    if found.status == "not identified":
        data |= {"low": None, "high": None, "not_ruled_out": [found.low, found.high]}
    return data


def finite(value: Any) -> Any:
    """The value with numbers that JSON cannot hold as None."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def short(value: float) -> str:
    """Four digits, with a power of ten where it is far from 1."""
    return f"{value:.4g}"
