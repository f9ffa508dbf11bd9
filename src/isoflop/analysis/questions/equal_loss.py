"""At equal training loss, does another thing matter: active compute, sparsity, a learning rate?

A score is a smooth curve of the loss (a parabola over the range that all settings share) plus a
straight effect of the logarithm of the factor. The effect is what remains at equal loss. Its error
is clustered by cell, as checkpoints and seeds of one cell share their luck.

Sources: cluster-robust errors, Liang and Zeger 1986 (Biometrika 73, 13), with the small-sample
factor and Student's quantile of clusters less one, Cameron and Miller 2015 (Journal of Human
Resources 50, 317).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from isoflop.analysis.laws.catalogue import law_column
from isoflop.analysis.statistics import CONFIDENCE
from isoflop.analysis.tables.run_table import RunTable

MIN_CELLS = 6
"""Clusters that an error needs; with fewer it is far too small. Chosen."""

FACTORS = {
    "active_params": "active parameters",
    "expansion": "E/k, sparsity",
    "top_k": "k",
    "learning_rate": "peak learning rate",
    "init_std": "initial weights' standard deviation",
    "adam_epsilon": "AdamW's epsilon",
}
"""Columns whose effect at equal loss may be asked, in words."""


@dataclass(frozen=True, kw_only=True)
class EqualLossEffect:
    """What doubling one factor changes in one figure at equal loss."""

    column: str
    """The figure."""
    loss: str
    factor: str
    effect: float | None
    """Change with each doubling of the factor, in the figure's unit; None: not tested."""
    low: float | None
    high: float | None
    p_value: float | None
    """Two-sided."""
    loss_range: tuple[float, float] | None
    """Losses that every value of the factor reaches; only checkpoints within it are compared."""
    num_points: int
    num_cells: int
    reason: str | None
    """Why it was not tested."""


def equal_loss_effect(
    table: RunTable, column: str, factor: str, *, loss: str = "train_loss"
) -> EqualLossEffect:
    """Effect of `factor` on `column` among pre-training checkpoints of equal `loss`."""
    chosen = table.pretrained
    values = law_column(chosen, factor)
    if values is None or not chosen.has(column, loss):
        missing = [name for name in (column, loss) if not chosen.has(name)]
        missing += [factor] if values is None else []
        return _nothing(column, loss, factor, f"the table lacks {', '.join(missing)}")
    y, x = chosen.number(column), chosen.number(loss)
    known = np.isfinite(values) & np.isfinite(y) & np.isfinite(x) & (values > 0)
    y, x, f = y[known], x[known], np.log2(values[known])
    cells = np.unique(np.array(chosen.cells)[known], return_inverse=True)[1].reshape(-1)
    levels = np.unique(f.round(9))
    if len(levels) < 2:
        return _nothing(column, loss, factor, f"{factor} has one value")
    low = max(float(x[np.isclose(f, level)].min()) for level in levels)
    high = min(float(x[np.isclose(f, level)].max()) for level in levels)
    within = (x >= low) & (x <= high)
    num_cells = len(np.unique(cells[within]))
    if low >= high or num_cells < MIN_CELLS:
        reason = (
            f"values of {factor} share no range of {loss}"
            if low >= high
            else f"{num_cells} cells share a range of {loss}; {MIN_CELLS} are needed"
        )
        return _nothing(column, loss, factor, reason)
    return _tested(
        column, loss, factor, y[within], x[within], f[within], cells[within], (low, high)
    )


def _tested(
    column: str,
    loss: str,
    factor: str,
    y: Float[np.ndarray, " points"],
    x: Float[np.ndarray, " points"],
    f: Float[np.ndarray, " points"],
    cells: np.ndarray,
    loss_range: tuple[float, float],
) -> EqualLossEffect:
    centred = (x - x.mean()) / max(float(np.ptp(x)), 1e-12)
    design = np.stack([f - f.mean(), np.ones_like(x), centred, centred**2], axis=1)
    effect, error, freedom = clustered_slope(design, y, cells)
    num_cells = len(np.unique(cells))
    if error == 0 or np.linalg.matrix_rank(design) < design.shape[1]:
        return _nothing(column, loss, factor, f"{factor} and {loss} go together: not told apart")
    half = error * float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
    return EqualLossEffect(
        column=column,
        loss=loss,
        factor=factor,
        effect=effect,
        low=effect - half,
        high=effect + half,
        p_value=2 * float(stdtr(freedom, -abs(effect) / error)),
        loss_range=loss_range,
        num_points=len(y),
        num_cells=num_cells,
        reason=None,
    )


def clustered_slope(
    design: Float[np.ndarray, "points terms"],
    y: Float[np.ndarray, " points"],
    clusters: np.ndarray,
) -> tuple[float, float, int]:
    """First coefficient of least squares, its cluster-robust error, and its degrees of freedom."""
    inverse = np.linalg.pinv(design.T @ design)
    coefficients = inverse @ design.T @ y
    residuals = y - design @ coefficients
    labels = np.unique(clusters)
    scores = np.stack([design[clusters == c].T @ residuals[clusters == c] for c in labels])
    count, (points, terms) = len(labels), design.shape
    factor = count / max(count - 1, 1) * (points - 1) / max(points - terms, 1)
    covariance = factor * inverse @ (scores.T @ scores) @ inverse
    return float(coefficients[0]), float(np.sqrt(covariance[0, 0])), max(count - 1, 1)


def _nothing(column: str, loss: str, factor: str, reason: str) -> EqualLossEffect:
    return EqualLossEffect(
        column=column,
        loss=loss,
        factor=factor,
        effect=None,
        low=None,
        high=None,
        p_value=None,
        loss_range=None,
        num_points=0,
        num_cells=0,
        reason=reason,
    )
