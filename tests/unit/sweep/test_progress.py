"""Laws of progress: shares add up, and a log gets plain lines."""

import io
import re

import pytest
from rich.console import Console

from isoflop.sweep.pool import RunProgress
from isoflop.sweep.progress import Bars, Family, PlainLines, open_progress, run_share
from isoflop.sweep.study import map_study


def said(stage: str, done: int = 0, total: int = 1, run: int = 0, reason: str | None = None):
    return RunProgress(run, stage, done, total, 1000.0 if stage == "train" else None, reason)


def test_a_runs_share_grows_from_start_to_end():
    stages = [
        *(said("start"), said("train", 1, 4), said("train", 4, 4)),
        *(said("evaluate", 0, 2), said("evaluate", 1, 2), said("evaluate", 2, 2), said("done")),
    ]
    shares = [run_share(stage) for stage in stages]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1], run_share(said("failed"))) == (0.0, 1.0, 1.0)


def test_the_family_is_the_mean_of_its_runs():
    family = Family([3, 5])
    assert (family.share, family.seconds_left) == (0.0, None)
    family.take(said("done", 1, 1, run=5))
    assert family.share == 0.5
    assert family.seconds_left >= 0
    assert Family([]).share == 0.0


def shown(out: io.StringIO) -> str:
    """The text without the codes that colour it."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())


@pytest.fixture
def study(finished):
    return map_study(finished.experiment)


def test_a_log_gets_one_plain_line_a_finished_run(study):
    out = io.StringIO()
    progress = open_progress(study, [0, 1], Console(file=out, width=20))
    assert isinstance(progress, PlainLines)
    reason = "a reason [with brackets] longer than the console is wide"
    for stage in (said("start"), said("train", 1, 2), said("done")):
        progress.tell(stage)
        progress.tick()
    progress.tell(said("failed", run=1, reason=reason))
    progress.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("E2-k2-s0 done (1/2 cells, ")
    assert lines[1] == f"E4-k2-s0 failed: {reason} (2/2 cells)"


def test_a_terminal_gets_bars_and_lines_of_finished_runs(study):
    out = io.StringIO()
    progress = open_progress(study, [0, 1], Console(file=out, force_terminal=True, width=120))
    assert isinstance(progress, Bars)
    for stage in (said("start"), said("train", 1, 2), said("evaluate", 1, 2), said("done")):
        progress.tell(stage)
        progress.tick()
    progress.tell(said("start", run=1))
    progress.tell(said("failed", run=1, reason="why [not]"))
    progress.close()
    assert "E2-k2-s0 done" in shown(out)
    assert "E4-k2-s0 failed: why [not]" in shown(out)
