"""Every figure of the paper is drawn from a table that has its columns, and says what it lacks."""

import csv

import numpy as np
import pytest

from isoflop.analysis.charts.svg import svg_text
from isoflop.analysis.paper.figures import FIGURES, paper_figure
from isoflop.analysis.questions.problems import Solved
from isoflop.analysis.tables import read_table
from isoflop.config import UserError

HEAD = [
    *("cell", "seed", "tokens", "num_layers", "d_model", "num_experts", "top_k", "total_params"),
    *("active_params", "train_loss", "validation_loss", "learning_rate", "corpus", "stage"),
    *("grpo_step", "grpo_learning_rate", "grpo_corpus", "num_shots", "temperature"),
    *("inference_top_k", "gsm8k.accuracy", "gsm8k.bits_per_byte", "mbpp.accuracy"),
    *("mbpp.bits_per_byte", "gsm8k.pass@1", "gsm8k.pass@8", "gsm8k.majority@8"),
]


def line(**values):
    return [values.get(name.replace(".", "_").replace("@", "_at_"), "") for name in HEAD]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two widths and k's, three numbers of experts, two seeds, with every column of every figure."""
    lines = []
    for width in (64, 128):
        for top_k in (2, 4):
            for experts in (8, 16, 32):
                for seed in (0, 1):
                    loss = 3 - width / 256 - np.log2(experts) / 20 + seed / 100
                    shape = {
                        "cell": f"d{width}-E{experts}-k{top_k}",
                        "seed": seed,
                        "num_layers": 12,
                        "d_model": width,
                        "num_experts": experts,
                        "top_k": top_k,
                        "total_params": width * experts * 100,
                        "active_params": width * top_k * 100,
                        "corpus": "with" if seed else "without",
                        "learning_rate": 4e-4 * (1 + seed),
                    }
                    scores = {
                        "gsm8k_accuracy": 0.3,
                        "gsm8k_bits_per_byte": 0.5,
                        "mbpp_accuracy": 0.2,
                        "mbpp_bits_per_byte": 0.6,
                    }
                    for tokens in (500, 1000):
                        late = {
                            "gsm8k_pass_at_1": 0.3,
                            "gsm8k_pass_at_8": 0.6,
                            "gsm8k_majority_at_8": 0.4,
                        }
                        lines.append(
                            line(
                                **shape,
                                tokens=tokens,
                                train_loss=loss + 100 / tokens,
                                validation_loss=loss + 0.1,
                                **scores,
                                **(late if tokens == 1000 else {}),
                            )
                        )
                    for step in (10, 20):
                        lines.append(
                            line(
                                **shape,
                                tokens=1000,
                                stage="grpo",
                                grpo_step=step,
                                grpo_learning_rate=5e-6,
                                grpo_corpus="gsm8k",
                                gsm8k_accuracy=0.3 + step / 100,
                            )
                        )
                    lines.append(line(**shape, tokens=1000, num_shots=4, gsm8k_accuracy=0.31))
                    lines.append(line(**shape, tokens=1000, temperature=0.6, gsm8k_accuracy=0.32))
                    lines.append(
                        line(
                            **shape,
                            tokens=1000,
                            inference_top_k=top_k * 2,
                            gsm8k_pass_at_1=0.28,
                            gsm8k_pass_at_8=0.5,
                        )
                    )
    path = tmp_path_factory.mktemp("paper") / "paper.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEAD, *lines])
    return read_table(path)


SOLVED = Solved(
    solved=np.array([[True, False, True], [True, True, False], [False, True, True]]),
    cells=("a", "a", "b"),
    left_out=0,
)


def test_the_paper_has_twenty_four_figures():
    assert sorted(FIGURES) == list(range(1, 25))
    assert all(figure.title for figure in FIGURES.values())


@pytest.mark.parametrize("number", range(1, 25))
def test_every_figure_is_drawn_from_a_table_that_has_its_columns(table, number):
    drawn = paper_figure(table, number, SOLVED)
    assert drawn.missing == ()
    assert drawn.charts
    names = [chart.name for chart in drawn.charts]
    assert len(set(names)) == len(names)
    for chart in drawn.charts:
        assert svg_text(chart).startswith("<svg")
        assert all(series.marks for series in chart.series)


@pytest.mark.parametrize("number", range(1, 25))
def test_every_figure_names_what_a_bare_table_lacks(tmp_path, number):
    path = tmp_path / "bare.csv"
    path.write_text("cell,tokens,total_params,validation_loss\na,1000,500,2.0\n")
    drawn = paper_figure(read_table(path), number)
    assert drawn.charts == ()
    assert drawn.missing
    for name in drawn.missing:
        assert name not in ("cell", "tokens", "total_params")


def test_code_figures_hold_code_tasks_alone_and_others_all(table):
    titles = {chart.title for chart in paper_figure(table, 21).charts}
    assert titles == {"mbpp"}
    assert {chart.title for chart in paper_figure(table, 2).charts} == {"gsm8k", "mbpp"}


def test_error_rates_are_what_accuracy_leaves(table):
    (chart, *_) = paper_figure(table, 4).charts
    heights = [mark.y for series in chart.series for mark in series.marks]
    assert heights == [pytest.approx(0.7)] * len(heights)
    assert chart.y.label == "error rate"


def test_series_are_one_a_width_and_k_along_which_experts_grow(table):
    (chart, *_) = paper_figure(table, 5).charts
    labels = [s.label for s in chart.series if s.label]
    assert labels == ["active=12.8K", "active=25.6K", "active=51.2K"]
    lines = {s.label: s for s in paper_figure(table, 2).charts[0].series if s.label}
    assert list(lines) == ["d=64, k=2", "d=64, k=4", "d=128, k=2", "d=128, k=4"]
    assert len(lines["d=64, k=2"].marks) == 3


def test_what_lies_past_the_best_density_is_dashed_and_the_best_is_ringed(tmp_path):
    """Figure 5's inverse scaling: accuracy that falls beyond its best, one that never does."""
    rising, turning = (0.2, 0.3, 0.4, 0.5), (0.3, 0.5, 0.4, 0.2)
    lines = ["cell,tokens,num_experts,top_k,total_params,active_params,up.accuracy,turn.accuracy"]
    for place, experts in enumerate((4, 8, 16, 32)):
        shape = f"E{experts},1000,{experts},2,{experts * 100},200"
        lines.append(f"{shape},{rising[place]},{turning[place]}")
    path = tmp_path / "turn.csv"
    path.write_text("\n".join(lines))
    turned, never = paper_figure(read_table(path), 5).charts
    assert (never.title, never.rings, never.curves) == ("up", (), ())
    (ring,) = turned.rings
    (curve,) = turned.curves
    assert (ring.x, ring.y) == (0.25, 0.5)
    assert curve.dashed
    assert curve.points == ((0.25, 0.5), (0.125, 0.4), (0.0625, 0.2))
    assert sorted(mark.y for one in turned.series for mark in one.marks) == sorted(turning)
    assert [len(one.marks) for one in turned.series if one.joined] == [2]


def test_later_stages_stand_at_the_loss_of_their_own_pre_training(table):
    chart = next(c for c in paper_figure(table, 12).charts if "gsm8k" in c.title)
    places = {}
    for series in chart.series:
        if series.label and not series.faint:
            places[series.label] = sorted(round(m.x, 6) for m in series.marks)
    after = next(v for name, v in places.items() if "grpo" in name)
    before = next(v for name, v in places.items() if "pretrained" in name)
    assert set(after) <= set(before)


def test_no_other_figure_exists(table):
    with pytest.raises(UserError, match="the paper has figures 1 to 24"):
        paper_figure(table, 25)
