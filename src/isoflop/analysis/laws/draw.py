"""Tables drawn from a law with known coefficients, noise and seeds: the truth that fits must find."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from isoflop.analysis.laws.law import Law
from isoflop.analysis.tables.derive import derive
from isoflop.analysis.tables.run_table import RunTable

DESIGNS: dict[str, dict[str, tuple[float, ...]]] = {
    "kaplan": {
        "N": (1e6, 5e6, 2.5e7, 1.2e8, 6e8, 3e9),
        "D": (2e7, 1e8, 5e8, 2.5e9, 1.2e10, 6e10),
    },
    "chinchilla": {
        "N": (2e7, 6e7, 2e8, 6e8, 2e9, 6e9),
        "D": (3e8, 1e9, 3e9, 1e10, 3e10, 1e11),
    },
    "clark": {
        "N": (1.5e7, 5.5e7, 1.3e8, 3.7e8, 1.3e9),
        "E": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    },
    "krajewski": {
        "N": (1e8, 4e8, 1.6e9, 6.4e9),
        "D": (2e9, 8e9, 3.2e10, 1.3e11),
        "G": (1, 2, 4, 8, 16),
    },
    "joint": {
        "N": (8e7, 2e8, 5e8, 1.2e9, 3e9),
        "D": (2e9, 1e10, 5e10, 2.5e11),
        "E": (1, 2, 4, 8, 16, 32),
    },
    "abnar": {
        "N": (2e8, 8e8, 3e9, 1.2e10, 5e10),
        "D": (2e9, 1e10, 5e10, 2.5e11),
        "S": (0.0, 0.5, 0.75, 0.9, 0.95, 0.98),
    },
    "ling": {
        "A": (0.008, 0.016, 0.031, 0.06, 0.12, 0.25, 0.5),
        "G": (1, 2, 4, 8, 16),
        "C": (1e18, 1e19, 1e20, 1e21),
    },
}
"""A full grid for each law, as wide as a laboratory's: what it does not identify, few tables will."""


def draw_table(
    law: Law,
    values: Mapping[str, float],
    *,
    noise: float,
    num_seeds: int,
    seed: int,
    design: Mapping[str, Sequence[float]] | None = None,
) -> RunTable:
    """Final checkpoints of a full grid, the law's response x exp(noise x normal draw) each.

    Args:
        values: The true coefficients, as published laws name them.
        noise: Standard deviation of the logarithm, between runs.
        design: Values of each variable of the law; default: `DESIGNS`.
    """
    grid = design or DESIGNS[law.name]
    names = [given.name for given in law.inputs]
    cells = np.array(list(itertools.product(*(grid[name] for name in names))), dtype=float)
    inputs = {name: cells[:, place] for place, name in enumerate(names)}
    truth = law.predict(inputs, values)
    generator = np.random.default_rng(seed)
    drawn = truth * np.exp(noise * generator.normal(size=(num_seeds, len(cells))))
    numbers = {
        **{name: np.tile(column, num_seeds) for name, column in _columns(law, inputs).items()},
        "seed": np.repeat(np.arange(num_seeds, dtype=float), len(cells)),
    }
    numbers["efficiency_leverage" if law.response != "loss" else "train_loss"] = drawn.reshape(-1)
    named = tuple(
        "-".join(f"{name}{value:.4g}" for name, value in zip(names, cell, strict=True))
        for cell in cells
    )
    table = RunTable(
        name=f"drawn from {law.name}",
        numbers=numbers,
        texts={"cell": named * num_seeds},
        places=tuple(f"draw {i}" for i in range(num_seeds * len(cells))),
    )
    return derive(table)


def _columns(law: Law, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The law's variables as columns of a table, and what every table must have."""
    found: dict[str, np.ndarray] = {}
    for given in law.inputs:
        if given.column == "expansion":
            found["num_experts"] = inputs[given.name]
            found["top_k"] = np.ones_like(inputs[given.name])
        else:
            found[given.column] = inputs[given.name]
    size = next(iter(inputs.values()))
    found.setdefault("active_params", found.get("total_params", np.full_like(size, 1e9)))
    found.setdefault("tokens", np.full_like(size, 1.3e11))
    return found
