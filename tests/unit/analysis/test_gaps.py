"""A gap is a difference of two measured figures, or None."""

from dataclasses import replace

import pytest
from tests.fakes_analysis import checkpoint, flat, loss_row, rows_of, score_row

from isoflop.analysis.families import final_cells
from isoflop.analysis.gaps import (
    all_gaps,
    loss_accuracy_gap,
    train_test_gap,
    train_validation_gap,
    unmeasured_text,
    without_unmeasured,
)

SEEN = score_row("reasoning", "seen", 0.9, bits_per_byte=0.25)
HELD_OUT = score_row("reasoning", "held_out", 0.5, bits_per_byte=1.0, answer_probability=0.125)


def test_gaps_are_differences_of_the_right_sign():
    losses = (loss_row("code", "train", 2.0), loss_row("code", "validation", 2.5))
    row = checkpoint(scores=(SEEN, HELD_OUT), losses=losses)
    assert train_test_gap(row, "reasoning") == 0.75
    assert train_validation_gap(row, "code") == 0.5
    assert loss_accuracy_gap(row, "reasoning", "held_out") == 0.375


@pytest.mark.parametrize(
    "scores",
    [
        (),
        (SEEN,),
        (HELD_OUT,),
        (SEEN, score_row("reasoning", "held_out", 0.5, bits_per_byte=None)),
        (SEEN, score_row("other", "held_out", 0.5)),
    ],
)
def test_a_gap_needs_both_sides(scores):
    row = checkpoint(scores=scores)
    assert train_test_gap(row, "reasoning") is None
    assert train_validation_gap(row, "code") is None


def test_an_accuracy_without_a_loss_has_no_gap():
    found = score_row("memory", "seen", 0.5, answer_probability=None)
    assert loss_accuracy_gap(checkpoint(scores=(found,)), "memory", "seen") is None


def test_memory_has_no_train_test_gap_and_says_why():
    gaps = all_gaps(final_cells(rows_of(flat, flat)), frozenset({"memory"}))
    chosen = [gap for gap in gaps if (gap.kind, gap.subject) == ("train-test", "memory")]
    assert chosen
    assert all(gap.estimate is None and gap.values == () for gap in chosen)
    assert all("nothing can be held out" in (gap.reason or "") for gap in chosen)


def test_every_cell_has_its_seeds_or_a_reason():
    gaps = all_gaps(final_cells(rows_of(flat, flat, seeds=2)), frozenset({"memory"}))
    assert {gap.kind for gap in gaps} == {"train-test", "train-validation", "loss-accuracy"}
    for gap in gaps:
        assert (gap.estimate is None) == (gap.reason is not None) == (gap.values == ())
        assert gap.estimate is None or gap.estimate.num_seeds == 2


def test_gaps_that_no_cell_has_are_one_sentence_and_no_lines():
    rows = rows_of(flat, flat, seeds=2)
    gaps = all_gaps(final_cells(rows), frozenset({"memory"}))
    shown = without_unmeasured(gaps)
    kinds = {(gap.kind, gap.subject) for gap in gaps}
    assert {(gap.kind, gap.subject) for gap in shown} == kinds - {("train-test", "memory")}
    assert unmeasured_text(gaps).startswith("Gaps that no cell has: train-test of memory (nothing")
    assert unmeasured_text(shown) == ""
    # A gap that one cell has is shown for all, with the reason where it is missing.
    first, *others = [gap for gap in shown if gap.subject == "reasoning"]
    bare = replace(others[0], values=(), estimate=None, reason="not measured")
    assert without_unmeasured([first, bare]) == (first, bare)
