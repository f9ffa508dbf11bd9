"""Measure everything that the filters for code ask of a text, inside a worker of the pool.

The cheap measures come first, so that of a text whose lint score costs too much all else is known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from isoflop.corpus.filters.comment_language import corrected_rule, published_rule
from isoflop.corpus.filters.comments import (
    CommentShares,
    comment_share,
    comment_shares,
    lint_score,
    tokens_of,
)
from isoflop.corpus.filters.config import FilterConfig
from isoflop.corpus.filters.language import (
    LANGUAGE_COLUMNS,
    PATH_COLUMNS,
    find_language,
)
from isoflop.corpus.filters.lint import PylintScorer
from isoflop.corpus.filters.repetition import longest_repeat
from isoflop.corpus.filters.syntax import syntax_error
from isoflop.corpus.pool import Changes, RowFunction, Spoiled
from isoflop.corpus.rows import Scalar, TextRow

MEASURES_AS_PYTHON = "python"


@dataclass(frozen=True, kw_only=True)
class MeasureJob:
    """What the workers of the pool do for `isoflop corpus filter`."""

    config: FilterConfig

    def prepare(self) -> RowFunction:
        """Start pylint, where it is asked for, and read what most files import."""
        lint = self.config.lint
        if lint.measure == "none":
            return Measure(self.config, None)
        scorer = PylintScorer(lint.disabled, self.config.limits.cpu_seconds)
        scorer.warm()
        return Measure(self.config, scorer)


class Measure:
    """Measures of one row after the other."""

    def __init__(self, config: FilterConfig, scorer: PylintScorer | None):
        self._config = config
        self._scorer = scorer

    def __call__(self, row: TextRow, begin: Callable[[str], bool]) -> Changes:
        """The changed fields; `begin` hears of every measure and says whether it may be made."""
        changes: Changes = {}
        if not begin("language"):
            return changes
        changes["language"] = row_language(row)
        if not begin("repetition"):
            return changes
        changes["longest_repeat"] = longest_repeat(row.text)
        if not self._is_python(changes["language"]) or not begin("comment_language"):
            return changes
        tokens = tokens_of(row.text)
        shares = comment_shares(row.text, tokens)
        changes["comment_share"] = comment_share(shares, self._config.lint.penalty)
        published = self._config.comment_language.rule == "published"
        changes["comment_language"] = (published_rule if published else corrected_rule)(tokens)
        del tokens
        if not begin("syntax"):
            return changes
        error = syntax_error(row.text)
        changes["compiles"], changes["syntax_error"] = error is None, error
        if begin("lint"):
            self._lint(row, shares, changes)
        return changes

    def close(self) -> None:
        """Delete what was written for pylint."""
        if self._scorer is not None:
            self._scorer.close()

    def _is_python(self, language: Any) -> bool:
        """Where all languages are kept, a text that nothing says the language of counts as Python."""
        if language is None:
            return self._config.language is None
        return str(language).casefold() == MEASURES_AS_PYTHON

    def _lint(self, row: TextRow, shares: CommentShares, changes: Changes) -> None:
        """pylint's score, measured now or before, after the penalty."""
        score, problem, spoiled = row.pylint_score, row.lint_problem, False
        if score is None and problem is None:
            if self._scorer is None:
                return
            found = self._scorer.score(row.text)
            score, problem, spoiled = found.score, found.problem, found.spoiled
        changes["pylint_score"], changes["lint_problem"] = score, problem
        if score is not None:
            changes["lint_score"] = lint_score(score, shares, self._config.lint.penalty)
        if spoiled:
            raise Spoiled(changes)


def row_language(row: TextRow) -> str | None:
    """The language of a row: of a column, of its file's name, or of its text."""
    column = row.language or _first(row.metadata, LANGUAGE_COLUMNS)
    path = _first(row.metadata, PATH_COLUMNS) or row.where.partition(":")[0]
    return find_language(row.text, column, path)


def _first(metadata: dict[str, Scalar], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = metadata.get(name)
        if isinstance(value, str) and value:
            return value
    return None
