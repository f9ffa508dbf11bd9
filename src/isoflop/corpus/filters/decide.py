"""From what was measured on a text to whether it is kept, and if not, why. Pure."""

from collections.abc import Callable
from dataclasses import replace

from isoflop.corpus.filters.config import FilterConfig
from isoflop.corpus.filters.syntax import error_kind
from isoflop.corpus.rows import TextRow

Verdict = tuple[str, str] | None
"""A short reason that can be counted, and what exactly was wrong; None: it passes."""


def decide(row: TextRow, config: FilterConfig) -> TextRow:
    """The row with the verdict of the first filter that rejects it, or as it is.

    A row that is rejected already (its record could not be read, or a measure was too costly)
    keeps its verdict.
    """
    if row.rejected_by is not None:
        return row
    for name, filter_ in FILTERS.items():
        verdict = filter_(row, config)
        if verdict is not None:
            reason, detail = verdict
            return replace(row, rejected_by=name, reason=reason, detail=detail)
    return row


def language(row: TextRow, config: FilterConfig) -> Verdict:
    """The language is the wanted one."""
    wanted = config.language
    if wanted is None:
        return None
    if row.language is None:
        return "unknown language", f"neither a column, a file name nor the text says {wanted}"
    if row.language.casefold() != wanted.casefold():
        return "another language", f"{row.language}, not {wanted}"
    return None


def syntax(row: TextRow, config: FilterConfig) -> Verdict:
    """It compiles."""
    if config.syntax == "measure" or row.compiles:
        return None
    if row.syntax_error is None:
        return "not measured", "whether it compiles is not known: measure the texts again"
    return error_kind(row.syntax_error), row.syntax_error


def lint(row: TextRow, config: FilterConfig) -> Verdict:
    """pylint's score after the penalty is high enough."""
    threshold = config.lint.threshold
    if threshold is None:
        return None
    if row.lint_score is None:
        return "no score", row.lint_problem or "pylint was not run: measure the texts again"
    if row.lint_score < threshold:
        detail = f"{row.lint_score:.2f} is below {threshold:g}: pylint {row.pylint_score:.2f}"
        return "low score", f"{detail}, comment share {row.comment_share:.3f}"
    return None


def comment_language(row: TextRow, config: FilterConfig) -> Verdict:
    """Comments and strings are in an allowed language."""
    allowed = config.comment_language.allowed
    if allowed is None or row.comment_language in allowed:
        return None
    found = row.comment_language
    return found or "not measured", f"comments and strings: {found}, not {' or '.join(allowed)}"


def llm_score(row: TextRow, config: FilterConfig) -> Verdict:
    """A model's score is high enough."""
    threshold = config.min_llm_score
    if threshold is None:
        return None
    if row.llm_score is None:
        return "no score", "no model scored the text, or its reply had no score"
    if row.llm_score < threshold:
        return "low score", f"{row.llm_score:g} is below {threshold:g}"
    return None


def repetition(row: TextRow, config: FilterConfig) -> Verdict:
    """No long block stands twice in a row."""
    block = config.repetition.min_block_characters
    if block is None or len(row.text) < config.repetition.min_text_characters:
        return None
    if row.longest_repeat is None:
        return "not measured", "repetition was not looked for: measure the texts again"
    if row.longest_repeat >= block:
        return "repeated block", f"{row.longest_repeat} characters stand twice in a row"
    return None


def length(row: TextRow, config: FilterConfig) -> Verdict:
    """Neither too short nor too long."""
    least, most = config.length.min_characters, config.length.max_characters
    characters = len(row.text)
    if least is not None and characters < least:
        return "too short", f"{characters} characters, at least {least}"
    if most is not None and characters > most:
        return "too long", f"{characters} characters, at most {most}"
    return None


FILTERS: dict[str, Callable[[TextRow, FilterConfig], Verdict]] = {
    "language": language,
    "syntax": syntax,
    "lint": lint,
    "comment_language": comment_language,
    "llm_score": llm_score,
    "repetition": repetition,
    "length": length,
}
"""In the order in which they are asked: the paper's, what was optional there after its lint filter."""
