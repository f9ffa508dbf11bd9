"""What a figure is learnt from: runs with their settings, and the same by cell.

Shapes in this file:
    points     runs of the table
    places     settings to predict
    cells      settings that were run, each by one or more runs
"""

import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from isoflop.analysis.tables.columns import is_share

FEATURES = ("active_params", "expansion", "tokens", "top_k")
"""What a figure may depend on: N, E/k, D and k."""

Settings = dict[str, Float[np.ndarray, " places"]]
"""By feature."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What a figure is learnt from."""

    column: str
    settings: dict[str, Float[np.ndarray, " points"]]
    """By feature."""
    figure: Float[np.ndarray, " points"]
    cluster: Int[np.ndarray, " points"]
    """The cell of each run, counted from 0."""

    @property
    def is_share(self) -> bool:
        """Whether the figure is an accuracy or another share, which may be 0."""
        return is_share(self.column)

    @property
    def seed(self) -> int:
        """Of the draws: each figure has its own, so that errors of two tasks do not go together."""
        return zlib.crc32(self.column.encode())

    @property
    def response(self) -> Float[np.ndarray, " points"]:
        """What is modelled: an accuracy as it is, a loss by its logarithm."""
        return self.figure if self.is_share else np.log(self.figure)

    @property
    def varying(self) -> tuple[str, ...]:
        """Features with more than one value."""
        return tuple(
            name
            for name in FEATURES
            if name in self.settings and len(np.unique(self.settings[name].round(9))) > 1
        )

    def scaled(self, places: Settings) -> Float[np.ndarray, "places features"]:
        """Logarithms of the varying features, centred on the runs, whose range is 1."""
        columns = []
        for name in self.varying:
            known = np.log(self.settings[name])
            columns.append((np.log(places[name]) - known.mean()) / float(np.ptp(known)))
        return np.stack(columns, axis=1)

    def cells(self) -> "Cells":
        """Means by cell."""
        counts = np.bincount(self.cluster)
        spare = len(self.figure) - len(counts)

        def mean(values: np.ndarray) -> np.ndarray:
            return np.bincount(self.cluster, weights=values) / counts

        response = mean(self.response)
        within = float(((self.response - response[self.cluster]) ** 2).sum())
        return Cells(
            settings={name: np.exp(mean(np.log(v))) for name, v in self.settings.items()},
            response=response,
            counts=counts,
            run_variance=within / spare if spare else None,
        )


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Runs by cell."""

    settings: dict[str, Float[np.ndarray, " cells"]]
    """By feature; geometric means."""
    response: Float[np.ndarray, " cells"]
    counts: Int[np.ndarray, " cells"]
    """Runs of each."""
    run_variance: float | None
    """Of one run about its cell; None where every cell has one run."""

    def __len__(self) -> int:
        return len(self.response)
