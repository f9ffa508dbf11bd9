"""Python made tidy by ruff, without a model.

Formatting, sorted imports, imports that nothing uses taken out, and those fixes that ruff calls
safe ("the meaning and intent of your code will be retained"), without the ones that were found to change what
a program does. What a file computes is meant to stay; what can still differ stands in docs/reference.md, and
how often is measured by `isoflop corpus fidelity`.
"""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from isoflop.config import UserError
from isoflop.corpus.rewrite.accounts import Result
from isoflop.corpus.rewrite.kept_imports import fixes_to_leave, shows_its_docstrings
from isoflop.corpus.rewrite.new_rows import Annotate, rejected, rewritten, with_syntax
from isoflop.corpus.rewrite.python_source import syntax_error, tree_of
from isoflop.corpus.rewrite.reasons import Note, Reason
from isoflop.corpus.rewrite.replies import noted
from isoflop.corpus.rewrite.ruff_batch import (
    RuffOptions,
    Source,
    ruff_version,
    tidy_sources,
)
from isoflop.corpus.rows import Rewriting, TextRow

TIDY_CODE = "tidy_code"
"""The stage's name in rows."""

FIXED_RULES = (
    "E", "W",  # layout that pycodestyle knows
    "F",  # dead imports and names, needless f-strings
    "I",  # sorted imports
    "C4",  # comprehensions instead of calls
    "UP",  # what newer Pythons write more simply
    "PIE", "RET", "RSE", "SIM",  # statements that can be shorter
    "PLR", "PLC",  # what pylint would find
)  # fmt: skip
"""Families of ruff's rules whose safe fixes are applied. Chosen: those that pylint also scores."""

CHANGING_RULES = (
    "F632",  # `is` between values becomes `==`
    "UP030", "UP032",  # arguments of `format` are worked out in another order
)  # fmt: skip
"""Rules of these families whose fixes change what is computed, though ruff calls them safe."""

PACKAGE_FILE = "__init__.py"
"""Its imports are what the package offers."""

BATCH_ROWS = 500
"""Files of one ruff process. Measured: see docs/results/rewriting."""


@dataclass(frozen=True, kw_only=True)
class CodeRules:
    """Rules for Python, carried out by ruff."""

    ruff_version: str
    select: tuple[str, ...] = FIXED_RULES
    ignore: tuple[str, ...] = CHANGING_RULES
    line_length: int = 88
    """Ruff's own default."""
    target_version: str = "py310"
    """Oldest Python that the result must run on; arXiv:2505.02881 filtered with 3.10."""

    def __post_init__(self) -> None:
        if not self.select or not all(code.isalnum() for code in self.select):
            raise UserError(f"select={self.select} must name ruff's rules, such as F401 or I")
        if not all(code.isalnum() for code in self.ignore):
            raise UserError(f"ignore={self.ignore} must name ruff's rules, such as F401 or I")
        if not 1 <= self.line_length <= 320:
            raise UserError(f"line_length={self.line_length} must be between 1 and 320")

    @classmethod
    def installed(cls, **changes: Any) -> "CodeRules":
        """The rules of the installed ruff."""
        return cls(ruff_version=ruff_version(), **changes)


class CodeRewriter:
    """Applies the rules, many rows at a time."""

    def __init__(self, config: CodeRules, *, annotate: Annotate | None = None) -> None:
        """`annotate` measures each new text."""
        self._config, self._annotate = config, annotate
        self._options = RuffOptions(
            select=config.select,
            ignore=config.ignore,
            line_length=config.line_length,
            target_version=config.target_version,
        )

    async def results(self, rows: Iterator[TextRow]) -> AsyncIterator[Result]:
        """One result a row, in order."""
        for batch in _batches(rows):
            for row in self._rewrite(batch):
                yield Result(row=row)

    def _rewrite(self, batch: list[TextRow]) -> list[TextRow]:
        problems = [None if row.rejected_by else syntax_error(row.text) for row in batch]
        pairs = zip(batch, problems, strict=True)
        asked = [row for row, problem in pairs if row.rejected_by is None and problem is None]
        texts = iter(tidy_sources([_source(row) for row in asked], self._options))
        done = []
        for row, problem in zip(batch, problems, strict=True):
            if row.rejected_by is not None:
                done.append(row)
            elif problem is not None:
                done.append(rejected(row, TIDY_CODE, Reason.INPUT_DOES_NOT_COMPILE, problem))
            else:
                done.append(self._new_row(row, next(texts)))
        return done

    def _new_row(self, row: TextRow, text: str | None) -> TextRow:
        if text is None:
            return rejected(row, TIDY_CODE, Reason.TOOL_FAILED, "ruff could not read the file")
        if not text.strip():
            return rejected(row, TIDY_CODE, Reason.TOO_SHORT, "nothing but dead imports")
        unchanged = Note.UNCHANGED if text.strip() == row.text.strip() else None
        how = Rewriting(rewriter=f"ruff {self._config.ruff_version}", notes=noted(unchanged))
        new = with_syntax(rewritten(row, text, TIDY_CODE, how))
        if not new.compiles:
            return rejected(new, TIDY_CODE, Reason.DOES_NOT_COMPILE, new.syntax_error or "")
        return new if self._annotate is None else self._annotate(new)


def _source(row: TextRow) -> Source:
    tree = tree_of(row.text)
    if tree is None:
        return Source(text=row.text)
    leave = fixes_to_leave(tree, is_package=_is_package(row))
    return Source(text=row.text, leave=leave, formatted=not shows_its_docstrings(tree))


def _is_package(row: TextRow) -> bool:
    """Whether the place it was read from, or a column of the user's, names a package's own file."""
    places = (row.where, *row.metadata.values())
    names = (re.split(r"[/\\]", place)[-1] for place in places if isinstance(place, str))
    return PACKAGE_FILE in names


def _batches(rows: Iterator[TextRow]) -> Iterator[list[TextRow]]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch
