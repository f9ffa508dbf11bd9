"""How often is a U-shape claimed that is not there, and how large a fall is seen?

    python benchmarks/u_shape_rates.py [--studies 20000] [--seed 11] [--json FILE]

False claims: six cells of three seeds each, truths that rise and level off (or are flat, or fall), and
spreads between seeds that are normal, grow with E, or come in sudden steps everywhere, in one cell,
or in half of the cells. Beside it, what a parabola alone would claim (its square term significant and its top
inside), the usual test. Power: the share of studies in which a fall from the middle cell to the last is
claimed, by its size in standard deviations between seeds. Last, a case that the rule was not chosen on
and does not hold 5% in: rare steps, taken by 3 seeds of 10, in the sparsest cell or the two sparsest.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.special import stdtr

from isoflop.analysis.questions.u_shape import power, two_lines

CELLS, SEEDS = 6, 3
TRUTHS = {
    "steep, then flat": np.array([-50.0, 0, 0, 0, 0, 0]),
    "half way, then flat": np.array([-6.0, -3, 0, 0, 0, 0]),
    "levels off": np.array([-5.0, -2.5, -1.2, -0.6, -0.3, -0.15]),
    "flat": np.zeros(6),
    "falls, then flat": np.array([50.0, 0, 0, 0, 0, 0]),
}

Draw = Callable[[np.random.Generator, int], np.ndarray]


def steps(generator: np.random.Generator, studies: int, where: tuple[int, ...]) -> np.ndarray:
    """Two modes 0.8 apart in some cells, with a little noise in all."""
    found = 0.02 * generator.normal(size=(studies, CELLS, SEEDS))
    sides = generator.choice((-0.4, 0.4), size=(studies, CELLS, SEEDS))
    mask = np.isin(np.arange(CELLS), where)[None, :, None]
    return found + np.where(mask, sides, 0.0)


SPREADS: dict[str, Draw] = {
    "normal": lambda g, n: g.normal(size=(n, CELLS, SEEDS)),
    "doubles with E": lambda g, n: (
        g.normal(size=(n, CELLS, SEEDS)) * 2.0 ** np.arange(CELLS)[:, None]
    ),
    "steps everywhere": lambda g, n: steps(g, n, tuple(range(CELLS))),
    "steps at the sparsest": lambda g, n: steps(g, n, (5,)),
    "steps in one inner cell": lambda g, n: steps(g, n, (3,)),
    "steps in the sparser half": lambda g, n: steps(g, n, (3, 4, 5)),
}


def false_claims(truth: np.ndarray, draw: Draw, studies: int, seed: int) -> tuple[float, float]:
    """Share of studies with a claim: by two lines, and by a parabola."""
    generator = np.random.default_rng(seed)
    values = draw(generator, studies)
    means = values.mean(axis=2) + truth
    errors = values.var(axis=2, ddof=1) / SEEDS
    x = np.arange(CELLS, dtype=float)
    p_values, _ = two_lines(means, errors, np.full(CELLS, SEEDS - 1.0), x)
    return float((p_values < 0.05).mean()), _parabola_claims(means, errors, x)


RARE, RARE_SIZE = 0.3, 8.0
"""Chance of a step, and its size in standard deviations between seeds."""


def rare_step_claims(cells: int, last: int, rise: str, studies: int, seed: int) -> float:
    """Share of studies with a claim where the `last` sparsest cells each take rare steps.

    The mean of every cell stays on the plateau: nothing falls.
    """
    generator = np.random.default_rng(seed)
    x = np.arange(cells, dtype=float)
    truth = {
        "steep, then flat": np.where(x == 0, -50.0, 0.0),
        "half way, then flat": np.minimum(3 * (x - 2), 0.0),
        "rises to the middle": 5 * np.minimum(x - cells // 2, 0.0),
    }[rise]
    values = generator.normal(size=(studies, cells, SEEDS))
    taken = generator.random((studies, last, SEEDS)) < RARE
    values[:, cells - last :] += RARE_SIZE * (taken - RARE)
    means, errors = values.mean(axis=2) + truth, values.var(axis=2, ddof=1) / SEEDS
    p_values, _ = two_lines(means, errors, np.full(cells, SEEDS - 1.0), x)
    return float((p_values < 0.05).mean())


def _parabola_claims(means: np.ndarray, errors: np.ndarray, x: np.ndarray) -> float:
    centred = x - x.mean()
    design = np.stack([np.ones_like(x), centred, centred**2], axis=1)
    inverse = np.linalg.pinv(design)
    coefficients = means @ inverse.T
    variance = errors.mean(axis=1) * (inverse[2] ** 2).sum()
    t = coefficients[:, 2] / np.sqrt(variance)
    top = -coefficients[:, 1] / (2 * coefficients[:, 2])
    inside = (top > centred[0]) & (top < centred[-1])
    return float(((stdtr(CELLS * (SEEDS - 1.0), t) < 0.025) & inside).mean())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=11, help="of the drawn studies")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    claims, powers = {}, {}
    print("False claims of an inverted U: two lines (a parabola alone)")
    for truth, places in TRUTHS.items():
        for spread, draw in SPREADS.items():
            ours, usual = false_claims(places, draw, asked.studies, asked.seed)
            claims[f"{truth}; {spread}"] = {"two lines": ours, "parabola": usual}
            print(f"  {truth:20} {spread:26} {100 * ours:5.2f}%  ({100 * usual:.1f}%)", flush=True)
    print("False claims with rare steps: by cells, and sparsest cells that take them")
    rare = {}
    for rise in ("steep, then flat", "half way, then flat", "rises to the middle"):
        for cells in (6, 8, 10):
            for last in (1, 2):
                found = rare_step_claims(cells, last, rise, asked.studies, asked.seed)
                rare[f"{rise}; {cells} cells, {last} with steps"] = found
                print(f"  {rise:20} {cells:2} cells, {last} with steps {100 * found:5.2f}%")
    print("Power by the size of the fall, in standard deviations between seeds")
    x = np.arange(CELLS, dtype=float)
    for seeds in (3, 5, 8):
        seen = {
            fall: power(x, [seeds] * CELLS, fall=fall, studies=asked.studies, seed=asked.seed)
            for fall in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
        }
        powers[seeds] = seen
        print(f"  {seeds} seeds: " + ", ".join(f"{f:g}: {100 * p:.0f}%" for f, p in seen.items()))
    worst = max(found["two lines"] for found in claims.values())
    print(f"Most false claims of {len(claims)} cases: {100 * worst:.2f}%")
    if asked.json:
        asked.json.write_text(
            json.dumps({"claims": claims, "rare": rare, "power": powers}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
