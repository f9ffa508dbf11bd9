"""What the ruler is asked, and what it found."""

import statistics
from dataclasses import dataclass
from typing import Literal

from isoflop.bench.contestants import Contestant
from isoflop.bench.shapes import Device, Shape

State = Literal["measured", "loss differs", "skipped", "failed"]
MIN_ROUND_SECONDS = 2.0
"""Of each contestant in each round. Chosen long against a step, short against the machine's drift."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and how."""

    device: Device = "cpu"
    threads: int = 1
    rounds: int = 5
    round_seconds: float = MIN_ROUND_SECONDS
    peers: list[str] | None = None
    """As in `isoflop.bench.contestants.contestants`."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One contestant's first steps at one shape, alone in its process."""

    contestant: Contestant
    state: State
    reason: str | None = None
    """Why nothing, or no speed, is told."""
    losses: tuple[float, ...] = ()
    """Before each step, router losses left out."""
    tokens_per_second: float | None = None
    """Of few steps: decides who is best of its family. None: not told."""
    flops_per_second: float | None = None
    """By `train_flops_per_token_with_router`."""
    peak_share: float | None = None
    """Of the matrix product's best speed in the same precision."""
    peak_memory_bytes: int | None = None
    """Above what the process held before the model was built, see `PeakMemory`."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two best, over all rounds."""

    contestant: Contestant
    losses: tuple[float, ...]
    tokens_per_second: tuple[float, ...]
    """One a round."""
    peak_flops_per_second: tuple[float, ...]
    """Of the matrix product in the same precision, measured in each round; one a round."""
    flops_per_token: int

    @property
    def speed(self) -> float:
        """Median tokens per second."""
        return statistics.median(self.tokens_per_second)

    @property
    def peak_share(self) -> float:
        """Median over rounds of achieved FLOP/s / the matrix product's."""
        rounds = zip(self.tokens_per_second, self.peak_flops_per_second, strict=True)
        return statistics.median(speed * self.flops_per_token / peak for speed, peak in rounds)


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Ours against the best peer, round by round."""

    ours: Side
    peer: Side
    together: bool
    """Whether both stayed in memory; else each turn built its model anew, and its first step was
    not timed."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours / peer, one a round."""
        rounds = zip(self.ours.tokens_per_second, self.peer.tokens_per_second, strict=True)
        return tuple(ours / peer for ours, peer in rounds)


@dataclass(frozen=True, kw_only=True)
class ShapeResult:
    """All that was measured at one shape."""

    shape: Shape
    flops_per_token: int
    matrix_peaks: dict[str, float]
    """FLOP/s of the matrix product by precision, before the contestants."""
    trials: tuple[Trial, ...]
    duel: Duel | None
    """None: one side has no contestant with the right losses."""
