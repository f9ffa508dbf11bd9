"""Values lie where the axes say; ticks can be read; a chart is well-formed whatever its names."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.analysis.charts.chart import Axis, Chart, Curve, Mark, Ring, Series
from isoflop.analysis.charts.colours import VIRIDIS, sparsity_colours
from isoflop.analysis.charts.svg import LEFT, PLOT_HEIGHT, RIGHT, WIDTH, Frame, svg_text
from isoflop.analysis.charts.ticks import span, tick_text, ticks

NEAR = pytest.approx
NUMBERS = st.floats(1e-3, 1e12, allow_nan=False)


def chart(marks, x=None, y=None, **more):
    series = Series(label="a", colour="#000000", marks=tuple(marks), joined=True)
    return Chart(
        name="c",
        title="t",
        description="what it shows",
        x=x or Axis(label="x"),
        y=y or Axis(label="y"),
        series=(series,),
        **more,
    )


def tags(text):
    return [re.sub(r"{.*}", "", e.tag) for e in ElementTree.fromstring(text).iter()]


@settings(max_examples=60)
@given(st.lists(NUMBERS, min_size=2, max_size=6, unique=True), st.sampled_from(["linear", "log"]))
def test_marks_keep_their_order_and_lie_inside_the_plot(values, scale):
    axis = Axis(label="x", scale=scale)
    frame = Frame(chart([Mark(x=v, y=1.0) for v in values], x=axis), 0.0)
    places = [frame.x(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(LEFT <= place <= WIDTH - RIGHT for place in places)
    turned = Frame(
        chart([Mark(x=v, y=1.0) for v in values], x=Axis(label="x", scale=scale, descending=True)),
        0.0,
    )
    for value in values:
        assert frame.x(value) + turned.x(value) == NEAR(LEFT + WIDTH - RIGHT, abs=1e-6)


@settings(max_examples=100)
@given(NUMBERS, NUMBERS, st.sampled_from(["linear", "log"]))
def test_ticks_are_few_even_and_inside(a, b, scale):
    low, high = span(Axis(label="x", scale=scale), [a, b])
    assert low < min(a, b) <= max(a, b) < high
    found = ticks(Axis(label="x", scale=scale), low, high)
    assert len(found) <= 16
    # A tick at an end may differ from it by rounding.
    slack = 1e-8 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in found)
    if scale == "linear":
        assert len(found) >= 3
        steps = [after - before for before, after in itertools.pairwise(found)]
        assert max(steps) == NEAR(min(steps))


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.1 + 0.2, "number", "0.3"),
        (1e-9, "number", "1e-09"),
        (0.5, "share", "50%"),
        (1.0, "fraction", "dense"),
        (1 / 64, "fraction", "1/64"),
        (0.3, "fraction", "0.3"),
        (20, "count", "20"),
        (1_000_000, "count", "1M"),
        (0, "number", "0"),
    ],
)
def test_ticks_are_written_as_a_reader_wants(value, form, text):
    assert tick_text(float(value), form) == text


def test_bars_end_where_the_interval_does():
    mark = Mark(x=1.0, y=2.0, low=1.0, high=3.0, cell="E8")
    text = svg_text(chart([mark, Mark(x=2.0, y=0.0), Mark(x=3.0, y=4.0)]))
    low, high = span(Axis(label="y"), [0.0, 4.0])
    top = 26.0
    ends = [top + (1 - (v - low) / (high - low)) * PLOT_HEIGHT for v in (1.0, 3.0)]
    assert f"{ends[0]:.1f}V{ends[1]:.1f}" in text


def test_marks_with_lines_of_the_data_are_two_paths_a_run():
    marks = [Mark(x=float(i), y=float(i), cell="E8", seed=1, row=i + 5) for i in range(40)]
    text = svg_text(chart(marks))
    assert 'data-rows="5-44"' in text
    assert text.count("h0") == 40
    assert tags(text).count("path") <= 5


def test_hostile_names_stay_text():
    bad = "<script>\"&'</script>"
    full = Chart(
        name=bad,
        title=bad,
        description=bad,
        column=bad,
        x=Axis(label=bad),
        y=Axis(label=bad),
        series=(Series(label=bad, colour="#000", marks=(Mark(x=1.0, y=1.0, cell=bad, text=bad),)),),
        curves=(
            Curve(
                label=bad + "2",
                colour="#000",
                points=((0.0, 0.0), (1.0, 1.0)),
                dashed=True,
                band=((0.0, -1.0, 1.0), (1.0, 0.0, 2.0)),
            ),
        ),
        rings=(Ring(x=1.0, y=1.0, text=bad),),
    )
    root = ElementTree.fromstring(svg_text(full))
    assert "script" not in tags(svg_text(full))
    assert root.get("aria-label") == bad
    assert bad in [e.text for e in root.iter()]


def test_a_chart_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one point"):
        svg_text(chart([]))


def test_one_point_and_equal_points_can_be_drawn():
    for marks in ([Mark(x=1.0, y=0.0)], [Mark(x=1.0, y=2.0)] * 3):
        assert svg_text(chart(marks)).startswith("<svg")


def test_the_legend_names_each_series_once_and_only_where_there_are_several():
    assert 'stroke-width="1.6"/><circle' not in svg_text(chart([Mark(x=1.0, y=1.0)]))
    many = tuple(
        Series(label=f"k={i % 3}", colour="#000", marks=(Mark(x=float(i), y=1.0),))
        for i in range(6)
    )
    text = svg_text(
        Chart(
            name="c", title="t", description="d", x=Axis(label="x"), y=Axis(label="y"), series=many
        )
    )
    assert [text.count(f">k={i}<") for i in range(3)] == [1, 1, 1]


def test_colours_go_evenly_from_dark_to_light():
    found = sparsity_colours([0.9, 0.0, 0.5])
    assert [found[0.0], found[0.9]] == [VIRIDIS[0], VIRIDIS[-1]]
    assert sparsity_colours([0.3]) == {0.3: VIRIDIS[0]}
