"""What is expected of k samples equals the mean over all subsets, and chance where it is known."""

import itertools
import math
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.evaluate.testtime import votes
from isoflop.evaluate.testtime.votes import (
    best_of,
    coverage,
    majority,
    majority_in_order,
    winners,
)

ANSWERS = st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=7)
GOLD = "2"


def right_of(answers: list[str | None]) -> list[bool]:
    return [answer == GOLD for answer in answers]


@given(ANSWERS, st.data())
def test_coverage_is_the_mean_over_all_subsets(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    right = right_of(answers)
    expected = fmean(any(subset) for subset in itertools.combinations(right, k))
    assert coverage(len(right), sum(right), k) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7), st.data())
def test_best_of_is_the_mean_over_all_subsets_ties_shared(samples, data):
    k = data.draw(st.integers(1, len(samples)))

    def chosen(subset):
        best = max(score for score, _ in subset)
        return fmean(right for score, right in subset if score == best)

    # Among ties of a subset any is taken; over all subsets each tied one equally often.
    expected = fmean(chosen(subset) for subset in itertools.combinations(samples, k))
    scores = [float(score) for score, _ in samples]
    found = best_of(scores, [right for _, right in samples], k)
    assert found == pytest.approx(expected, abs=1e-9)


def exact_majority(answers: list[str | None], k: int) -> float:
    """The definition: every order of every subset, ties to the earliest."""
    wins = []
    for order in itertools.permutations(answers, k):
        best = winners(order)
        wins.append(bool(best) and best[0] == GOLD)
    return fmean(wins)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=6))
def test_a_vote_of_one_and_of_all_is_exact(answers):
    right = right_of(answers)
    for k in {1, len(answers)}:
        found = majority(answers, right, k, seed=0)
        assert found == pytest.approx(exact_majority(answers, k), abs=1e-12)


@pytest.mark.parametrize(
    "answers",
    [
        ["2", "2", "1", "1", "3"],
        ["2", None, None, "1", "1"],
        ["2", "2", "2", "1", "1", None],
        ["1", "3", "2"],
    ],
)
def test_a_vote_of_some_is_near_the_mean_over_all_orders(answers, monkeypatch):
    monkeypatch.setattr(votes, "PERMUTATIONS", 4000)
    for k in range(2, len(answers)):
        found = majority(answers, right_of(answers), k, seed=1)
        assert found == pytest.approx(exact_majority(answers, k), abs=4 * 0.5 / math.sqrt(4000))


def test_a_vote_is_averaged_over_the_permutations_it_says():
    answers = ["2", "1", "1", "2", "3", None, "2", "1"]
    assert votes.PERMUTATIONS == 64
    found = majority(answers, right_of(answers), 4, seed=0)
    assert found * 64 == pytest.approx(round(found * 64), abs=1e-9)
    assert 0.0 < found < 1.0


def test_a_vote_is_the_same_for_the_same_seed_and_differs_from_another_seeds():
    answers = ["2", "1", "1", "2", "3", None, "2", "1"]
    found = [majority(answers, right_of(answers), 4, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert len(set(found)) > 1


def test_weights_decide_and_equal_weights_are_votes():
    answers, right = ["1", "1", "2"], [False, False, True]
    assert majority(answers, right, 3, seed=0, weights=[0.1, 0.1, 0.9]) == 1.0
    assert majority(answers, right, 3, seed=0, weights=[0.5, 0.5, 0.9]) == 0.0
    assert majority(answers, right, 3, seed=0, weights=[1.0, 1.0, 1.0]) == 0.0
    assert majority(answers, right, 1, seed=0, weights=[2.0, 1.0, 1.0]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("right", [[True, False], [False, True]])
def test_an_answer_whose_samples_disagree_counts_by_their_mean(right):
    assert majority(["2", "2"], right, 2, seed=0) == 0.5
    assert majority(["2", "2"], right, 2, seed=0, weights=[1.0, 3.0]) == 0.5
    assert not majority_in_order(["2", "2"], right, 2)
    answers = ["2", "1", "2", "2", None]
    for order in (right, right[::-1]):
        mixed = [order[0], False, True, order[1], False]
        assert majority(answers, mixed, 5, seed=0) == pytest.approx(2 / 3)
        assert majority_in_order(answers, mixed, 5)


def test_in_order_ties_go_to_the_earliest_and_silence_is_wrong():
    assert majority_in_order(["2", "1"], [True, False], 2)
    assert not majority_in_order(["1", "2"], [False, True], 2)
    assert not majority_in_order([None, "2"], [False, True], 1)
    assert majority_in_order([None, "2"], [False, True], 2)


@pytest.mark.parametrize("k", [0, 4])
def test_more_samples_than_there_are_is_a_mistake(k):
    right = [True, False, True]
    for call in (
        lambda: coverage(3, 2, k),
        lambda: majority(["a", "b", "a"], right, k, seed=0),
        lambda: majority_in_order(["a", "b", "a"], right, k),
        lambda: best_of([1.0, 2.0, 3.0], right, k),
    ):
        with pytest.raises(ValueError, match="between 1 and the 3 samples"):
            call()


def test_coverage_of_many_samples_does_not_overflow():
    assert coverage(100_000, 1, 1000) == pytest.approx(0.01)
    assert coverage(100_000, 0, 50_000) == 0.0
