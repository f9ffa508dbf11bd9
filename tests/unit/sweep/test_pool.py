"""Which GPUs a run's ranks have, and why a worker ended."""

import pytest

from isoflop.config import UserError
from isoflop.design.layout import Layout
from isoflop.sweep import run as sweep_run
from isoflop.sweep.pool import REASON, check_gpus, last_words, tell_reason
from isoflop.sweep.run import run_study


def test_more_ranks_than_gpus_are_refused():
    with pytest.raises(UserError, match=r"--ranks 4: .*there are 2; give fewer ranks"):
        check_gpus(Layout(ranks=4), ("0", "1"))


@pytest.mark.parametrize(
    ("layout", "gpus"),
    [
        (None, ("0",)),
        (Layout(ranks=2), ("0", "1")),
        # Ranks on cores, where there is no GPU or none may be used.
        (Layout(ranks=4), ()),
    ],
)
def test_ranks_that_have_a_gpu_each_are_not_refused(layout, gpus):
    check_gpus(layout, gpus)


def test_a_study_with_more_ranks_than_gpus_leaves_nothing_behind(finished, monkeypatch, tmp_path):
    monkeypatch.setattr(sweep_run, "visible_gpus", lambda: ("0",))
    with pytest.raises(UserError, match="needs a GPU of its own"):
        run_study(finished.experiment, tmp_path / "study", layout=Layout(ranks=2))
    assert not (tmp_path / "study").exists()


def test_a_worker_is_told_by_its_reason_and_not_by_what_libraries_wrote(capfd, tmp_path):
    tell_reason("max_new_tokens=4 is too few:\nthe answers need 9")
    said = capfd.readouterr().err
    assert said == f"{REASON}max_new_tokens=4 is too few: the answers need 9\n"
    stderr = tmp_path / "stderr.txt"
    stderr.write_text(f"E1126 api.py:900] failed (exitcode: 2)\n{said}[W] not destroyed\n")
    assert last_words(stderr) == "max_new_tokens=4 is too few: the answers need 9"


def test_a_worker_that_told_no_reason_is_told_by_its_last_line(tmp_path):
    stderr = tmp_path / "stderr.txt"
    stderr.write_text("Traceback\n  line\nRuntimeError: broken\n")
    assert last_words(stderr) == "RuntimeError: broken"
    stderr.write_text("")
    assert last_words(stderr) == ""
