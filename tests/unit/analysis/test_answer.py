"""The words say what the numbers allow, and no more."""

from dataclasses import replace

from tests.fakes_analysis import (
    checkpoint,
    dense_helps,
    flat,
    loss_row,
    rows_of,
    sparse_helps,
    study_of,
)

from isoflop.analysis.answer import answer, figure_text
from isoflop.analysis.statistics import estimate
from isoflop.records import CellState

FAILED = CellState(cell="E128-k2", seed=0, run="E128-k2-s0", state="failed", reason="loss is nan")


def test_a_clear_effect_is_named_with_both_ends():
    found = answer(study_of(rows_of(sparse_helps, flat)))
    memory, memory_loss, reasoning, reasoning_loss = found.tasks
    assert memory.startswith("memory: the sparsest cell (E64-k2, 96.9% sparse) is best within")
    assert "against" in memory
    assert "E2-k2, dense (3 seeds, 95% intervals)" in memory
    assert "task loss on stated facts" in memory_loss
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
