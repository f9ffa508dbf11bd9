"""Effects at equal loss, overlap of solved problems, what later stages change."""

import csv
import json

import numpy as np
import pytest
from tests.fakes_analysis import flat, rows_of, sparse_helps, study_of

from isoflop.analysis.families import TOLERANCE
from isoflop.analysis.questions.equal_loss import clustered_slope, equal_loss_effect
from isoflop.analysis.questions.findings import all_findings, sampled_findings, stage_findings
from isoflop.analysis.questions.overlap import overlap, phi
from isoflop.analysis.questions.problems import solved_in_file, solved_in_study
from isoflop.analysis.questions.stages import change_by_stage, sampled_curves
from isoflop.analysis.report import table_of
from isoflop.analysis.tables import read_table
from isoflop.config import UserError
from isoflop.records import AnswerRow, write_rows, write_text

NEAR = pytest.approx


def loss_table(tmp_path, *, effect, seed=0, overlap=True):
    """Checkpoints of 12 cells: accuracy follows the loss, plus `effect` a doubling of active."""
    generator = np.random.default_rng(seed)
    path = tmp_path / "t.csv"
    head = "cell,seed,tokens,total_params,active_params,num_experts,top_k,train_loss,gsm8k.accuracy"
    lines = [head.split(",")]
    for cell in range(12):
        active, luck = 100 * 2 ** (cell % 3), 0.01 * generator.normal()
        for run in range(2):
            for step in range(1, 7):
                shift = 0 if overlap else cell % 3
                loss = 3.0 - 0.15 * step - shift + 0.03 * generator.normal()
                accuracy = 0.9 - 0.25 * loss + effect * (cell % 3) + luck + 0.3 * shift
                accuracy += 0.01 * generator.normal()
                lines.append(
                    [
                        f"c{cell}",
                        run,
                        step * 100,
                        9999,
                        active,
                        2 ** (1 + cell // 3),
                        2,
                        loss,
                        min(max(accuracy, 0), 1),
                    ]
                )
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return read_table(path)


def test_an_effect_at_equal_loss_is_found_and_its_absence_too(tmp_path):
    found = equal_loss_effect(loss_table(tmp_path, effect=0.05), "gsm8k.accuracy", "active_params")
    assert found.low < 0.05 < found.high
    assert found.low > 0
    assert found.num_cells == 12
    none = equal_loss_effect(loss_table(tmp_path, effect=0.0), "gsm8k.accuracy", "active_params")
    assert none.low < 0 < none.high


def test_false_effects_stay_near_five_percent(tmp_path):
    found = [
        equal_loss_effect(
            loss_table(tmp_path, effect=0.0, seed=s), "gsm8k.accuracy", "active_params"
        )
        for s in range(60)
    ]
    assert sum(f.low > 0 or f.high < 0 for f in found) <= 8


def test_losses_that_never_meet_are_not_compared(tmp_path):
    table = loss_table(tmp_path, effect=0.0, overlap=False)
    found = equal_loss_effect(table, "gsm8k.accuracy", "active_params")
    assert found.effect is None
    assert "share no range of train_loss" in found.reason
    assert (
        "lacks learning_rate" in equal_loss_effect(table, "gsm8k.accuracy", "learning_rate").reason
    )
    assert "top_k has one value" in equal_loss_effect(table, "gsm8k.accuracy", "top_k").reason


def test_clustered_errors_with_clusters_of_one_are_the_robust_ones():
    generator = np.random.default_rng(1)
    x, noise = generator.normal(size=50), generator.normal(size=50)
    y = 2 * x + noise * (1 + abs(x))
    design = np.stack([x, np.ones(50)], axis=1)
    slope, error, freedom = clustered_slope(design, y, np.arange(50))
    residuals = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    inverse = np.linalg.inv(design.T @ design)
    meat = (design * residuals[:, None]).T @ (design * residuals[:, None])
    robust = np.sqrt((inverse @ meat @ inverse)[0, 0] * 50 / 49 * 49 / 48)
    assert (error, freedom) == (NEAR(robust), 49)
    assert slope == NEAR(2.0, abs=0.5)


def solved_by(groups, *, same, seed=0, problems=400):
    """Runs of each group solve that group's easy problems, `same` of the variation shared by all."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=problems)
    rows, cells = [], []
    for group in range(groups):
        own = generator.normal(size=problems)
        for _ in range(3):
            ease = same * common + (1 - same) * own + 0.5 * generator.normal(size=problems)
            rows.append(ease > 0.3)
            cells.append(f"c{group}")
    return np.array(rows), cells


def test_cells_that_solve_different_problems_are_told_apart_from_those_that_do_not():
    different = overlap(*solved_by(3, same=0.3))
    assert different.within > different.between + 0.1
    assert different.p_value < 0.01
    alike = overlap(*solved_by(3, same=1.0))
    assert abs(alike.within - alike.between) < 0.05
    assert alike.p_value > 0.05


def test_pairs_count_shared_problems_and_chance_by_hand():
    solved = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]], dtype=bool)
    found = overlap(solved, ["a", "a", "b"])
    pairs = {(p.first, p.second): p for p in found.pairs}
    assert set(pairs) == {("a", "a"), ("a", "b")}
    assert (pairs["a", "a"].shared, pairs["a", "a"].chance) == (1.0, 1.0)
    assert (pairs["a", "b"].shared, pairs["a", "b"].chance) == (2.0, 1.5)
    np.testing.assert_allclose(phi(solved)[:2, :2], np.corrcoef(solved[:2]))


def test_one_seed_a_cell_says_what_is_missing():
    solved, cells = solved_by(3, same=0.3)
    found = overlap(solved[::3], cells[::3])
    assert (found.p_value, found.within) == (None, None)
    assert "one seed a cell" in found.reason


def test_problems_come_from_tables_and_from_our_answers(tmp_path):
    path = tmp_path / "problems.csv"
    path.write_text(
        "cell,seed,problem,correct\na,0,p1,true\na,0,p2,0\nb,0,p1,False\nb,0,p2,1\nb,0,p3,1\n"
    )
    found = solved_in_file(path)
    assert found.solved.tolist() == [[True, False], [False, True]]
    assert (found.cells, found.left_out) == (("a", "b"), 1)
    path.write_text("cell,seed,problem,correct\na,0,p1,perhaps\n")
    with pytest.raises(UserError, match=r"problems\.csv:2: correct is 'perhaps'"):
        solved_in_file(path)
    path.write_text("cell,problem\na,p1\n")
    with pytest.raises(UserError, match="lacks seed, correct"):
        solved_in_file(path)
    study = {"runs": [{"cell": "a", "seed": 0, "evaluate": {"path": "evaluate/x"}}]}
    write_text(tmp_path / "study.json", json.dumps(study))
    rows = [
        AnswerRow(
            step=step,
            item=item,
            task="reasoning",
            split="held_out",
            generated="",
            correct=correct,
            answer_bits=None,
            num_answer_tokens=1,
            num_answer_bytes=1,
            joined=False,
        )
        for step, item, correct in ((1, "p1", True), (2, "p1", None), (2, "p2", True))
    ]
    write_rows(tmp_path / "evaluate" / "x" / "answers.jsonl", rows)
    ours = solved_in_study(tmp_path, "reasoning", "held_out")
    assert ours.solved.tolist() == [[False, True]]
    with pytest.raises(UserError, match="no answers to compare"):
        solved_in_study(tmp_path, "memory", "seen")


def stage_table(tmp_path, slope):
    path = tmp_path / "stages.csv"
    head = [
        "cell",
        "seed",
        "tokens",
        "total_params",
        "active_params",
        "num_experts",
        "top_k",
        "stage",
        "grpo_step",
        "gsm8k.accuracy",
        "gsm8k.pass@1",
        "gsm8k.pass@8",
        "train_loss",
    ]
    lines = []
    for power in range(1, 7):
        for seed in range(3):
            shape = [f"E{2**power}", seed, 1000, 999, 100, 2**power, 2]
            before = 0.2 + 0.01 * seed
            lines.append([*shape, "", "", before, before, before + 0.2, 2.0])
            for step in (10, 20):
                gain = (0.3 + slope * (power - 1)) * step / 20
                lines.append([*shape, "grpo", step, before + gain, "", "", ""])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *lines])
    return read_table(path)


def test_what_a_stage_changes_is_paired_by_run_at_its_last_step(tmp_path):
    found = change_by_stage(stage_table(tmp_path, -0.04), "gsm8k.accuracy", "grpo")
    assert found.gains["E2"].mean == NEAR(0.3)
    assert found.gains["E64"].mean == NEAR(0.1)
    assert found.per_doubling == NEAR(-0.04)
    assert found.overall.num_seeds == 6
    assert found.unpaired == ()
    alone = stage_table(tmp_path, 0.0)
    alone = alone.where(~((alone.equal("stage", "grpo")) & (alone.number("seed") == 1)))
    left = change_by_stage(alone, "gsm8k.accuracy", "grpo")
    assert len(left.unpaired) == 6
    assert left.per_doubling == NEAR(0.0, abs=1e-12)


def test_curves_against_samples_are_means_over_seeds(tmp_path):
    curves = sampled_curves(stage_table(tmp_path, 0.0))
    assert {c.cell for c in curves} == {f"E{2**p}" for p in range(1, 7)}
    first = curves[0]
    assert (first.task, first.kind, first.samples) == ("gsm8k", "pass", (1, 8))
    assert [a.mean for a in first.accuracies] == [NEAR(0.21), NEAR(0.41)]


def test_findings_of_a_study_answer_every_question_for_every_task():
    study = study_of(rows_of(sparse_helps, flat, seeds=3))
    found = all_findings(study, table_of(study), TOLERANCE)
    asked = {(f.question, f.subject) for f in found}
    for task in ("memory, accuracy", "reasoning, accuracy", "reasoning, task loss"):
        for question in ("optimal density k/E", "optimal tokens per parameter"):
            assert (question, task) in asked
    memory = next(
        f for f in found if (f.question, f.subject) == ("optimal density k/E", "memory, accuracy")
    )
    assert "95% interval 0.0522 to 0.0841" in memory.answer
    assert all(f.answer and f.rests_on for f in found)
    one_seed = study_of(rows_of(sparse_helps, flat, seeds=1))
    for one in all_findings(one_seed, table_of(one_seed), TOLERANCE):
        if one.question.startswith(("optimal", "better")):
            assert "no interval" in one.answer or "not tested" in one.answer


def test_stages_and_samples_are_findings_with_their_intervals(tmp_path):
    table = stage_table(tmp_path, -0.04)
    (found,) = stage_findings(table, "gsm8k.accuracy", "gsm8k, accuracy")
    assert found.question == "what does grpo change?"
    assert found.answer.startswith("+20 points (")
    assert "-4 more with each doubling of E/k" in found.answer
    assert found.rests_on == "18 runs, 6 cells"
    sampled = sampled_findings(table)
    assert {f.where for f in sampled} == {f"E{2**p}" for p in range(1, 7)}
    assert sampled[0].answer == "21.0% at 1, 41.0% at 8 samples"
