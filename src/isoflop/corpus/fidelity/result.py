"""What a comparison of two texts found, and sums over many."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from isoflop.corpus.fidelity.functions import How
from isoflop.corpus.fidelity.observations import Judgement, Verdict
from isoflop.corpus.fidelity.rates import Rate, wilson


@dataclass(frozen=True, kw_only=True)
class FunctionFidelity:
    """One function of the text before."""

    name: str
    after: str | None
    """Name of its counterpart; None: there is none."""
    how: How
    same_tree: bool
    """Whether its syntax tree is the same, names and docstrings aside: then the comparison says little
    about the function itself, only about what it uses."""
    judgement: Judgement


@dataclass(frozen=True, kw_only=True)
class FidelityRow:
    """One text before and after."""

    before_id: str
    after_id: str
    where: str
    compared_as: str
    """"code" or "math"."""
    verdict: Verdict
    """Different where anything is; same where something was compared and nothing is different."""
    reason: str | None
    """Why nothing was comparable."""
    functions: tuple[FunctionFidelity, ...] = ()
    program: Judgement | None = None
    """Of the whole program, run as a script; None: it has no statements to run."""
    renamed: tuple[str, ...] = ()
    """Public functions that callers no longer find, as "old -> new"."""
    missing: tuple[str, ...] = ()
    """Public functions without a counterpart."""
    formulas: int | None = None
    """Of a page before; None: code."""
    formulas_lost: int | None = None
    """Of these, how many are nowhere in the page after."""


@dataclass(frozen=True, kw_only=True)
class FidelityCounts:
    """Sums over units of one sort: texts, functions, or programs."""

    same: int
    different: int
    not_comparable: int
    reasons: dict[str, int]
    """Of those not comparable."""
    differs_in: dict[str, int]
    """Of those different; one may differ in several things."""
    kept: Rate
    """Same among the comparable."""


@dataclass(frozen=True, kw_only=True)
class FidelitySummary:
    """What all comparisons found."""

    texts: FidelityCounts
    functions: FidelityCounts
    changed_functions: FidelityCounts
    """Functions whose syntax tree is another."""
    programs: FidelityCounts
    texts_with_renamed: int
    """Texts in which a public function has another name: the artefact of MBPP."""
    texts_with_missing: int
    renamed_functions: int
    missing_functions: int
    formulas: int
    formulas_lost: int


_NUMBERS = ("texts_with_renamed", "texts_with_missing", "renamed_functions", "missing_functions", "formulas",
            "formulas_lost")  # fmt: skip


def summarise(rows: Iterable[FidelityRow]) -> FidelitySummary:
    """Sums and rates; memory does not grow with the rows."""
    texts, functions, changed, programs = _Tally(), _Tally(), _Tally(), _Tally()
    numbers: Counter[str] = Counter(dict.fromkeys(_NUMBERS, 0))
    for row in rows:
        texts.add(row.verdict, row.reason, _kinds(row))
        for function in row.functions:
            judged = function.judgement
            functions.add(judged.verdict, judged.reason, judged.differs_in)
            if not function.same_tree:
                changed.add(judged.verdict, judged.reason, judged.differs_in)
        if row.program is not None:
            programs.add(row.program.verdict, row.program.reason, row.program.differs_in)
        numbers["texts_with_renamed"] += bool(row.renamed)
        numbers["texts_with_missing"] += bool(row.missing)
        numbers["renamed_functions"] += len(row.renamed)
        numbers["missing_functions"] += len(row.missing)
        numbers["formulas"] += row.formulas or 0
        numbers["formulas_lost"] += row.formulas_lost or 0
    return FidelitySummary(
        texts=texts.counts(),
        functions=functions.counts(),
        changed_functions=changed.counts(),
        programs=programs.counts(),
        **numbers,
    )


class _Tally:
    def __init__(self) -> None:
        self._verdicts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()

    def add(self, verdict: Verdict, reason: str | None, kinds: Iterable[str]) -> None:
        self._verdicts[verdict] += 1
        self._kinds.update(kinds)
        if verdict == "not comparable":
            self._reasons[reason or "no reason"] += 1

    def counts(self) -> FidelityCounts:
        same, different = self._verdicts["same"], self._verdicts["different"]
        return FidelityCounts(
            same=same,
            different=different,
            not_comparable=self._verdicts["not comparable"],
            reasons=dict(self._reasons.most_common()),
            differs_in=dict(self._kinds.most_common()),
            kept=wilson(same, same + different),
        )


def _kinds(row: FidelityRow) -> set[str]:
    judged = [function.judgement for function in row.functions]
    judged += [] if row.program is None else [row.program]
    return {kind for judgement in judged for kind in judgement.differs_in}
