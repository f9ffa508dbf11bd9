"""The words say what the numbers allow, and no more."""

from dataclasses import replace

import pytest
from tests.fakes_analysis import (
    checkpoint,
    dense_helps,
    flat,
    loss_row,
    rows_from,
    rows_of,
    sparse_helps,
    study_of,
)

from isoflop.analysis.answer import answer
from isoflop.analysis.statistics import estimate
from isoflop.analysis.task_kinds import named_kind
from isoflop.analysis.wording import figure_text
from isoflop.records import CellState

FAILED = CellState(cell="E128-k2", seed=0, run="E128-k2-s0", state="failed", reason="loss is nan")


def test_a_clear_effect_is_named_with_both_ends():
    found = answer(study_of(rows_of(sparse_helps, flat)))
    memory, memory_loss, reasoning, reasoning_loss = found.tasks
    start = "memory: sparser is better than dense (E64-k2 is better than E2-k2); which of E8-k2, "
    assert memory.startswith(start)
    assert "E64-k2 is best is not resolved. Recall of stated facts: " in memory
    assert "E64-k2, 96.9% sparse against" in memory
    assert "E2-k2, dense (3 seeds, 95% intervals)" in memory
    assert "Task loss on stated facts" in memory_loss
    for text in (reasoning, reasoning_loss):
        assert text.startswith("reasoning: not distinguishable at this scale: ")
    assert len(found.split) == 2
    for text in found.split:
        assert text.startswith("No evidence that memory and reasoning split")


def test_opposite_slopes_are_a_split():
    found = answer(study_of(rows_of(sparse_helps, dense_helps)))
    for text, figure in zip(found.split, ("accuracy", "task loss"), strict=True):
        assert text.startswith(f"Memory and reasoning split by {figure} (memory and reasoning)")
    assert "the densest cell (E2-k2, dense) is best" in found.tasks[2]


LOW, MIDDLE, HIGH = (0.40, 0.41, 0.39), (0.60, 0.61, 0.59), (0.80, 0.81, 0.79)


def test_a_plateau_names_no_best_cell_and_a_clear_one_is_named():
    plateau = answer(study_of(rows_from(memory=(LOW, MIDDLE, HIGH, HIGH, HIGH)))).tasks[0]
    assert "which of E8-k2, E16-k2, E32-k2 is best is not resolved" in plateau
    clear = answer(study_of(rows_from(memory=(LOW, LOW, MIDDLE, HIGH)))).tasks[0]
    assert clear.startswith("memory: the sparsest cell (E16-k2, 87.5% sparse) is best within")
    peak = answer(study_of(rows_from(memory=(LOW, MIDDLE, HIGH, MIDDLE)))).tasks[0]
    assert peak.startswith("memory: a density between the ends (E8-k2, 75% sparse) is best within")


def test_a_sure_trend_whose_ends_are_not_told_apart_is_said():
    wide, wider = (0.30, 0.50, 0.40), (0.50, 0.70, 0.60)
    inner = [(m - 0.01, m, m + 0.01) for m in (0.10, 0.35, 0.65, 0.90)]
    rising, flat_cells = (wide, *inner, wider), (MIDDLE,) * 6
    memory, loss, *rest = answer(study_of(rows_from(memory=rising, reasoning=flat_cells))).tasks
    assert memory.startswith("memory: a rising trend: +10.6 points (corrected interval +")
    assert "with each doubling of E/k; the ends alone are not told apart. Recall" in memory
    assert loss.startswith("memory: a falling trend: -0.31")
    assert all("not distinguishable" in text for text in rest)


def test_opposite_ends_without_sure_trends_are_told_as_not_settled():
    up, down = (LOW, HIGH, HIGH, HIGH, HIGH), (HIGH, LOW, LOW, LOW, LOW)
    found = answer(study_of(rows_from(memory=up, reasoning=down)))
    assert "memory: sparser is better than dense" in found.tasks[0]
    assert "reasoning: the densest cell (E2-k2, dense) is best" in found.tasks[2]
    for text, figure in zip(found.split, ("accuracy", "task loss"), strict=True):
        assert text.startswith(f"Whether memory and reasoning split by {figure} is not settled")
        assert "not sure without E2-k2" in text


def test_cells_of_unequal_work_are_not_compared():
    rows = [replace(row, d_model=256) for row in rows_of(sparse_helps, dense_helps, steps=(100,))]
    found = answer(study_of(rows))
    reason = "not comparable: training FLOPs with the router differ by 23%, more than 10%"
    assert all(reason in text for text in found.tasks)
    assert all(text.startswith("No evidence") for text in found.split)


def test_what_is_not_shown_names_the_draw_and_the_work():
    found = answer(study_of(rows_of(flat, flat, steps=(100,))))
    text = " ".join(found.not_shown)
    assert "this one draw of facts and problems, as corpus.seed is the same in all runs" in text
    assert "3.36T (E2-k2) to 3.46T (E64-k2) training FLOPs, 2.8% more" in text


def test_a_cell_in_no_comparison_is_named():
    rows = rows_of(flat, flat, steps=(100,), grid=((2, 2), (8, 2), (32, 2)))
    twin = [replace(row, cell="other") for row in rows if row.cell == "E8-k2"]
    alone = replace(rows[0], cell="alone", num_layers=1)
    missing = answer(study_of([*rows, *twin, alone])).missing
    same = "in no comparison: has the shape and density of"
    assert f"E8-k2: {same} other, and neither is chosen" in missing
    assert f"other: {same} E8-k2, and neither is chosen" in missing
    assert any(line.startswith("alone: in no comparison: no other cell") for line in missing)


def test_slopes_of_the_same_sign_are_no_split():
    found = answer(study_of(rows_of(sparse_helps, sparse_helps)))
    assert all(text.startswith("No evidence") for text in found.split)


def test_one_seed_claims_nothing():
    found = answer(study_of(rows_of(sparse_helps, dense_helps, seeds=1)))
    assert all("not distinguishable at this scale: one seed" in text for text in found.tasks)
    assert "smaller part of the uncertainty" in found.not_shown[0]
    assert all(text.startswith("No evidence") for text in found.split)
    assert "not distinguishable" in found.top_k[0]


def test_a_step_that_half_of_the_runs_took_is_no_evidence():
    rows = rows_of(flat, flat)
    jumped = [
        replace(
            row,
            scores=tuple(replace(s, accuracy=0.9 if row.seed % 2 else 0.1) for s in row.scores),
        )
        for row in rows
    ]
    found = answer(study_of(jumped))
    assert all("not distinguishable" in text for text in (*found.tasks, *found.top_k))
    assert all(text.startswith("No evidence") for text in found.split)


def test_failures_and_missing_seeds_are_named():
    rows = [r for r in rows_of(flat, flat) if not (r.cell == "E8-k2" and r.seed == 2)]
    found = answer(study_of(rows, [FAILED]))
    assert found.missing == (
        "E128-k2, seed 0: failed: loss is nan",
        "E8-k2: 2 of 3 seeds finished",
    )


def test_without_runs_or_matches_nothing_is_said():
    assert answer(study_of([])).tasks == ("No run has finished yet, so nothing can be said.",)
    alone = answer(study_of([checkpoint()]))
    assert "nothing can be compared" in alone.tasks[0]
    assert alone.comparisons == ()


def test_a_study_of_text_alone_answers_by_validation_loss():
    rows = [
        checkpoint(
            num_experts=e, seed=s, losses=(loss_row("code", "validation", 2 - e / 50 + s / 500),)
        )
        for e in (2, 8, 32)
        for s in range(3)
    ]
    found = answer(study_of(rows))
    assert found.tasks[0].startswith("code: the sparsest cell (E32-k2")
    assert "the study does not ask both" in found.split[0]


def test_memory_tasks_are_told_by_the_config():
    config = {"corpus": {"sources": [{"kind": "PhoneBookProbe", "name": "phones"}]}}
    study = replace(study_of([]), config=config)
    assert study.memory_tasks == {"memory", "phones"}


def test_figures_in_words():
    assert figure_text(estimate([0.5]), "share") == "50.0% (one seed)"
    assert figure_text(estimate([0.8, 0.83, 0.86]), "share") == "83.0% ± 7.5"
    assert figure_text(estimate([0.1, 0.5, 0.9]), "share") == "50% (0 to 100%)"


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        *((name, "memory") for name in ("triviaqa", "TriviaQA", "trivia_qa", "hellaswag-4shot")),
        *(
            (name, "reasoning")
            for name in ("gsm8k", "GSM-Plus", "gsm_plus", "gsm8k_cot", "math500")
        ),
        *((name, "reasoning") for name in ("MATH-500", "humaneval+", "mbpp_plus", "reasoning")),
        *((name, None) for name in ("winogrande", "mathematica", "gsm", "", "memories")),
    ],
)
def test_benchmarks_are_of_the_kind_that_the_paper_says(task, kind):
    assert named_kind(task) == kind


def test_a_probe_is_of_the_kind_that_the_config_says_whatever_its_name():
    sources = [
        {"kind": "PhoneBookProbe", "name": "gsm8k"},
        {"kind": "ShortestPathProbe", "name": "roads"},
    ]
    study = replace(study_of([]), config={"corpus": {"sources": sources}})
    kinds = [study.task_kind(name) for name in ("gsm8k", "roads", "triviaqa", "sums")]
    assert kinds == ["memory", "reasoning", "memory", None]


def test_benchmarks_split_like_probes_and_tasks_of_no_known_kind_do_not_count():
    def renamed(names):
        return [
            replace(
                row,
                scores=tuple(
                    replace(s, task=names[s.task], split="test")
                    for s in row.scores
                    if s.split == "seen"
                ),
            )
            for row in rows_of(sparse_helps, dense_helps)
        ]

    known = answer(study_of(renamed({"memory": "triviaqa", "reasoning": "gsm8k"})))
    assert known.split[0].startswith("Memory and reasoning split by accuracy (triviaqa and gsm8k)")
    unknown = answer(study_of(renamed({"memory": "triviaqa", "reasoning": "winogrande"})))
    assert unknown.split == (
        "Whether memory and reasoning want different sparsity cannot be said: the study does not "
        "ask both (winogrande: of no known kind).",
    )
    same = answer(study_of(renamed({"memory": "triviaqa", "reasoning": "hellaswag"})))
    assert "does not ask both." in same.split[0]
    # A benchmark is no list of stated facts: its unseen questions are unseen.
    assert all("stated facts" not in text for text in known.tasks)


def test_a_table_without_a_config_says_nothing_of_our_seeds():
    study = replace(study_of(rows_of(flat, flat, steps=(100,))), config=None)
    text = " ".join(answer(study).not_shown)
    assert "the answer is for the questions that were asked" in text
    assert "corpus.seed" not in text


def test_of_several_families_the_largest_budget_answers_and_the_others_are_told():
    small = rows_of(sparse_helps, flat, steps=(100,), grid=((2, 2), (8, 2), (32, 2)))
    large = [
        replace(
            row,
            **{"cell": f"{row.cell}-long", "tokens": 4 * row.tokens},
            train_flops=4 * row.train_flops,
        )
        for row in rows_of(flat, flat, steps=(100,), grid=((2, 2), (8, 2), (32, 2)))
    ]
    found = answer(study_of([*small, *large]))
    assert all("-long" in text for text in found.tasks if " is best" in text or "against" in text)
    first, second = found.families
    assert first == (
        "These sentences are about 1 of 2 families: k=2, 120K active parameters, 16M tokens."
    )
    said = (
        "memory, accuracy: sparsest is best in 1; memory, task loss: sparsest is best in 1; reason"
    )
    assert said in second
    assert "in this family: sparsity 0 to 0.938, 120K active" in found.not_shown[0]
    assert "The other families have 120K active parameters and 4M tokens" in found.not_shown[0]
    labels = {item.family.label for item in found.comparisons}
    assert len(labels) == 2


def test_one_family_is_not_counted():
    found = answer(study_of(rows_of(sparse_helps, flat, steps=(100,))))
    assert found.families == ()
    assert found.comparisons[0].family.label == "k=2, 120K active parameters"
