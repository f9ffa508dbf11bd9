"""Training time from measured throughput: seconds a token as work and memory traffic, both measured.

    seconds a token = a x FLOPs a token + b x total parameters

The second part is what a sparse model pays beyond its FLOPs: all experts' weights pass through
memory and optimiser. a and b are least squares of relative errors, neither below 0.
"""

from dataclasses import dataclass

import numpy as np

from isoflop.analysis.recommend.candidates import Candidate
from isoflop.analysis.tables.run_table import RunTable, group_lines

MIN_CELLS = 3
"""Cells with a speed that two coefficients need."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a device does, learnt from the table's speeds."""

    seconds_per_flop: float
    seconds_per_param: float
    """A token: total parameters are touched once a step, so this holds for the table's batch."""
    typical_error: float
    """Root mean square relative error over the cells."""
    num_cells: int
    measured: dict[str, float]
    """Seconds a token and device by cell."""

    def seconds_per_token(self, model: Candidate) -> float:
        """Of one device; the measured figure where there is one."""
        known = self.own(model)
        if known is not None:
            return known
        return (
            self.seconds_per_flop * model.flops_per_token
            + self.seconds_per_param * model.total_params
        )

    def own(self, model: Candidate) -> float | None:
        """What the model's own cells took, the median; None where no cell has a speed."""
        found = [self.measured[cell] for cell in model.cells if cell in self.measured]
        return float(np.median(found)) if found else None


def learn_speed(table: RunTable, models: tuple[Candidate, ...]) -> Speed | None:
    """The speed that the table's cells show; None for fewer than three cells with a speed."""
    final = table.final
    if not final.has("tokens_per_second"):
        return None
    devices = final.numbers.get("num_devices", np.ones(len(final)))
    per_token = np.where(np.isnan(devices), 1.0, devices) / final.number("tokens_per_second")
    measured = {
        cell: float(np.nanmedian(per_token[places]))
        for cell, places in group_lines(final.cells).items()
        if np.isfinite(per_token[places]).any()
    }
    known = [model for model in models if any(cell in measured for cell in model.cells)]
    if len(known) < MIN_CELLS:
        return None
    target = np.array(
        [np.median([measured[c] for c in model.cells if c in measured]) for model in known]
    )
    parts = np.array([[model.flops_per_token, model.total_params] for model in known])
    design = parts / target[:, None]
    slopes = _non_negative(design)
    errors = design @ slopes - 1
    return Speed(
        seconds_per_flop=float(slopes[0]),
        seconds_per_param=float(slopes[1]),
        typical_error=float(np.sqrt((errors**2).mean())),
        num_cells=len(known),
        measured=measured,
    )


def _non_negative(design: np.ndarray) -> np.ndarray:
    """Least squares of design @ x = 1 with both coefficients at least 0."""
    both: np.ndarray = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)[0]
    if (both >= 0).all():
        return both
    single = [(column.sum() / (column**2).sum()) for column in design.T]
    errors = [((design[:, i] * single[i] - 1) ** 2).sum() for i in range(2)]
    found = np.zeros(2)
    found[int(np.argmin(errors))] = single[int(np.argmin(errors))]
    return found
