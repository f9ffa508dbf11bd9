"""Curves, failures of extraction and overlaps over problems, from rows made by hand."""

import dataclasses
import math
import random

import pytest

from isoflop.config import UserError
from isoflop.evaluate.statistics import share_and_error
from isoflop.evaluate.testtime.curves import (
    by_problem,
    curve,
    extraction,
    sample_numbers,
    scores_by,
)
from isoflop.evaluate.testtime.overlap import overlap, overlaps, problem_map
from isoflop.evaluate.testtime.rows import SampleRow


def row(item: str, sample: int, answer: str | None, **changes) -> SampleRow:
    """A sample of a problem whose gold answer is 7."""
    fields = {
        "task": "gsm8k",
        "item": item,
        "sample": sample,
        "seed": sample,
        "num_tokens": 3,
        "finish": "stop",
        "text": f"#### {answer}",
        "answer": answer,
        "correct": None if answer is None else answer == "7",
        "reason": "no mark before a final answer" if answer is None else None,
        "answer_flexible": answer or "7",
        "correct_flexible": True if answer is None else answer == "7",
    }
    return SampleRow(**(fields | changes))


ROWS = [
    row("a", 0, "7"),
    row("a", 1, "8"),
    row("a", 2, "7"),
    row("a", 3, None, finish="length"),
    row("b", 0, "8"),
    row("b", 1, "8"),
    row("b", 2, "7"),
    row("b", 3, "9"),
    row("c", 1, "7"),
    row("c", 0, "1"),
]


def test_a_curve_by_hand():
    one, two, four = curve(by_problem(ROWS), [1, 2, 4])
    assert (one.num_problems, two.num_problems, four.num_problems) == (3, 3, 2)
    assert one.coverage == pytest.approx((2 / 4 + 1 / 4 + 1 / 2) / 3)
    assert one.majority == pytest.approx(one.coverage)
    assert two.coverage == pytest.approx(((1 - 1 / 6) + (1 - 3 / 6) + 1) / 3)
    assert (four.coverage, four.majority, four.majority_in_order) == (1.0, 0.5, 0.5)
    # Of c, whose samples stand in the file in the other order, "1" came first.
    assert two.majority_in_order == pytest.approx(1 / 3)
    assert four.best_of is four.weighted_majority is four.best_of_standard_error is None
    for one_row in (one, two):
        assert one_row.coverage_standard_error > 0


def test_an_answer_that_cannot_be_read_neither_votes_nor_is_right_but_may_be_read_flexibly():
    (problem, *_) = by_problem(ROWS)
    assert problem.answers == ("7", "8", "7", None)
    assert problem.right == (True, False, True, False)
    (problem, *_) = by_problem(ROWS, "flexible")
    assert problem.answers == ("7", "8", "7", "7")
    assert problem.right == (True, False, True, True)
    strict_only = [
        dataclasses.replace(one, answer_flexible=None, correct_flexible=None) for one in ROWS
    ]
    with pytest.raises(UserError, match="no flexible reading"):
        by_problem(strict_only, "flexible")


def test_scores_choose_the_best_and_weigh_votes():
    scores = scores_by(ROWS, lambda one: 1.0 if one.answer == "7" else 0.1)
    four = curve(by_problem(ROWS, scores=scores), [4])[0]
    assert (four.best_of, four.weighted_majority, four.majority) == (1.0, 1.0, 0.5)
    misled = scores_by(ROWS, lambda one: 0.0 if one.answer == "7" else 1.0)
    four = curve(by_problem(ROWS, scores=misled), [4])[0]
    assert (four.best_of, four.weighted_majority) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("rows", "scores", "message"),
    [
        ([*ROWS, ROWS[0]], None, "sample 0 of item 'a' stands twice"),
        (ROWS, {("a", 0): 1.0}, "sample 1 of item 'a' has no score"),
        (ROWS, scores_by(ROWS, lambda one: math.inf), "finite"),
        (ROWS, scores_by(ROWS, lambda one: math.nan), "finite"),
    ],
)
def test_rows_and_scores_that_do_not_fit_are_refused(rows, scores, message):
    with pytest.raises(UserError, match=message):
        by_problem(rows, scores=scores)


def test_scores_below_zero_choose_the_best_and_weigh_nothing():
    logits = scores_by(ROWS, lambda one: -1.0 if one.answer == "7" else -2.0)
    shifted = scores_by(ROWS, lambda one: 2.0 if one.answer == "7" else 1.0)
    found, wanted = (curve(by_problem(ROWS, scores=scores), [2])[0] for scores in (logits, shifted))
    assert (found.best_of, found.best_of_standard_error) == (
        wanted.best_of,
        wanted.best_of_standard_error,
    )
    assert found.weighted_majority is None
    assert wanted.weighted_majority is not None


def test_no_problems_with_so_many_samples_is_not_measured():
    (none,) = curve(by_problem(ROWS), [5])
    assert none.num_problems == 0
    assert none.coverage is none.majority is none.majority_in_order is None


def test_numbers_of_samples_double_and_end_with_all():
    assert sample_numbers(1) == [1]
    assert sample_numbers(128) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert sample_numbers(100)[-2:] == [64, 100]


def test_extraction_counts_every_sample_once():
    length, stop, whole = extraction(ROWS)
    assert (length.finish, length.num_samples, length.num_ungradable) == ("length", 1, 1)
    assert (stop.finish, stop.num_samples, stop.num_ungradable) == ("stop", 9, 0)
    assert (whole.num_samples, whole.num_ungradable) == (10, 1)
    assert whole.num_ungradable_flexible == 0
    assert whole.reasons == {"no mark before a final answer": 1}


def test_errors_shrink_with_problems_and_are_those_of_repeated_draws():
    """The standard error told is the spread of the mean over many draws of the problems."""
    draw = random.Random(0)

    def mean_of(size: int) -> tuple[float, float]:
        values = [draw.random() ** 2 for _ in range(size)]
        mean, error = share_and_error(values)
        assert mean is not None
        assert error is not None
        return mean, error

    found = [mean_of(100) for _ in range(400)]
    centre = sum(mean for mean, _ in found) / len(found)
    spread = math.sqrt(sum((mean - centre) ** 2 for mean, _ in found) / len(found))
    told = sum(error for _, error in found) / len(found)
    assert told == pytest.approx(spread, rel=0.1)


def samples_of(verdicts: dict[str, list[bool]]) -> list:
    return by_problem(
        [
            row(item, place, "7" if right else str(place))
            for item, many in verdicts.items()
            for place, right in enumerate(many)
        ]
    )


def test_the_map_and_the_overlap_of_two_checkpoints():
    sparse = samples_of({"a": [True] * 4, "b": [True, True, True, False], "c": [False] * 4})
    dense = samples_of({"c": [True] * 4, "b": [True] * 4, "a": [False] * 4})
    rows = problem_map({"sparse": sparse, "dense": dense})
    assert [one.item for one in rows] == ["a", "b", "c"]
    assert [one.solved for one in rows] == [
        {"sparse": True, "dense": False},
        {"sparse": True, "dense": True},
        {"sparse": False, "dense": True},
    ]
    assert rows[1].shares_correct == {"sparse": 0.75, "dense": 1.0}
    halves, _, both = overlaps({"sparse": sparse, "dense": dense})
    assert (halves.one, halves.other, halves.num_solved_both) == ("sparse", "sparse", 1)
    assert (both.num_solved_one, both.num_solved_other, both.num_solved_both) == (2, 2, 1)
    assert both.expected_by_chance == pytest.approx(4 / 3)
    with pytest.raises(UserError, match=r"different problems, e\.g\. 'c'"):
        problem_map({"sparse": sparse, "dense": dense[1:]})


def test_independent_solvers_share_what_chance_gives_and_the_same_solver_all():
    draw = random.Random(1)
    inside = 0
    for _ in range(200):
        one, other = ([draw.random() < share for _ in range(150)] for share in (0.4, 0.7))
        found = overlap("x", "y", one, other)
        inside += found.chance_low <= found.num_solved_both <= found.chance_high
    assert 0.92 <= inside / 200 <= 1.0
    same = overlap("x", "x", one, one)
    assert same.kappa == pytest.approx(1.0)
    assert same.num_solved_both == sum(one) > same.chance_high
    nothing = overlap("x", "y", [False] * 5, one[:5])
    assert (nothing.num_solved_both, nothing.expected_by_chance) == (0, 0.0)
    assert overlap("x", "y", [True] * 3, [True] * 3).kappa is None
