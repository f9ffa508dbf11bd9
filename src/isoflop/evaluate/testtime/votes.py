"""What is expected of k of a problem's n samples: coverage, votes, and the best by a score.

Expectations are over subsets of k samples drawn without replacement, so that all n samples are used
for every k. Coverage and best-of-k have closed forms; a vote among k < n is averaged over seeded
permutations. A sample without a readable answer does not vote and is not right.

Sources: the estimator of coverage, Chen et al. (arXiv:2107.03374), equation 1; majority vote, Wang et
al. (arXiv:2203.11171); both over many samples, arXiv:2407.21787.
"""

import math
import random
from collections.abc import Sequence

PERMUTATIONS = 64
"""Over which a vote among fewer than all samples is averaged. Chosen: of a problem on the edge, where
a vote is right every second time, the error is 0.06, far below that between problems."""


def coverage(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k of the samples hold a right one, 1 - C(n - c, k) / C(n, k).

    Raises:
        ValueError: k is not within 1 to n.

    >>> coverage(4, 1, 1), coverage(4, 1, 2), coverage(4, 3, 2)
    (0.25, 0.5, 1.0)
    """
    _check_size(num_samples, k)
    wrong = num_samples - num_correct
    # A product of k factors, since the binomials overflow a float.
    missed = math.prod((wrong - place) / (num_samples - place) for place in range(k))
    return 1.0 - missed if wrong >= k else 1.0


def winners(answers: Sequence[str | None], weights: Sequence[float] | None = None) -> list[str]:
    """The answers with the most votes, or the largest sum of weights; in the order first given.

    Empty where nobody answered.

    >>> winners(["8", "7", "7", None, "8"]), winners([None])
    (['8', '7'], [])
    """
    votes: dict[str, float] = {}
    for place, answer in enumerate(answers):
        if answer is not None:
            votes[answer] = votes.get(answer, 0.0) + (1.0 if weights is None else weights[place])
    most = max(votes.values(), default=0.0)
    return [answer for answer, count in votes.items() if count == most]


def majority(
    answers: Sequence[str | None],
    right: Sequence[bool],
    k: int,
    *,
    seed: int,
    weights: Sequence[float] | None = None,
) -> float:
    """Chance that a vote among k of the samples is won by a right answer.

    Of equals the earliest given wins, which in a random order is any of those of equal number; a
    weighted vote has hardly equals. `right` says of each sample whether its answer is right; of an
    answer whose samples disagree the mean counts.

    Raises:
        ValueError: k is not within 1 to n.
    """
    _check_size(len(answers), k)
    if k == len(answers) and weights is None:
        best = winners(answers)
        return _share_right(best, answers, right) if best else 0.0
    if k == 1 and (weights is None or min(weights) > 0):
        return sum(right) / len(right)
    order = list(range(len(answers)))
    draw = random.Random(seed)
    won = 0.0
    for _ in range(PERMUTATIONS):
        draw.shuffle(order)
        few = order[:k]
        best = winners(
            [answers[place] for place in few], weights and [weights[place] for place in few]
        )
        won += bool(best) and _share_right(best[:1], answers, right)
    return won / PERMUTATIONS


def majority_in_order(answers: Sequence[str | None], right: Sequence[bool], k: int) -> bool:
    """Whether the vote of the first k samples is won by a right answer; ties to the earliest.

    An answer whose samples disagree is right if more than half of all its samples are.
    """
    _check_size(len(answers), k)
    best = winners(answers[:k])
    return bool(best) and _share_right(best[:1], answers, right) > 0.5


def best_of(scores: Sequence[float], right: Sequence[bool], k: int) -> float:
    """Chance that the sample of highest score among k is right; of equals any.

    Raises:
        ValueError: k is not within 1 to n.
    """
    _check_size(len(scores), k)
    groups: dict[float, list[bool]] = {}
    for score, one in zip(scores, right, strict=True):
        groups.setdefault(score, []).append(one)
    chance, below = 0.0, len(scores)
    all_subsets = math.comb(len(scores), k)
    for score in sorted(groups, reverse=True):
        members = groups[score]
        # Subsets of what is not above, without those of what is below: the best is of this group.
        here = math.comb(below, k) - math.comb(below - len(members), k)
        chance += here / all_subsets * (sum(members) / len(members))
        below -= len(members)
    return chance


def _share_right(
    best: Sequence[str], answers: Sequence[str | None], right: Sequence[bool]
) -> float:
    """Chance that any one of the winning answers is right.

    Samples of one answer agree on it, unless a grader sees more than the answer by which they
    vote; then the answer is as right as the mean of its samples, whatever their order.
    """
    verdicts: dict[str, list[bool]] = {answer: [] for answer in best}
    for answer, verdict in zip(answers, right, strict=True):
        if answer is not None and answer in verdicts:
            verdicts[answer].append(verdict)
    return sum(sum(group) / len(group) for group in verdicts.values()) / len(best)


def _check_size(num_samples: int, k: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k} must be between 1 and the {num_samples} samples")
