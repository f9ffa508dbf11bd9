"""From the samples of a task to curves over their number, with errors over problems."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from isoflop.config import UserError
from isoflop.corpus.seeds import stable_hash
from isoflop.evaluate.statistics import share_and_error
from isoflop.evaluate.testtime.rows import CurveRow, ExtractionRow, SampleRow
from isoflop.evaluate.testtime.votes import best_of, coverage, majority, majority_in_order

Reading = Literal["strict", "flexible"]
"""Which extraction of final answers counts."""

SampleScores = Mapping[tuple[str, int], float]
"""A score of each (item, sample), e.g. a reward model's; larger is better. To weigh votes all
must be at least 0."""


@dataclass(frozen=True)
class ProblemSamples:
    """The samples of one problem, in their order, without those whose logits were not finite.

    The model said nothing there that could be right or wrong; they are in `extraction` alone.
    """

    item: str
    answers: tuple[str | None, ...]
    right: tuple[bool, ...]
    """An answer that cannot be graded is not right."""
    scores: tuple[float, ...] | None

    @property
    def can_weigh(self) -> bool:
        """Whether the scores may be weights of votes: none below 0."""
        return self.scores is not None and min(self.scores, default=0.0) >= 0.0


def by_problem(
    rows: Sequence[SampleRow], reading: Reading = "strict", scores: SampleScores | None = None
) -> list[ProblemSamples]:
    """The samples of each problem, problems in the order of the rows.

    Raises:
        UserError: a sample stands twice, has no score where scores are given, or a score is
            not finite; or the task has no flexible reading.
    """
    grouped: dict[str, dict[int, SampleRow]] = {}
    for row in rows:
        of_item = grouped.setdefault(row.item, {})
        if row.sample in of_item:
            raise UserError(f"sample {row.sample} of item {row.item!r} stands twice")
        of_item[row.sample] = row
    finite = {
        item: {place: of_item[place] for place in sorted(of_item) if _is_finite(of_item[place])}
        for item, of_item in grouped.items()
    }
    if reading == "flexible" and all(row.correct_flexible is None for row in rows):
        raise UserError("these answers have no flexible reading (only numbers have one)")
    return [
        ProblemSamples(
            item=item,
            answers=tuple(_answer(row, reading) for row in of_item.values()),
            right=tuple(bool(_correct(row, reading)) for row in of_item.values()),
            scores=_scores(item, list(of_item), scores),
        )
        for item, of_item in finite.items()
    ]


def _is_finite(row: SampleRow) -> bool:
    return row.finish != "not_finite"


def sample_numbers(most: int) -> list[int]:
    """1, 2, 4 and so on up to `most`, which is the last.

    >>> sample_numbers(6)
    [1, 2, 4, 6]
    """
    powers = [2**place for place in range(most.bit_length()) if 2**place < most]
    return [*powers, most]


def curve(problems: Sequence[ProblemSamples], numbers: Sequence[int]) -> list[CurveRow]:
    """One row for each number of samples; problems with fewer are left out of it and counted."""
    return [_curve_row(problems, number) for number in numbers]


def _curve_row(problems: Sequence[ProblemSamples], number: int) -> CurveRow:
    enough = [one for one in problems if len(one.right) >= number]
    scored = [(one, one.scores) for one in enough if one.scores is not None]

    covered = share_and_error([coverage(len(one.right), sum(one.right), number) for one in enough])
    voted = share_and_error([_vote(one, number, None) for one in enough])
    ordered = share_and_error([majority_in_order(one.answers, one.right, number) for one in enough])
    best = share_and_error([best_of(scores, one.right, number) for one, scores in scored])
    weighs = all(one.can_weigh for one in problems)
    weighted = share_and_error([_vote(one, number, scores) for one, scores in scored if weighs])
    return CurveRow(
        num_samples=number,
        num_problems=len(enough),
        coverage=covered[0],
        coverage_standard_error=covered[1],
        majority=voted[0],
        majority_standard_error=voted[1],
        majority_in_order=ordered[0],
        best_of=best[0],
        best_of_standard_error=best[1],
        weighted_majority=weighted[0],
        weighted_majority_standard_error=weighted[1],
    )


def _vote(problem: ProblemSamples, number: int, weights: Sequence[float] | None) -> float:
    seed = stable_hash("majority", problem.item)
    return majority(problem.answers, problem.right, number, seed=seed, weights=weights)


def extraction(rows: Sequence[SampleRow]) -> list[ExtractionRow]:
    """How many answers could be read, by why the samples ended, and of all."""
    groups: dict[str, list[SampleRow]] = {}
    for row in rows:
        groups.setdefault(row.finish, []).append(row)
    return [_extraction_row(name, groups[name]) for name in sorted(groups)] + [
        _extraction_row("all", rows)
    ]


def _extraction_row(finish: str, rows: Sequence[SampleRow]) -> ExtractionRow:
    # An answer that is a program has no flexible reading.
    flexible = any(row.correct_flexible is not None for row in rows)
    reasons = Counter(row.reason or "no reason" for row in rows if row.correct is None)
    return ExtractionRow(
        finish=finish,
        num_samples=len(rows),
        num_ungradable=sum(row.correct is None for row in rows),
        num_ungradable_flexible=(
            sum(row.correct_flexible is None for row in rows) if flexible else None
        ),
        reasons=dict(reasons.most_common()),
    )


def _answer(row: SampleRow, reading: Reading) -> str | None:
    return row.answer if reading == "strict" else row.answer_flexible


def _correct(row: SampleRow, reading: Reading) -> bool | None:
    return row.correct if reading == "strict" else row.correct_flexible


def _scores(
    item: str, samples: Sequence[int], scores: SampleScores | None
) -> tuple[float, ...] | None:
    if scores is None:
        return None
    missing = [place for place in samples if (item, place) not in scores]
    if missing:
        raise UserError(f"sample {missing[0]} of item {item!r} has no score; score every sample")
    found = tuple(scores[item, place] for place in samples)
    wrong = [score for score in found if not math.isfinite(score)]
    if wrong:
        raise UserError(f"item {item!r}: scores must be finite numbers, got {wrong[0]}")
    return found


ScoreSample = Callable[[SampleRow], float]
"""A user's own score of a sample, for `scores_by`."""


def scores_by(rows: Sequence[SampleRow], score: ScoreSample) -> SampleScores:
    """The scores that a callable gives."""
    return {(row.item, row.sample): score(row) for row in rows}
