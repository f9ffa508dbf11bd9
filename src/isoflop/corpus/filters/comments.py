"""How much of a program is comment, and what that does to its lint score.

Two measures, because the published one is not what it seems: it counts tokens, of which a comment
is one however long, so that a file of nothing but comments has a share just under a half.
"""

import io
import token
import tokenize
from dataclasses import dataclass

from isoflop.corpus.filters.config import Penalty

TOKENIZE_ERRORS = (
    *(tokenize.TokenError, SyntaxError, ValueError),
    *(RecursionError, MemoryError, SystemError, OverflowError),
)
"""All that tokenize raises on hostile source; IndentationError is a SyntaxError."""

Tokens = list[tokenize.TokenInfo]

_LAYOUT = {token.NEWLINE, token.INDENT, token.DEDENT, token.ENDMARKER, token.NL}
_STARTS = {token.NEWLINE, token.INDENT, token.DEDENT}


@dataclass(frozen=True, kw_only=True)
class CommentShares:
    """Both measures of one text."""

    of_tokens: float
    """Comment tokens / all tokens; 0 where the text cannot be tokenized. SwallowCode's."""
    of_lines: float
    """Lines that hold comments or strings that are statements (docstrings), and nothing else /
    lines that are not blank. Where the text cannot be tokenized: lines that begin with "#"."""


def tokens_of(text: str) -> Tokens | None:
    """Python's own tokens, comments included; None where it finds an error."""
    try:
        return list(tokenize.generate_tokens(io.StringIO(text.removeprefix("\ufeff")).readline))
    except TOKENIZE_ERRORS:
        return None


def comment_shares(text: str, tokens: Tokens | None) -> CommentShares:
    """Both shares of a text, given what `tokens_of` found.

    >>> text = "# one\\n# two\\n" * 25
    >>> comment_shares(text, tokens_of(text))
    CommentShares(of_tokens=0.49504950495049505, of_lines=1.0)
    """
    if not tokens:
        lines = [line for line in text.split("\n") if line.strip()]
        comments = sum(line.lstrip().startswith("#") for line in lines)
        return CommentShares(of_tokens=0.0, of_lines=comments / len(lines) if lines else 0.0)
    comments = sum(found.type == token.COMMENT for found in tokens)
    return CommentShares(of_tokens=comments / len(tokens), of_lines=_share_of_lines(tokens))


def lint_score(pylint_score: float, shares: CommentShares, penalty: Penalty) -> float:
    """pylint's score, at most 10, after the penalty.

    >>> lint_score(10.0, CommentShares(of_tokens=0.25, of_lines=0.5), "published")
    7.5
    >>> lint_score(-2.0, CommentShares(of_tokens=0.25, of_lines=0.5), "per_line")
    -3.0
    """
    if penalty == "none":
        return pylint_score
    if penalty == "per_line":
        # A share of the score's size is lost whatever its sign: comments never raise it.
        return pylint_score - shares.of_lines * abs(pylint_score)
    return pylint_score * (1 - shares.of_tokens)


def comment_share(shares: CommentShares, penalty: Penalty) -> float:
    """The share that the penalty goes by; that of lines where there is no penalty."""
    return shares.of_tokens if penalty == "published" else shares.of_lines


def _share_of_lines(tokens: Tokens) -> float:
    remarks: set[int] = set()
    code: set[int] = set()
    before = token.NEWLINE
    significant = [found for found in tokens if found.type not in (token.COMMENT, token.NL)]
    for found in tokens:
        if found.type == token.COMMENT:
            remarks.add(found.start[0])
    for place, found in enumerate(significant):
        if found.type not in _LAYOUT:
            lines = range(found.start[0], found.end[0] + 1)
            after = significant[place + 1].type if place + 1 < len(significant) else token.NEWLINE
            is_statement = before in _STARTS and after in (token.NEWLINE, token.ENDMARKER)
            (remarks if found.type == token.STRING and is_statement else code).update(lines)
        before = found.type
    remarks -= code
    return len(remarks) / len(remarks | code) if remarks or code else 0.0
