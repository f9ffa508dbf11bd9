"""What a person sees while a study runs: a bar for the family and one for each running cell.

On a terminal bars by rich; elsewhere one plain line a cell and one every minute.
"""

import time
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from isoflop.sweep.pool import RunProgress
from isoflop.sweep.study import StudyMap

PLAIN_INTERVAL_SECONDS = 60.0
"""Time between plain lines of progress; chosen so that a log of hours stays readable."""

EVALUATION_SHARE = 0.1
"""Share of a run's progress that is evaluation; a guess that only moves the bar."""

GRPO_SHARE = 0.5
"""The same of GRPO, where the study has it."""


@runtime_checkable
class StudyProgress(Protocol):
    """Hears what the pool says."""

    def tell(self, said: RunProgress) -> None:
        """Take in one worker's progress."""

    def tick(self) -> None:
        """Called about twice a second."""

    def close(self) -> None:
        """The study ended or was interrupted."""


def open_progress(study: StudyMap, pending: list[int], console: Console) -> StudyProgress:
    """Bars where there is a terminal, plain lines elsewhere."""
    return (Bars if console.is_terminal else PlainLines)(study, pending, console)


def run_share(said: RunProgress, grpo_share: float = 0.0) -> float:
    """Share of a run that is behind, from what its worker said.

    Args:
        grpo_share: of the run's progress that is GRPO.
    """
    if said.stage == "train":
        return (1 - grpo_share) * (1 - EVALUATION_SHARE) * said.done / said.total
    if said.stage == "evaluate":
        return (1 - grpo_share) * (1 - EVALUATION_SHARE * (1 - said.done / said.total))
    if said.stage == "grpo":
        return 1 - grpo_share * (1 - said.done / said.total)
    return 0.0 if said.stage == "start" else 1.0


def grpo_share_of(study: StudyMap) -> float:
    """Share of a run's progress that is GRPO."""
    return GRPO_SHARE if study.experiment.grpo else 0.0


class Family:
    """How far all pending runs are together, and how long the rest will take."""

    def __init__(self, pending: list[int], grpo_share: float = 0.0):
        self.shares = dict.fromkeys(pending, 0.0)
        self.grpo_share = grpo_share
        self._begun = time.monotonic()

    def take(self, said: RunProgress) -> None:
        """Remember a run's progress."""
        self.shares[said.run] = run_share(said, self.grpo_share)

    @property
    def share(self) -> float:
        """Share of all pending runs that is behind."""
        return sum(self.shares.values()) / max(len(self.shares), 1)

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before there is any."""
        passed = time.monotonic() - self._begun
        return passed / self.share * (1 - self.share) if self.share > 0 else None


class PlainLines:
    """For logs and pipes."""

    def __init__(self, study: StudyMap, pending: list[int], console: Console):
        self._study, self._console = study, console
        self._family = Family(pending, grpo_share_of(study))
        self._last = time.monotonic()

    def tell(self, said: RunProgress) -> None:
        """Print the ends of runs."""
        self._family.take(said)
        if said.stage in ("done", "failed"):
            finished = sum(share == 1.0 for share in self._family.shares.values())
            name = self._study.runs[said.run].name
            reason = f": {said.reason}" if said.reason else ""
            total = len(self._family.shares)
            self._line(f"{name} {said.stage}{reason} ({finished}/{total} cells{self._left()})")

    def tick(self) -> None:
        """Print a line now and then."""
        if time.monotonic() - self._last > PLAIN_INTERVAL_SECONDS:
            self._line(f"{self._family.share:.0%} of the family{self._left()}")

    def close(self) -> None:
        """Nothing is open."""

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _left(self) -> str:
        seconds = self._family.seconds_left
        return (
            "" if seconds is None or self._family.share >= 1 else f", {seconds / 60:.0f} min left"
        )


class Bars:
    """For terminals."""

    def __init__(self, study: StudyMap, pending: list[int], console: Console):
        self._study = study
        self._family = Family(pending, grpo_share_of(study))
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._all = self._progress.add_task("family", total=1.0, note=f"{len(pending)} cells")
        self._bars: dict[int, TaskID] = {}
        self._progress.start()

    def tell(self, said: RunProgress) -> None:
        """Move the bars; a finished cell leaves a line above them."""
        self._family.take(said)
        name = self._study.runs[said.run].name
        if said.stage == "start":
            self._bars[said.run] = self._progress.add_task(name, total=1.0, note="starting")
        bar = self._bars[said.run]
        speed = f" {said.tokens_per_second:,.0f} tokens/s" if said.tokens_per_second else ""
        note = f"{said.stage} {said.done}/{said.total}{speed}"
        share = self._family.shares[said.run]
        self._progress.update(bar, completed=share, note=note)
        self._progress.update(self._all, completed=self._family.share)
        if said.stage in ("done", "failed"):
            self._progress.remove_task(bar)
            reason = f": {said.reason}" if said.reason else ""
            self._progress.console.print(f"{name} {said.stage}{reason}", markup=False)

    def tick(self) -> None:
        """rich redraws by itself."""

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()
