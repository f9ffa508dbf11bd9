"""`isoflop corpus fidelity`: two sets of rows, and how far the second behaves like the first."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import typer

from isoflop.config import UserError
from isoflop.corpus.fidelity.code import LIMITS, Pair, compare_code
from isoflop.corpus.fidelity.join import join
from isoflop.corpus.fidelity.math import compare_page
from isoflop.corpus.fidelity.result import (
    FidelityCounts,
    FidelityRow,
    FidelitySummary,
    summarise,
)
from isoflop.corpus.intake import CorpusInput, open_input
from isoflop.corpus.rewrite.code_rules import TIDY_CODE
from isoflop.corpus.rewrite.math_rules import TIDY_MATH
from isoflop.corpus.rewrite.stages import STAGES
from isoflop.corpus.rows import TextRow
from isoflop.records import read_rows, row_to_line, write_rows
from isoflop.sandbox import Sandbox

Kind = Literal["code", "math"]


def fidelity_command(
    before: Annotated[str, typer.Argument(help="What was rewritten: as INPUT of rewrite.")],
    after: Annotated[str, typer.Argument(help="The folder that rewrite made.")],
    out: Annotated[Path | None, typer.Option(help="File for one row a text.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Sandboxed programs at one time.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the arguments.")] = 0,
    text_field: Annotated[str, typer.Option("--text-field", help="Column of the text.")] = "text",
    suffix: Annotated[list[str] | None, typer.Option(help="Of files in a folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Run texts before and after in the sandbox: is the behaviour the same?"""
    suffixes = tuple(suffix or (".py", ".txt", ".md"))
    old = open_input(CorpusInput(path=before, text_field=text_field, suffixes=suffixes))
    new = open_input(CorpusInput(path=after, suffixes=suffixes))
    with Sandbox(limits=LIMITS, workers=workers) as sandbox:
        rows = compare(join(_usable(old), _usable(new)), sandbox, seed=seed)
        if out is None:
            summary = summarise(rows)
        else:
            write_rows(out, rows)
            summary = summarise(read_rows(out, FidelityRow))
    typer.echo(row_to_line(summary) if as_json else summary_to_text(summary))


def _usable(rows: Iterator[TextRow]) -> Iterator[TextRow]:
    return (row for row in rows if row.rejected_by is None)


def compare(pairs: Iterator[Pair], sandbox: Sandbox, *, seed: int = 0) -> Iterator[FidelityRow]:
    """One row a pair, compared as the stage of its first new text asks.

    Raises:
        UserError: the stage makes nothing that can be compared.
    """
    first = next(pairs, None)
    if first is None:
        return
    every = chain((first,), pairs)
    if kind_of(first.after.stage) == "code":
        yield from compare_code(every, sandbox, seed=seed)
    else:
        yield from map(compare_page, every)


def kind_of(stage: str) -> Kind:
    """What a stage's texts are compared by.

    Raises:
        UserError: its texts are no rewriting of one text.
    """
    made = STAGES.get(stage)
    if stage == TIDY_CODE or (made is not None and made.language == "python"):
        return "code"
    if stage == TIDY_MATH or (made is not None and made.makes == "text" and made.asks == "text"):
        return "math"
    raise UserError(f"texts of the stage {stage!r} cannot be compared: Python and pages can")


def summary_to_text(summary: FidelitySummary) -> str:
    """The figures in lines for a person."""
    lines = []
    for name, counts in (
        ("texts", summary.texts),
        ("functions", summary.functions),
        ("functions with another syntax tree", summary.changed_functions),
        ("programs", summary.programs),
    ):
        if counts.same + counts.different + counts.not_comparable:
            lines += _counts_to_lines(name, counts)
    if summary.renamed_functions or summary.missing_functions:
        lines.append(
            f"public functions renamed: {summary.renamed_functions} in {summary.texts_with_renamed} texts; "
            f"without a counterpart: {summary.missing_functions} in {summary.texts_with_missing}"
        )
    if summary.formulas:
        lines.append(
            f"formulas: {summary.formulas} before, {summary.formulas_lost} of them not after"
        )
    return "\n".join(lines) or "no texts after"


def _counts_to_lines(name: str, counts: FidelityCounts) -> list[str]:
    rate = counts.kept
    lines = [
        f"{name}: same {counts.same}, different {counts.different}, "
        f"not comparable {counts.not_comparable}"
    ]
    if rate.share is not None and rate.low is not None and rate.high is not None:
        lines.append(
            f"  behaviour kept: {rate.share:.2%} of {rate.trials} (95%: {rate.low:.2%} to {rate.high:.2%})"
        )
    lines += [f"  differs in {kind}: {number}" for kind, number in counts.differs_in.items()]
    lines += [f"  not comparable, {reason}: {number}" for reason, number in counts.reasons.items()]
    return lines
