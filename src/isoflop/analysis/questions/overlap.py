"""Do different sparsities solve different problems? Overlap problem by problem, with what chance gives.

Two runs that solve n1 and n2 of N problems share n1 n2 / N by chance, if a problem's difficulty
played no part; it always plays one. So the fair comparison is between two seeds of the same cell:
where runs of two cells share less than two seeds of one do, the cells solve different problems.

Shapes in this file:
    runs       one row each
    problems   one column each, the same for all runs

Source of the chance overlap: the hypergeometric distribution's mean, Feller 1968, section II.6.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

PERMUTATIONS = 2000
SEED = 19


@dataclass(frozen=True, kw_only=True)
class PairOverlap:
    """Two cells, their runs compared in pairs; one cell with itself is the reference."""

    first: str
    second: str
    num_pairs: int
    """Pairs of runs, none with itself."""
    shared: float
    """Mean number of problems that both runs of a pair solve."""
    chance: float
    """Mean of n1 n2 / N: what independent runs of these accuracies would share."""
    agreement: float | None
    """Mean correlation (phi) of solved and unsolved; 0 is chance, 1 the same problems. None where
    a run solves all or none."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """All pairs of cells, and whether cells differ in what they solve."""

    pairs: tuple[PairOverlap, ...]
    within: float | None
    """Mean agreement of two seeds of one cell; None with one seed a cell."""
    between: float | None
    """Mean agreement of runs of two cells."""
    p_value: float | None
    """That agreement within cells exceeds that between them by no more than chance: labels of
    cells are exchanged between runs. None with one seed a cell."""
    num_problems: int
    num_runs: int
    reason: str | None


def overlap(
    solved: Bool[np.ndarray, "runs problems"], cells: Sequence[str], *, seed: int = SEED
) -> Overlap:
    """Compare what runs solve.

    Args:
        solved: Whether each run solved each problem.
        cells: The cell of each run.
        seed: Of the exchanges of labels.
    """
    agreement = phi(solved)
    names = list(dict.fromkeys(cells))
    labels = np.array([names.index(cell) for cell in cells])
    within, between = _means(agreement, labels)
    p_value, reason = None, None
    if within is None:
        reason = "one seed a cell: how far two seeds of one cell agree is not known"
    elif between is None:
        reason = "one cell: nothing to compare it with"
    else:
        p_value = _p_value(agreement, labels, within - between, seed)
    pairs = [
        _pair(solved, agreement, labels, names, first, second)
        for first, second in itertools.combinations_with_replacement(range(len(names)), 2)
    ]
    return Overlap(
        pairs=tuple(pair for pair in pairs if pair.num_pairs),
        within=within,
        between=between,
        p_value=p_value,
        num_problems=solved.shape[1],
        num_runs=solved.shape[0],
        reason=reason,
    )


def phi(solved: Bool[np.ndarray, "runs problems"]) -> Float[np.ndarray, "runs runs"]:
    """Correlation of solved and unsolved between every two runs; NaN where a run has one of the two
    only."""
    centred = solved - solved.mean(axis=1, keepdims=True)
    size = np.sqrt((centred**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Float[np.ndarray, "runs runs"] = (
            centred @ centred.T / (size[:, None] * size[None, :])
        )
    return found


def _pair(
    solved: Bool[np.ndarray, "runs problems"],
    agreement: Float[np.ndarray, "runs runs"],
    labels: np.ndarray,
    names: Sequence[str],
    first: int,
    second: int,
) -> PairOverlap:
    counts = solved.sum(axis=1)
    places = [
        (int(i), int(j))
        for i in np.flatnonzero(labels == first)
        for j in np.flatnonzero(labels == second)
        if i < j or (first != second)
    ]
    values = np.array([agreement[place] for place in places])
    known = values[np.isfinite(values)]
    number = max(len(places), 1)
    return PairOverlap(
        first=names[first],
        second=names[second],
        num_pairs=len(places),
        shared=sum(int((solved[i] & solved[j]).sum()) for i, j in places) / number,
        chance=sum(float(counts[i] * counts[j]) for i, j in places) / solved.shape[1] / number,
        agreement=float(known.mean()) if known.size else None,
    )


def _means(
    agreement: Float[np.ndarray, "runs runs"], labels: np.ndarray
) -> tuple[float | None, float | None]:
    """Mean agreement of pairs within a cell and between cells."""
    upper = np.triu(np.ones_like(agreement, dtype=bool), 1) & np.isfinite(agreement)
    same = labels[:, None] == labels[None, :]
    within, between = agreement[upper & same], agreement[upper & ~same]
    return (
        float(within.mean()) if within.size else None,
        float(between.mean()) if between.size else None,
    )


def _p_value(
    agreement: Float[np.ndarray, "runs runs"], labels: np.ndarray, seen: float, seed: int
) -> float:
    """Share of exchanges of labels whose difference is as large, the seen one counted."""
    generator = np.random.default_rng(seed)
    larger = 1
    for _ in range(PERMUTATIONS):
        within, between = _means(agreement, generator.permutation(labels))
        larger += within is not None and between is not None and within - between >= seen - 1e-12
    return larger / (PERMUTATIONS + 1)
