"""The same rows give the same bytes; every chart stands alone and can be read aloud."""

import xml.etree.ElementTree as ElementTree

import pytest
from tests.fakes_analysis import (
    checkpoint,
    flat,
    loss_row,
    rows_from,
    rows_of,
    sparse_helps,
    study_of,
)

from isoflop.analysis.answer import answer
from isoflop.analysis.charts.svg import svg_text
from isoflop.analysis.figures import all_figures
from isoflop.analysis.statistics import estimate
from isoflop.analysis.table import sort_rows, table

SMALL = rows_of(sparse_helps, flat, seeds=2, steps=(50, 100), grid=((2, 2), (8, 2), (16, 4)))

DRAWN = (
    *("density-memory-accuracy", "size-train", "size-memory-accuracy", "tpp-memory-accuracy"),
    *("loss-reasoning-bits_per_byte", "gap-train-test-reasoning", "training-loss"),
)
"""One chart of each kind."""


def drawn(rows):
    groups = all_figures(study_of(rows))
    return {chart.name: chart for group in groups for chart in group.charts}


@pytest.fixture(scope="module")
def texts():
    return {name: svg_text(panel) for name, panel in drawn(SMALL).items() if name in DRAWN}


def test_all_groups_are_there_and_names_are_unique():
    groups = all_figures(study_of(SMALL))
    assert [g.name for g in groups] == ["density", "size", "loss", "tpp", "gaps", "training"]
    names = [chart.name for group in groups for chart in group.charts]
    assert set(DRAWN) <= set(names)
    assert len(set(names)) == len(names)
    assert "gap-train-test-reasoning" in names
    assert "gap-train-test-memory" not in names


def test_bytes_do_not_depend_on_the_day_or_the_order_of_rows(texts):
    panels = drawn(SMALL[::-1])
    for name in ("density-memory-accuracy", "loss-reasoning-bits_per_byte", "training-loss"):
        assert svg_text(panels[name]) == texts[name]


def test_panels_are_xml_with_a_label_and_without_dates(texts):
    for text in texts.values():
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 20
        assert "id=" not in text.replace("data-", "")  # several charts share one page


def test_hostile_names_are_text():
    name = '<script>$x_{1}$ "&'
    losses = (loss_row("code", "validation", 2.0),)
    panel = drawn([checkpoint(cell=name, losses=losses)])["size-train"]
    root = ElementTree.fromstring(svg_text(panel))
    assert name in root.get("aria-label", "")
    assert "<script" not in svg_text(panel)


@pytest.mark.parametrize("rows", [[], [checkpoint()], [checkpoint(final=False)]])
def test_little_data_gives_fewer_panels_not_an_error(rows):
    panels = drawn(rows)
    assert len(panels) <= 2
    for panel in panels.values():
        assert svg_text(panel).startswith("<svg")


def test_bars_are_the_intervals_of_the_words():
    rows = rows_from(memory=((0.4, 0.5, 0.6), (0.5, 0.5, 0.5)))
    (item, *_) = answer(study_of(rows)).comparisons
    means = drawn(rows)["density-memory-accuracy"].series[-1]
    expected = [estimate(s.values, s.item_errors) for s in item.samples]
    assert [(m.y, m.low, m.high) for m in means.marks] == [
        (e.mean, e.low, e.high) for e in expected
    ]
    assert expected[1].standard_error == 0.02


def test_marks_of_runs_name_their_lines_of_the_table():
    rows = sort_rows(SMALL)
    names, lines = table(SMALL)
    chart = drawn(SMALL)["loss-reasoning-bits_per_byte"]
    assert chart.column in names
    marks = [mark for series in chart.series for mark in series.marks]
    assert len({mark.row for mark in marks}) == len(rows)
    for mark in marks:
        line = dict(zip(names, lines[mark.row], strict=True))
        assert (line["cell"], line["seed"]) == (mark.cell, mark.seed)
        assert (line["train_loss"], line[chart.column]) == (mark.x, mark.y)
