"""Which problems each of several checkpoints solves, and how much of the overlap chance would give.

A problem counts as solved where a vote among its samples is more likely right than not; of one
sample that is whether it is right. Two checkpoints that solved problems independently of each other
would share a number of hypergeometric distribution; two that solve by the same difficulty share more.
How much a checkpoint shares with itself, one half of its samples against the other, is what sampling
noise alone leaves: a pair that shares as much solves the same problems.

Source: per-problem map across sparsities, arXiv:2508.18672, appendix C.4 and figure 19.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.stats import hypergeom

from isoflop.config import UserError
from isoflop.corpus.seeds import stable_hash
from isoflop.evaluate.testtime.curves import ProblemSamples
from isoflop.evaluate.testtime.votes import majority

CHANCE_INTERVAL = 0.95
"""Of the number that chance would give."""


@dataclass(frozen=True, kw_only=True)
class MapRow:
    """One problem across checkpoints."""

    item: str
    shares_correct: dict[str, float]
    """Share of right samples, by checkpoint."""
    solved: dict[str, bool]
    """Whether the vote is more likely right than not, by checkpoint."""


@dataclass(frozen=True, kw_only=True)
class OverlapRow:
    """What two checkpoints solve, or the two halves of one checkpoint's samples."""

    one: str
    other: str
    """The same name twice: halves of one checkpoint's samples."""
    num_problems: int
    num_solved_one: int
    num_solved_other: int
    num_solved_both: int
    expected_by_chance: float
    """Problems that both would solve if neither knew of the other."""
    chance_low: int
    chance_high: int
    """Bounds within which 95% of chance's numbers lie."""
    kappa: float | None
    """Cohen's: agreement beyond chance, 1 for the same problems; None where one solves all or none."""


def problem_map(checkpoints: Mapping[str, Sequence[ProblemSamples]]) -> list[MapRow]:
    """A row for each problem that every checkpoint has samples of, in the order of the first.

    Raises:
        UserError: checkpoints were asked different problems.
    """
    by_name = {name: {one.item: one for one in many} for name, many in checkpoints.items()}
    (first, items), *others = by_name.items()
    for name, found in others:
        odd = sorted(set(items) ^ set(found))
        if odd:
            raise UserError(
                f"{name} and {first} were asked different problems, e.g. {odd[0]!r}: compare "
                "checkpoints that were asked the same"
            )
    return [
        MapRow(
            item=item,
            shares_correct={
                name: sum(found[item].right) / len(found[item].right)
                for name, found in by_name.items()
            },
            solved={name: is_solved(found[item]) for name, found in by_name.items()},
        )
        for item in items
        if all(found[item].right for found in by_name.values())
    ]


def is_solved(problem: ProblemSamples) -> bool:
    """Whether a vote among all the samples is more likely right than not."""
    seed = stable_hash("solved", problem.item)
    return majority(problem.answers, problem.right, len(problem.right), seed=seed) > 0.5


def overlaps(checkpoints: Mapping[str, Sequence[ProblemSamples]]) -> list[OverlapRow]:
    """Every checkpoint's halves, then every pair.

    Raises:
        UserError: checkpoints were asked different problems.
    """
    rows = problem_map(checkpoints)
    if not rows:
        return []
    sampled = {name: [one for one in many if one.right] for name, many in checkpoints.items()}
    found = [
        overlap(name, name, *_solved_by_halves(problems))
        for name, problems in sampled.items()
        if min(len(one.right) for one in problems) > 1
    ]
    names = list(checkpoints)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            found.append(
                overlap(
                    one,
                    other,
                    [row.solved[one] for row in rows],
                    [row.solved[other] for row in rows],
                )
            )
    return found


def overlap(one: str, other: str, solved: Sequence[bool], solved_too: Sequence[bool]) -> OverlapRow:
    """The overlap of two lists of verdicts on the same problems.

    >>> row = overlap("a", "b", [True, True, False, False], [True, True, False, True])
    >>> row.num_solved_both, row.expected_by_chance, row.kappa
    (2, 1.5, 0.5)
    """
    total, first, second = len(solved), sum(solved), sum(solved_too)
    both = sum(a and b for a, b in zip(solved, solved_too, strict=True))
    chance = hypergeom(total, first, second)
    low, high = chance.interval(CHANCE_INTERVAL)
    agree = sum(a == b for a, b in zip(solved, solved_too, strict=True)) / total
    by_chance = (first * second + (total - first) * (total - second)) / total**2
    return OverlapRow(
        one=one,
        other=other,
        num_problems=total,
        num_solved_one=first,
        num_solved_other=second,
        num_solved_both=both,
        expected_by_chance=first * second / total,
        chance_low=int(low),
        chance_high=int(high),
        kappa=(agree - by_chance) / (1 - by_chance) if by_chance < 1 else None,
    )


def _solved_by_halves(problems: Sequence[ProblemSamples]) -> tuple[list[bool], list[bool]]:
    """Verdicts by the first and by the second half of each problem's samples."""
    halves: tuple[list[bool], list[bool]] = ([], [])
    for problem in problems:
        middle = len(problem.right) // 2
        for half, part in zip(halves, (slice(middle), slice(middle, 2 * middle)), strict=True):
            half.append(
                is_solved(
                    replace(
                        problem,
                        answers=problem.answers[part],
                        right=problem.right[part],
                        scores=None,
                    )
                )
            )
    return halves
