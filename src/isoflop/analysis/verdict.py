"""The rule by which a family of matched cells says which sparsity is best.

Words in this file:
    ends     the densest and the sparsest cell of a family
    inner    the cells between them
    leaders  the best mean, and the cells that are not told apart from it

A false claim is the worst outcome, so every rule here errs to "not distinguishable". A cell is
never called best while another has a better mean, or is not told apart from it.

Source: a claim that needs several tests at once takes the largest p-value, Berger 1982
(Technometrics 24, 295).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from isoflop.analysis.statistics import (
    CONFIDENCE,
    MIN_SEEDS,
    Better,
    Difference,
    Sample,
    difference,
    holm,
)

VerdictKind = Literal[
    "sparsest is best",
    "densest is best",
    "an inner density is best",
    "sparser is better",
    "denser is better",
    "an inner density is better than both ends",
    "not distinguishable",
    "not comparable",
]

DIRECTION: dict[VerdictKind, int] = {
    "sparsest is best": 1,
    "sparser is better": 1,
    "densest is best": -1,
    "denser is better": -1,
}
"""1 where the sparse end surely beats the dense end, -1 the other way; no entry: neither."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one task and metric says about density within one matched family."""

    kind: VerdictKind
    best: str | None
    """The cell claimed best: it surely beats every other. None if no cell does."""
    leaders: tuple[str, ...]
    """Cells of which one is best, from the densest to the sparsest: more than one where something
    is claimed but the best is not resolved; () where nothing is claimed."""
    ends: Difference | None
    """Sparsest minus densest at the Holm-corrected level; None where no claim can be tested."""
    reason: str
    """Why, in words."""


def verdict(samples: Sequence[Sample], *, better: Better) -> Verdict:
    """Which density of a matched family is best, if that can be told.

    The rule. Cells are ordered by density; all have equal active parameters and tokens, final
    checkpoints only. First the direction. The claims are: the two ends differ (two-sided Welch);
    and, for each inner cell, it beats both ends (the larger of its two p-values). Together they
    may be wrong in 5% of studies of pure noise, by Holm's correction.

    - an inner claim holds: "an inner density is better than both ends"
    - else the ends differ: "sparser is better" or "denser is better"
    - else "not distinguishable"; always so where an end has fewer than MIN_SEEDS seeds. With one
      seed the spread is unknown, and the standard error over items is only its smaller part.

    Then the best. The cell with the best mean is compared with every other cell, Holm over all
    these comparisons; the cells that it does not surely beat are level with it. If there is none,
    and a direction was claimed, it is best: "sparsest is best", "densest is best" or "an inner
    density is best". Otherwise which leader is best is not resolved. Among the leaders are also
    the end that won, and cells of too few seeds to be tested; not among them is what the claimed
    direction rules out: the end that lost, or both ends.
    """
    ordered = sorted(samples, key=lambda sample: (-sample.density, sample.name))
    silent = _too_little(ordered)
    if silent is not None:
        return undecided("not distinguishable", silent)
    densest, sparsest = ordered[0], ordered[-1]
    inner = [s for s in ordered[1:-1] if len(s.values) >= MIN_SEEDS]
    ends, ends_differ, peaks = _test_claims(sparsest, densest, inner, better)
    level = _level_with_best(ordered, better)
    if peaks:
        kind: VerdictKind = "an inner density is better than both ends"
        leaders = level - {densest.name, sparsest.name}
        peak = max(peaks, key=lambda cell: _signed_mean(cell, better))
        reason = f"{peak.name} is better than both {densest.name} and {sparsest.name}"
    elif ends_differ:
        sparse_wins = _gain(ends, better) > 0
        winner, loser = (sparsest, densest) if sparse_wins else (densest, sparsest)
        kind = "sparser is better" if sparse_wins else "denser is better"
        leaders = (level | {winner.name}) - {loser.name}
        reason = f"{winner.name} is better than {loser.name}"
    else:
        reason = (
            f"{sparsest.name} and {densest.name} differ by no more than chance allows, "
            "and no cell between is surely better than both"
        )
        return undecided("not distinguishable", reason, ends)
    named = tuple(s.name for s in ordered if s.name in leaders)
    if len(level) > 1 or len(named) > 1:
        return Verdict(kind=kind, best=None, leaders=named, ends=ends, reason=reason)
    best = named[0]
    places: dict[str, VerdictKind] = {
        sparsest.name: "sparsest is best",
        densest.name: "densest is best",
    }
    kind = places.get(best, "an inner density is best")
    reason = f"{best} is better than every other cell"
    return Verdict(kind=kind, best=best, leaders=named, ends=ends, reason=reason)


def undecided(
    kind: Literal["not distinguishable", "not comparable"],
    reason: str,
    ends: Difference | None = None,
) -> Verdict:
    """A verdict that claims nothing."""
    return Verdict(kind=kind, best=None, leaders=(), ends=ends, reason=reason)


def _test_claims(
    sparsest: Sample, densest: Sample, inner: Sequence[Sample], better: Better
) -> tuple[Difference, bool, list[Sample]]:
    """The ends' corrected difference, whether it holds, and the inner cells that beat both ends."""
    p_values = [difference(sparsest, densest).p_value]
    for cell in inner:
        tests = [difference(cell, end) for end in (sparsest, densest)]
        wins = all(_gain(test, better) > 0 for test in tests)
        p_values.append(max(test.p_value for test in tests) if wins else 1.0)
    rejected, shares = holm(p_values, 1 - CONFIDENCE)
    ends = difference(sparsest, densest, 1 - shares[0])
    peaks = [cell for cell, holds in zip(inner, rejected[1:], strict=True) if holds]
    return ends, rejected[0], peaks


def _level_with_best(ordered: Sequence[Sample], better: Better) -> set[str]:
    """The best mean, the cells it does not surely beat, and the cells that cannot be tested."""
    tested = [s for s in ordered if len(s.values) >= MIN_SEEDS]
    best = max(tested, key=lambda cell: _signed_mean(cell, better))
    others = [s for s in tested if s is not best]
    rejected, _ = holm([difference(best, s).p_value for s in others], 1 - CONFIDENCE)
    beaten = {s.name for s, holds in zip(others, rejected, strict=True) if holds}
    return {s.name for s in ordered} - beaten


def _too_little(ordered: Sequence[Sample]) -> str | None:
    """Why nothing can be claimed of these samples, or None."""
    if len(ordered) < 2 or ordered[0].density == ordered[-1].density:
        return "fewer than two densities of matched active parameters were measured"
    if max(len(sample.values) for sample in ordered) == 1:
        return "one seed, spread between seeds unknown"
    for end in (ordered[-1], ordered[0]):
        if len(end.values) < MIN_SEEDS:
            return f"{end.name} has {len(end.values)} of the {MIN_SEEDS} seeds that a claim needs"
    return None


def _gain(test: Difference, better: Better) -> float:
    """The difference counted so that above 0 is better for the first cell."""
    return test.difference if better == "higher" else -test.difference


def _signed_mean(sample: Sample, better: Better) -> float:
    return sample.mean if better == "higher" else -sample.mean
