"""A seed is a run: neither a second measurement of it, nor a run of other tokens, is another seed."""

import csv
from pathlib import Path

import numpy as np
import pytest

from isoflop.analysis.fits.points import known_points
from isoflop.analysis.laws.catalogue import find_law
from isoflop.analysis.paper.figures import paper_figure
from isoflop.analysis.questions.stages import sampled_curves
from isoflop.analysis.tables import read_table
from isoflop.analysis.tables.checkpoints import study_of

LAB = Path("docs/example/lab-runs.csv")

HEAD = "cell,run,seed,tokens,num_experts,top_k,total_params,active_params,train_loss,gsm8k.accuracy"


def lab_lines():
    with LAB.open(newline="") as file:
        return [line for line in csv.DictReader(file) if line["cell"].endswith("-8B")]


def write(path, lines):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[-1]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def test_runs_measured_twice_have_their_seeds_and_flops_once(tmp_path):
    plain = [{**line, "num_shots": ""} for line in lab_lines()]
    again = [{**line, "num_shots": 4, "gsm8k.accuracy": 0.9} for line in plain]
    once, twice = (
        study_of(read_table(write(tmp_path / f"{i}.csv", lines)))
        for i, lines in enumerate((plain, [*again, *plain]))
    )
    assert [cell.rows for cell in once.cells] == [
        tuple(row.__class__(**{**vars(row), "experiment": "0"}) for row in cell.rows)
        for cell in twice.cells
    ]
    assert {len(cell.rows) for cell in twice.cells} == {3}
    (note,) = [n for n in read_table(tmp_path / "1.csv").notes if "again" in n]
    assert note.startswith("60 lines measure a checkpoint again under another num_shots")


def test_without_a_blank_setting_the_least_counts(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        f"{HEAD},num_shots,temperature\n"
        "a,r,0,1000,8,2,500,200,2.0,0.4,4,\n"
        "a,r,0,1000,8,2,500,200,2.0,0.2,0,0.6\n"
        "a,r,0,1000,8,2,500,200,2.0,0.3,0,\n"
    )
    table = read_table(path)
    assert table.final.number("gsm8k.accuracy").tolist() == [0.3]
    assert sorted(table.final_settings.number("gsm8k.accuracy").tolist()) == [0.2, 0.3, 0.4]


def test_samples_drawn_at_a_temperature_are_kept_beside_greedy_scores(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        f"{HEAD},temperature,gsm8k.pass@8\n"
        "a,r,0,1000,8,2,500,200,2.0,0.3,,\n"
        "a,r,0,1000,8,2,500,200,2.0,,0.8,0.6\n"
    )
    table = read_table(path)
    assert table.final.number("gsm8k.accuracy").tolist() == [0.3]
    (curve,) = sampled_curves(table)
    assert curve.accuracies[0].mean == 0.6
    (chart,) = paper_figure(table, 15).charts
    assert [mark.y for series in chart.series for mark in series.marks] == [0.6]


@pytest.mark.parametrize(("ends", "names"), [((1000, 2000), 2), ((1000, 1001), 1)])
def test_a_run_of_other_tokens_is_a_cell_of_its_own(tmp_path, ends, names):
    """Two seeds that end some tokens apart are seeds; runs of one cell and twice the tokens are not."""
    lines = [
        f"a,r{seed}-{end},{seed},{end},8,2,500,200,{2 + seed / 10 - end / 1e4},0.3"
        for end in ends
        for seed in ((0, 1) if names == 2 else (end,))
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([HEAD, *lines, ""]))
    table = read_table(path)
    cells = study_of(table).cells
    assert len(cells) == names
    assert sum(len(cell.rows) for cell in cells) == len(lines)
    assert all(len({round(row.tokens, -1) for row in cell.rows}) == 1 for cell in cells)
    if names == 2:
        assert {cell.name for cell in cells} == {"a, 1K tokens", "a, 2K tokens"}
    assert any("several numbers of tokens" in note for note in table.notes) == (names == 2)


def test_a_run_name_shared_by_cells_loses_no_run(tmp_path):
    path = tmp_path / "t.csv"
    lines = [
        f"{cell},run-1,{seed},{end},{experts},2,{experts * 100},200,2.0,0.3"
        for cell, experts, end in (("a", 4, 1000), ("b", 8, 2000), ("c", 16, 3000))
        for seed in (0, 1)
    ]
    path.write_text("\n".join([HEAD, *lines, ""]))
    table = read_table(path)
    assert len(table.final) == len(lines)
    assert {cell.name: len(cell.rows) for cell in study_of(table).cells} == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize(("figure", "setting"), [(13, "num_shots"), (14, "temperature")])
def test_figures_by_a_setting_show_last_checkpoints_of_pretraining(tmp_path, figure, setting):
    """A line after GRPO or of an earlier checkpoint is another model."""
    other = {"num_shots": "temperature", "temperature": "num_shots"}[setting]
    path = tmp_path / "t.csv"
    path.write_text(
        f"{HEAD},stage,grpo_step,{setting},{other}\n"
        "a,r,0,500,8,2,500,200,2.5,0.1,,,1,\n"
        "a,r,0,1000,8,2,500,200,2.0,0.3,,,1,\n"
        "a,r,0,1000,8,2,500,200,2.0,0.2,,,1,1\n"
        "a,r,0,1000,8,2,500,200,2.0,0.4,,,2,\n"
        "a,r,0,1000,8,2,500,200,,0.9,grpo,10,1,\n"
    )
    (chart,) = paper_figure(read_table(path), figure).charts
    drawn = [mark.y for series in chart.series for mark in series.marks]
    assert np.array_equal(sorted(drawn), [0.3, 0.4])


def test_one_seed_of_each_budget_is_one_seed_a_cell(tmp_path):
    path = tmp_path / "t.csv"
    lines = [f"a,run-{end},0,{end},8,2,500,200,2.{end},0.3" for end in (1000, 2000)]
    path.write_text("\n".join([HEAD, *lines, ""]))
    points = known_points(read_table(path), find_law("chinchilla"))
    assert any("one seed a cell" in note for note in points.notes)
    lines = [f"a,run-1,{seed},1000,8,2,500,200,2.{seed},0.3" for seed in (1, 2)]
    path.write_text("\n".join([HEAD, *lines, ""]))
    points = known_points(read_table(path), find_law("chinchilla"))
    assert not any("one seed a cell" in note for note in points.notes)


def test_a_run_of_another_experiment_is_no_seed_of_a_cell_of_the_same_name(tmp_path):
    lines = [
        f"{study},{cell},,{seed},1000,{experts},2,{experts * 100},200,2.0,0.3"
        for study in ("raw", "rewritten")
        for cell, experts in (("a", 4), ("b", 8), ("c", 16))
        for seed in (0, 1)
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([f"experiment,{HEAD}", *lines, ""]))
    table = read_table(path)
    study = study_of(table)
    assert {cell.name: len(cell.rows) for cell in study.cells} == {
        f"{name}: {cell}": 2 for name in ("raw", "rewritten") for cell in "abc"
    }
    path.write_text("\n".join([f"experiment,{HEAD}", *lines[:6], ""]))
    assert {cell.name for cell in study_of(read_table(path)).cells} == {"a", "b", "c"}
