"""What the page holds: its data, laws with their reach, the way from loss to accuracy."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from tests.fakes_analysis import flat, rows_of, sparse_helps, study_of

from isoflop.analysis.fits.points import points_of
from isoflop.analysis.laws import LAWS
from isoflop.analysis.laws.draw import draw_table
from isoflop.analysis.laws.law import published_values
from isoflop.analysis.page.island import island
from isoflop.analysis.page.laws import chain_sections, law_sections, overlay, overlay_chart
from isoflop.analysis.report import table_of, write_report
from isoflop.analysis.table import sort_rows, table
from isoflop.analysis.tables import read_table
from isoflop.config import UserError

NEAR = pytest.approx


def test_the_island_holds_every_column_of_every_line_in_order():
    rows = rows_of(sparse_helps, flat, seeds=2, steps=(50, 100))
    data = json.loads(island(rows))
    names, lines = table(rows)
    assert data["rows"] == len(lines)
    assert list(data["columns"]) == list(names)
    for place, name in enumerate(names):
        column = data["columns"][name]
        for number, line in enumerate(lines):
            found = column[number] if isinstance(column, list) else column["all"]
            if isinstance(line[place], float):
                assert found == NEAR(line[place], rel=1e-6)
            else:
                assert found == line[place]
    assert [row.cell for row in sort_rows(rows)] == data["columns"]["cell"]


def test_names_cannot_end_the_script_element():
    rows = rows_of(flat, flat, seeds=1, steps=(100,))
    bad = [row.__class__(**{**vars(row), "cell": "</script><b>"}) for row in rows]
    text = island(bad)
    assert "</script" not in text
    assert json.loads(text)["columns"]["cell"] == {"all": "</script><b>"}


def test_the_page_holds_its_data_and_every_mark_names_a_line_of_it(tmp_path):
    study = study_of(rows_of(sparse_helps, flat, seeds=2, steps=(50, 100)))
    page = write_report(tmp_path, study).read_text()
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    data = json.loads(text)
    spans = re.findall(r'data-rows="([^"]+)"', page)
    assert spans
    for span in spans:
        for part in span.split(","):
            low, _, high = part.partition("-")
            assert 0 <= int(low) <= int(high or low) < data["rows"]
    for name in re.findall(r'data-column="([^"]+)"', page):
        assert name in data["columns"]
    cells = set(data["columns"]["cell"])
    marked = set(re.findall(r'class="mark" data-cell="([^"]+)"', page))
    assert cells <= {name.split("-s")[0] for name in marked} | marked


def test_laws_that_do_not_fit_say_why_and_those_that_do_are_shown():
    law = LAWS["chinchilla"]
    design = {"N": (1e8, 4e8, 1.6e9), "D": (2e9, 1e10, 5e10)}
    found, refused = law_sections(
        draw_table(
            law, published_values(law).values, noise=0.003, num_seeds=2, seed=0, design=design
        )
    )
    assert [section.grid.title for section in found] == [
        "Coefficients: chinchilla",
        "Coefficients: kaplan",
    ]
    assert {len(section.charts) for section in found} == {2}
    assert any(line.startswith("the law joint needs num_experts") for line in refused)
    one_size = table_of(study_of(rows_of(sparse_helps, flat, seeds=3)))
    nothing, why = law_sections(one_size)
    assert nothing == ()
    assert len(why) == 5


def test_a_sweep_lies_on_the_law_it_was_drawn_from():
    law = LAWS["joint"]
    exact = draw_table(law, published_values(law).values, noise=0.0, num_seeds=1, seed=0)
    chart = overlay(exact, law)
    assert all(mark.x == NEAR(mark.y) for series in chart.series for mark in series.marks)
    other = overlay_chart(points_of(exact, LAWS["chinchilla"]))
    away = [abs(mark.x / mark.y - 1) for series in other.series for mark in series.marks]
    assert max(away) > 0.01


@pytest.mark.parametrize("name", [name for name in LAWS if name != "ling"])
def test_any_sweep_lies_on_any_law_however_small(name, tmp_path):
    """Three cells are too few to fit any law, and enough to be laid over one."""
    path = tmp_path / "three.csv"
    path.write_text(
        "cell,tokens,num_experts,top_k,d_model,d_expert,total_params,active_params,train_loss\n"
        "a,2e9,8,2,64,128,400000000,100000000,3.1\n"
        "b,2e9,16,2,64,128,800000000,100000000,3.0\n"
        "c,2e9,32,2,64,128,1600000000,100000000,2.9\n"
    )
    table = read_table(path)
    with pytest.raises(UserError, match="needs at least"):
        points_of(table, LAWS[name])
    chart = overlay(table, LAWS[name])
    assert len(chart.series[0].marks) == 3
    empty = replace(table, numbers={**table.numbers, "validation_loss": np.full(3, np.nan)})
    with pytest.raises(UserError, match="no line has validation_loss and all variables"):
        overlay(empty, LAWS[name], column="validation_loss")


def test_loss_to_accuracy_is_fitted_for_tasks_that_have_both():
    runs = table_of(study_of(rows_of(sparse_helps, flat, seeds=3, spread=0.05)))
    found = chain_sections(runs, [("memory", "seen"), ("absent", None)])
    (section,) = found
    assert "memory.seen.accuracy" in section.title
    (chart,) = section.charts
    assert chart.curves[0].band
    marks = chart.series[0].marks
    heights = np.interp([m.x for m in marks], *zip(*sorted(chart.curves[0].points), strict=True))
    assert np.abs(heights - [m.y for m in marks]).mean() < 0.05
