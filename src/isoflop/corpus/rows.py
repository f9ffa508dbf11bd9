"""The row in which the stages of a corpus meet: a text, where it came from, and what was measured on it.

One type for kept and for rejected texts, so that one pass of measuring serves many thresholds. What
was not measured is None.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

ID_HEX_DIGITS = 16
"""Of a text's id: 64 bits of SHA-256; among a billion texts two ids are equal by chance once in 37
such corpora."""

Scalar = str | int | float | bool | None
"""A value of a user's own column."""


def text_id(text: str) -> str:
    """The id of a text: a function of its content alone.

    >>> text_id("print(1)")
    'd287bb7f9d15abdc'
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:ID_HEX_DIGITS]


@dataclass(frozen=True, kw_only=True)
class Rewriting:
    """How a text was made from its parent."""

    rewriter: str
    """"rules", or the name of the model that was asked."""
    prompt_digest: str | None = None
    """Names the prompt's words. None: no prompt."""
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    prompt_tokens: int | None = None
    """As the endpoint counted them; None: it did not say."""
    completion_tokens: int | None = None
    tries: int | None = None
    """Replies asked for: 1, or more where a reply had to be mended. Requests that failed on their
    way are not among them: they differ from run to run."""
    suggestions: tuple[str, ...] = ()
    """How the model would make the parent better."""
    question: str | None = None
    """The user's turn of an instruction pair; the text is the question, a blank line, the answer."""
    notes: tuple[str, ...] = ()
    """What was unusual and can be counted."""
    removed_lines: dict[str, int] = field(default_factory=dict)
    """Lines that rules took out, by rule."""
    parent_characters: int | None = None
    """Length of the parent's text."""


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """One text at one stage of a corpus. Written and read by every stage of `isoflop corpus`."""

    id: str
    """`text_id` of the text; of its place where a record held no text that could be used."""
    text: str
    where: str
    """File and line, or file, from which the first ancestor was read."""
    stage: str = "read"
    """The stage that made the text: "read", or that of a rewriting."""
    parent_id: str | None = None
    """Id of the text it was rewritten from; None: it was read."""
    rewriting: Rewriting | None = None
    """None: it was read."""
    metadata: dict[str, Scalar] = field(default_factory=dict)
    """The user's other columns, carried along unchanged."""

    language: str | None = None
    """As the user's column says, or as found."""
    syntax_error: str | None = None
    """What `compile` said; None: it compiled, or was not asked (then `compiles` is None)."""
    compiles: bool | None = None
    pylint_score: float | None = None
    """The figure that pylint's command line prints: at most 10, and not below 0 in pylint 4."""
    lint_problem: str | None = None
    """Why there is no `pylint_score`, or that pylint crashed, of which its command line makes 0; None:
    neither, or pylint was not run."""
    comment_share: float | None = None
    """Of tokens or of lines, as the stage's config says."""
    lint_score: float | None = None
    """`pylint_score` after the penalty for comments."""
    comment_language: str | None = None
    longest_repeat: int | None = None
    """Characters of the longest block that stands twice in a row; 0: none of 50 or more."""
    llm_score: float | None = None
    """0 to 10, as a model judged; None: not asked, or its reply had none."""

    rejected_by: str | None = None
    """The stage that rejected it; None: kept."""
    reason: str | None = None
    """A short reason that can be counted; None: kept."""
    detail: str | None = None
    """What exactly was wrong."""


def row_to_json(row: TextRow) -> str:
    """One line of JSON without its line end. The fields in their order: equal rows, equal lines."""
    fields = dict(vars(row))
    if row.rewriting is not None:
        fields["rewriting"] = vars(row.rewriting)
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)


def row_from_fields(fields: dict[str, Any]) -> TextRow:
    """The row of the plain values of its fields; what is missing has its default.

    Raises:
        TypeError: an unknown field, or one without a default is missing.
    """
    made = fields.get("rewriting")
    if made is not None:
        # JSON has lists only; a row's are tuples.
        plain: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in made.items()
        }
        fields = {**fields, "rewriting": Rewriting(**plain)}
    return TextRow(**fields)
