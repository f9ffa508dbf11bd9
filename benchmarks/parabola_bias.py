"""What IsoFLOP parabolas do to a law that is known, and what the default fit does.

    python benchmarks/parabola_bias.py [--draws 200] [--figure FILE.svg] [--json FILE]

The law is Chinchilla's (arXiv:2203.15556, eq. 10). Five budgets, 1e18 to 1e21 FLOP, seven sizes each,
spread by a factor `reach` to both sides of a centre. The centre lies at the best size, at 0.3 or 3
times it, and may drift by a factor each budget, as guesses of the best size do. Without noise and with
0.3%, by 200 draws: error of the exponent of N_opt, and of N_opt at 100 times the largest budget
(arXiv:2603.22339).
"""

import argparse
import json
from pathlib import Path

import numpy as np

from isoflop.analysis.charts.chart import COLOURS, Axis, Chart, Curve, Mark, Series
from isoflop.analysis.charts.svg import svg_text
from isoflop.analysis.fits.heldout import best_fit
from isoflop.analysis.fits.parabola import best_size_errors
from isoflop.analysis.fits.points import Points
from isoflop.analysis.laws.chinchilla import CHINCHILLA, HOFFMANN, chinchilla_optimum

FLOPS = np.geomspace(1e18, 1e21, 5)
SIZES = 7
NOISE = 0.003
TRUE = {name: value for name, value in HOFFMANN.items() if name != "E"}


def points_of(reach: float, offset: float, drift: float, noise: float, seed: int) -> Points:
    """Runs on that grid."""
    sizes, tokens = [], []
    for number, flops in enumerate(FLOPS):
        centre = offset * chinchilla_optimum(float(flops), **TRUE).parameters * drift**number
        for size in centre * np.geomspace(1 / reach, reach, SIZES):
            sizes.append(size)
            tokens.append(flops / 6 / size)
    inputs = {"N": np.array(sizes), "D": np.array(tokens)}
    loss = CHINCHILLA.predict(inputs, HOFFMANN)
    drawn = loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(loss)))
    number = np.arange(len(loss))
    return Points(
        law=CHINCHILLA,
        column="loss",
        inputs=inputs,
        response=drawn,
        cluster=number,
        design=number,
        flops=np.repeat(FLOPS, SIZES),
        names=(),
    )


def errors(points: Points) -> tuple[float, float, float, float]:
    """Errors of exponent and of log size beyond: by parabolas, and by the default fit."""
    parabola = best_size_errors(points, HOFFMANN)
    fit = best_fit(points, huber=np.inf, starts=24, keep=2)
    alpha, beta = fit.exponents[0]
    _, a, b = fit.coefficients[0]
    truth = TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"])
    far = 100 * float(FLOPS[-1])
    own = chinchilla_optimum(far, A=float(a), B=float(b), alpha=float(alpha), beta=float(beta))
    size = own.parameters / chinchilla_optimum(far, **TRUE).parameters - 1
    return (*parabola, float(beta / (alpha + beta)) - truth, size)


def main() -> None:
    """Print the table; draw the biases without noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    print(
        "reach centre drift | no noise: exponent, size at 100x | 0.3% noise: mean +- sd of exponent"
    )
    print("                   | parabola          default fit    | parabola          default fit")
    for reach in (2.0, 4.0, 8.0, 16.0):
        for offset, drift in ((1.0, 1.0), (0.3, 1.0), (3.0, 1.0), (1.0, 0.75), (1.0, 1.33)):
            clean = errors(points_of(reach, offset, drift, 0.0, 0))
            noisy = np.array(
                [errors(points_of(reach, offset, drift, NOISE, s)) for s in range(asked.draws)]
            )
            mean, spread = _mean_and_spread(noisy)
            rows.append(
                {
                    "reach": reach,
                    "offset": offset,
                    "drift": drift,
                    "clean": list(clean),
                    "noisy_mean": mean.tolist(),
                    "noisy_sd": spread.tolist(),
                }
            )
            print(
                f"{reach:5g} {offset:6g} {drift:5g} | {clean[0]:+.4f} {100 * clean[1]:+6.1f}%  "
                f"{clean[2]:+.4f} {100 * clean[3]:+5.1f}% | {mean[0]:+.4f} +- {spread[0]:.4f}  "
                f"{mean[2]:+.4f} +- {spread[2]:.4f}",
                flush=True,
            )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")
    if asked.figure:
        asked.figure.write_text(svg_text(_chart(rows)), encoding="utf-8")


def _mean_and_spread(noisy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over the draws in which there was a line; NaN where there was none in any."""
    known = [column[np.isfinite(column)] for column in noisy.T]
    return (
        np.array([c.mean() if c.size else np.nan for c in known]),
        np.array([c.std() if c.size else np.nan for c in known]),
    )


def _chart(rows: list[dict[str, object]]) -> Chart:
    series = []
    kinds = [(1.0, 1.0), (0.3, 1.0), (3.0, 1.0), (1.0, 0.75), (1.0, 1.33)]
    for index, (offset, drift) in enumerate(kinds):
        name = f"centre x{offset:g}" if drift == 1 else f"drift x{drift:g} a budget"
        name = "centred" if (offset, drift) == (1.0, 1.0) else name
        found = [r for r in rows if (r["offset"], r["drift"]) == (offset, drift)]
        marks = tuple(
            Mark(x=float(r["reach"]), y=float(r["clean"][0]))  # type: ignore[arg-type, index]
            for r in found
            if np.isfinite(r["clean"][0])  # type: ignore[index]
        )
        series.append(Series(label=name, colour=COLOURS[index % 6], marks=marks, joined=True))
    return Chart(
        name="parabola-bias",
        title="Error of the exponent of N_opt by IsoFLOP parabolas, without noise",
        description="Error of the exponent against the reach of the grid, a line a kind of grid.",
        x=Axis(label="sizes reach this factor to both sides", scale="log", at=(2, 4, 8, 16)),
        y=Axis(label="exponent by parabolas less true", include=(0.0,)),
        series=tuple(series),
        curves=(
            Curve(
                label="default fit", colour="#1f2933", points=((2.0, 0.0), (16.0, 0.0)), dashed=True
            ),
        ),
    )


if __name__ == "__main__":
    main()
