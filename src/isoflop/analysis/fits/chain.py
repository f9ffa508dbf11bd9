"""From loss to task loss, and from task loss to accuracy, each with intervals.

    sigmoid    accuracy = a / (1 + exp(-k (L - L0))) + b      k < 0: less loss, more accuracy
               second step of the ladder (Bhagia et al. 2024, arXiv:2412.04403); the first step is
               a law of task loss, fitted like any other with --column TASK.bits_per_byte
    transfer   L_task = K (L_train - E_train)^kappa + E_task
               loss to loss (Brandfonbrener et al. 2024, arXiv:2411.12925)

Both have the form of laws, so the fit, its bootstrap over cells and its profiles are the same.
All checkpoints enter: the ladder too fits its second step on them, as a loss already says how far
a run is. That a task answers to the loss alone is an assumption, and just what the paper doubts for
reasoning: `questions.equal_loss` tests it.
"""

from dataclasses import replace

import numpy as np

from isoflop.analysis.fits.fit import REPLICATES, Fit, fit_points
from isoflop.analysis.fits.points import Points, require_enough
from isoflop.analysis.laws.law import (
    Basis,
    Exponent,
    Exponents,
    Input,
    Inputs,
    Law,
    Term,
    constant,
)
from isoflop.analysis.tables.run_table import RunTable
from isoflop.config import UserError

MOST_STEEP = 40.0
"""Of the sigmoid, an accuracy's range a bit or nat: steeper is a step that few tables resolve."""


def sigmoid_law(low_loss: float, high_loss: float) -> Law:
    """Accuracy from a loss; losses seen lie between `low_loss` and `high_loss`."""
    span = high_loss - low_loss
    return Law(
        name="sigmoid",
        title="Loss to accuracy (ladder, second step)",
        source="arXiv:2412.04403",
        formula="accuracy = a / (1 + exp(-k (L - L0))) + b",
        inputs=(Input(name="L", column="", meaning="loss"),),
        exponents=(
            Exponent(name="k", low=-MOST_STEEP / span, high=-0.5 / span),
            Exponent(name="L0", low=low_loss - span, high=high_loss + span),
        ),
        terms=(Term(name="a"), Term(name="b", positive=False)),
        basis=_sigmoid_basis,
        link="plain",
        response="accuracy",
        published={},
    )


def transfer_law(low_loss: float, span: float) -> Law:
    """Task loss from a loss that is nowhere below `low_loss`."""
    return Law(
        name="transfer",
        title="Loss to loss",
        source="arXiv:2411.12925",
        formula="L_task = K (L_train - E_train)^kappa + E_task",
        inputs=(Input(name="L", column="", meaning="loss"),),
        exponents=(
            Exponent(name="kappa", low=0.1, high=5.0),
            Exponent(name="E_train", low=max(low_loss - 3 * span, 0.0), high=low_loss - span / 200),
        ),
        terms=(Term(name="K"), Term(name="E_task")),
        basis=_transfer_basis,
        published={},
    )


def fit_sigmoid(
    table: RunTable, loss: str, accuracy: str, replicates: int = REPLICATES, seed: int = 0
) -> Fit:
    """Accuracy as a sigmoid of a loss, over all pre-training checkpoints.

    Args:
        loss: Column of the loss, e.g. TASK.bits_per_byte or train_loss.
        accuracy: Column of the accuracy.

    Raises:
        UserError: columns missing, or too few checkpoints.
    """
    chosen, x, y = _pairs(table, loss, accuracy)
    law = sigmoid_law(float(x.min()), float(x.max()))
    found = _fit(chosen, law, loss, accuracy, x, y, replicates, seed)
    return _without_top(found) if "L0" in found.unidentified else found


def _without_top(found: Fit) -> Fit:
    """Where the middle of the curve is not told, neither is its height: a ends where L0's search does."""
    height = next(one for one in found.coefficients if one.name == "a")
    open_above = replace(height, status="not identified", high=None)
    told = tuple(open_above if one.name == "a" else one for one in found.coefficients)
    return replace(found, coefficients=told)


def fit_transfer(
    table: RunTable, loss: str, task_loss: str, replicates: int = REPLICATES, seed: int = 0
) -> Fit:
    """A task's loss from a language-model loss, over all pre-training checkpoints.

    Raises:
        UserError: columns missing, or too few checkpoints.
    """
    chosen, x, y = _pairs(table, loss, task_loss)
    if not (y > 0).all():
        raise UserError(f"{table.name}: {task_loss} must be above 0 to be fitted")
    law = transfer_law(float(x.min()), float(np.ptp(x)))
    return _fit(chosen, law, loss, task_loss, x, y, replicates, seed)


def _pairs(table: RunTable, first: str, second: str) -> tuple[RunTable, np.ndarray, np.ndarray]:
    chosen = table.pretrained
    x, y = chosen.number(first), chosen.number(second)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise UserError(
            f"{table.name}: {int(known.sum())} lines have both {first} and {second}, "
            "and one of the two has a single value there: no curve can be fitted"
        )
    return chosen.where(known), x, y


def _fit(
    chosen: RunTable,
    law: Law,
    loss: str,
    column: str,
    x: np.ndarray,
    y: np.ndarray,
    replicates: int,
    seed: int,
) -> Fit:
    cells = np.unique(np.array(chosen.cells), return_inverse=True)[1].reshape(-1)
    points = Points(
        law=replace(law, inputs=(replace(law.inputs[0], column=loss),)),
        column=column,
        inputs={"L": x},
        response=y,
        cluster=cells,
        design=np.unique(x, return_inverse=True)[1].reshape(-1),
        flops=chosen.number("train_flops"),
        names=chosen.runs,
        notes=chosen.notes,
    )
    require_enough(points, chosen.name)
    return fit_points(points, chosen.name, replicates, seed)


def _sigmoid_basis(inputs: Inputs, exponents: Exponents) -> Basis:
    steep, middle = exponents[:, :1], exponents[:, 1:2]
    reach = np.clip(-steep * (inputs["L"][None, :] - middle), -500, 500)
    return np.stack([1 / (1 + np.exp(reach)), constant(exponents, inputs["L"])], axis=-1)


def _transfer_basis(inputs: Inputs, exponents: Exponents) -> Basis:
    kappa, floor = exponents[:, :1], exponents[:, 1:2]
    above = np.maximum(inputs["L"][None, :] - floor, 1e-9)
    return np.stack([above**kappa, constant(exponents, inputs["L"])], axis=-1)
