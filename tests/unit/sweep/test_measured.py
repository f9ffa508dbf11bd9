"""Times of finished runs, for schedules."""

import re
import shutil
from dataclasses import replace

import pytest

from isoflop.cli import main
from isoflop.config import UserError
from isoflop.design.layout import Layout
from isoflop.records import TimingRow, read_rows
from isoflop.sweep.measured import (
    PREPARE,
    REPORT,
    SPANS,
    SpanRow,
    Spans,
    measure_study,
    run_seconds,
)
from isoflop.sweep.study import read_study_map


def test_every_part_of_a_fresh_study_has_its_span(finished):
    rows = list(read_rows(finished.root / SPANS, SpanRow))
    runs = {run.train.path for run in read_study_map(finished.root).runs}
    assert {row.part for row in rows} == {PREPARE, REPORT, *runs}
    assert len(rows) == 2 + len(runs)
    assert all(row.seconds > 0 and row.workers == 2 for row in rows)
    assert {row.layout for row in rows} == {Layout()}
    found = measure_study(finished.root)
    assert (found.before, found.after) == (rows[0].seconds, rows[-1].seconds)
    assert found.workers == 2
    for run in read_study_map(finished.root).runs:
        (whole,) = (row.seconds for row in rows if row.part == run.train.path)
        timing = list(read_rows(finished.root / run.train.path / "timings.jsonl", TimingRow))[-1]
        assert found.cells[run.cell].training == timing.seconds > 0
        assert found.cells[run.cell].training + found.cells[run.cell].around == whole


def test_more_tokens_take_longer_in_training_alone(finished):
    found = measure_study(finished.root)
    train = finished.experiment.train
    longer = replace(finished.experiment, train=replace(train, train_tokens=3 * train.train_tokens))
    same, three = run_seconds(found, finished.experiment), run_seconds(found, longer)
    for cell, seconds in found.cells.items():
        assert same[cell] == pytest.approx(seconds.training + seconds.around)
        assert three[cell] == pytest.approx(3 * seconds.training + seconds.around)


def test_a_run_that_goes_on_has_no_span_and_is_read_off_its_files(finished, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    (root / SPANS).unlink()
    study = read_study_map(root)
    spans = Spans(study, root, 1, None)
    spans.start(0)
    spans.done(0)
    assert not (root / SPANS).exists()
    found = measure_study(root)
    assert found.before is found.after is found.workers is None
    assert found.layouts == {None}
    assert all(seconds.around >= 0 for seconds in found.cells.values())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda e: replace(e, train=replace(e.train, batch_sequences=4)),
            "train.batch_sequences=8",
        ),
        (
            lambda e: replace(e, evaluate=replace(e.evaluate, max_new_tokens=9)),
            "evaluate.max_new_tokens=8, planned with 9",
        ),
        (
            lambda e: replace(
                e, cells=tuple(replace(c, model=replace(c.model, d_expert=64)) for c in e.cells)
            ),
            "E2-k2 was measured with another model",
        ),
    ],
)
def test_times_of_another_study_are_not_taken(finished, change, told):
    with pytest.raises(UserError, match=re.escape(told)):
        run_seconds(measure_study(finished.root), change(finished.experiment))


def test_times_of_one_process_are_not_taken_for_ranks(finished):
    found = measure_study(finished.root)
    with pytest.raises(UserError, match=r"measured on 1 rank, planned for 4 ranks, shard 2"):
        run_seconds(found, finished.experiment, Layout(ranks=4, shard=2))
    ranks = replace(found, layouts=frozenset({Layout(ranks=4, shard=2), None}))
    assert run_seconds(ranks, finished.experiment, Layout(ranks=4, shard=2))
    with pytest.raises(UserError, match=r"measured on 4 ranks, shard 2"):
        run_seconds(ranks, finished.experiment)


def test_rows_of_times_from_before_layouts_were_kept_are_read(tmp_path):
    (tmp_path / SPANS).write_text('{"part": "train/x", "seconds": 1.5, "workers": 2}\n')
    assert list(read_rows(tmp_path / SPANS, SpanRow)) == [
        SpanRow(part="train/x", seconds=1.5, workers=2, layout=None)
    ]


def test_a_study_without_a_finished_run_is_told(finished, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(finished.root, root)
    shutil.rmtree(root / "evaluate")
    with pytest.raises(UserError, match="no finished run to measure"):
        measure_study(root)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--workers", "2", "--flops-per-second", "1e9"], 0, "7 runs on 2 workers"),
        (["--workers", "2"], 2, "one of --measured and --flops-per-second"),
        (["--flops-per-second", "1e9"], 2, "give --workers too"),
        (["--workers", "2", "--measured", "ROOT"], 2, "no finished run of E8-k2, E16-k2"),
    ],
)
def test_schedules_on_the_command_line(finished, words, status, told, capsys, monkeypatch):
    words = [str(finished.root) if word == "ROOT" else word for word in words]
    monkeypatch.setattr("sys.argv", ["isoflop", "plan", "demo", *words])
    assert main() == status
    said = capsys.readouterr()
    assert told in (said.err if status else said.out)
