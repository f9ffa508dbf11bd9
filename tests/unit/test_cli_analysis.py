"""Laws, recommendations, figures and reports of tables from the command line."""

import json
import sys

import pytest
from tests.fakes_analysis import flat, rows_of, sparse_helps

from isoflop import cli
from isoflop.analysis.laws import LAWS
from isoflop.analysis.laws.draw import draw_table
from isoflop.analysis.laws.law import published_values
from isoflop.analysis.table import write_table
from isoflop.analysis.tables.columns import COLUMNS, SCORE_FIELDS


@pytest.fixture
def call(capsys, monkeypatch):
    """Run a command in this process."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["isoflop", *map(str, words)])
        status = cli.main()
        out, error = capsys.readouterr()
        return status, out, error

    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A small dense table drawn from Chinchilla's law."""
    law = LAWS["chinchilla"]
    design = {"N": (1e8, 4e8, 1.6e9, 6.4e9), "D": (2e9, 1e10, 5e10)}
    table = draw_table(
        law, published_values(law).values, noise=0.003, num_seeds=3, seed=0, design=design
    )
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    names = ("cell", "seed", "tokens", "active_params", "train_loss")
    lines = [",".join(names)]
    for i in range(len(table)):
        lines.append(",".join(str(table.line(i)[name]) for name in names))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A table of a study with experts, tasks and checkpoints."""
    folder = tmp_path_factory.mktemp("study")
    write_table(rows_of(sparse_helps, flat, seeds=3, steps=(50, 100)), folder)
    return folder / "table.csv"


def test_fit_shows_coefficients_and_json_holds_them(call, runs, tmp_path):
    figure = tmp_path / "fit.svg"
    status, out, _ = call(
        "fit", runs, "--law", "chinchilla", "--bootstrap", 100, "--figure", figure
    )
    assert status == 0
    assert "alpha" in out
    assert "95% interval" in out
    assert figure.read_text().startswith("<svg")
    status, out, _ = call("fit", runs, "--law", "chinchilla", "--bootstrap", 100, "--json")
    found = {c["name"]: c for c in json.loads(out)["coefficients"]}
    assert status == 0
    assert found["alpha"]["low"] < 0.34 < found["alpha"]["high"]


def test_published_coefficients_are_laid_over_the_runs(call, runs, tmp_path):
    figure = tmp_path / "over.svg"
    words = ("fit", runs, "--law", "chinchilla", "--published", "hoffmann")
    status, out, _ = call(*words, "--figure", figure)
    assert (status, out.strip()) == (0, str(figure))
    status, _, error = call(*words)
    assert status == 2
    assert "give --figure FILE.svg too" in error
    for extra in ("--json", "--checkpoints=all"):
        status, _, error = call(*words, "--figure", figure, extra)
        assert status == 2
        assert "--published fits nothing" in error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--law", "chinchila"), "law 'chinchila' must be one of kaplan, chinchilla"),
        (("--law", "joint"), "the law joint needs num_experts and top_k"),
        (("--law", "chinchilla", "--column", "gsm8k"), "no column 'gsm8k'; it has"),
    ],
)
def test_mistakes_are_one_line_and_status_two(call, runs, words, told):
    status, out, error = call("fit", runs, *words)
    assert (status, out) == (2, "")
    assert told in error
    assert error.count("\n") == 1


def test_recommend_answers_and_refuses(call, study):
    status, out, _ = call("recommend", study, "--flops", 5e12, "--task", "memory.seen.accuracy=2")
    assert status == 0
    assert out.startswith("For 5e+12 FLOP")
    assert "Runner-up" in out
    words = ("recommend", study, "--flops", 5e12, "--task")
    status, out, _ = call(*words, "memory.seen.accuracy", "--json")
    assert json.loads(out)["better"] == "higher"
    status, _, error = call(*words, "memory=much")
    assert (status, "the weight must be a number" in error) == (2, True)
    status, _, error = call("recommend", study)
    assert (status, "in FLOPs or in GPU-hours" in error) == (2, True)


def test_figures_are_drawn_or_say_what_they_need(call, study, tmp_path):
    status, out, _ = call("figure", study, 5, "--out", tmp_path)
    assert status == 0
    for path in out.split():
        assert (tmp_path / path).read_text().startswith("<svg")
    status, _, error = call("figure", study, 13, "--out", tmp_path)
    assert status == 2
    assert "figure 13 (Accuracy against experts, by worked examples) needs num_shots" in error


def test_a_report_of_any_table_and_its_name(call, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = call("report", study)
    assert status == 0
    page = (tmp_path / "table-report" / "report.html").read_text()
    assert "table-report/report.html" in out
    assert "recall of stated facts" in page.lower()
    assert page.count("<script") == 2
    status, _, error = call("report", tmp_path / "nothing.csv")
    assert (status, "no such file" in error) == (2, True)


def test_every_column_stands_in_the_reference(request):
    text = (request.config.rootpath / "docs" / "reference.md").read_text()
    for name in (*COLUMNS, *SCORE_FIELDS):
        assert f"`{name}`" in text, name
    for law in LAWS.values():
        assert law.formula in text
