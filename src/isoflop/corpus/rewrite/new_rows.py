"""From a parent row to the row of its rewritten text, or to the same row rejected. Pure."""

from collections.abc import Callable
from dataclasses import replace

from isoflop.corpus.rewrite.python_source import syntax_error
from isoflop.corpus.rewrite.reasons import Reason
from isoflop.corpus.rows import Rewriting, TextRow, text_id

Annotate = Callable[[TextRow], TextRow]
"""Measures a new text, e.g. its lint score; gives the row with the figures filled in."""


def rewritten(parent: TextRow, text: str, stage: str, how: Rewriting) -> TextRow:
    """The row of a new text: its parent's place and columns, none of its parent's measurements."""
    return TextRow(
        id=text_id(text),
        text=text,
        where=parent.where,
        stage=stage,
        parent_id=parent.id,
        rewriting=replace(how, parent_characters=len(parent.text)),
        metadata=parent.metadata,
        language=parent.language,
    )


def rejected(row: TextRow, stage: str, reason: Reason, detail: str) -> TextRow:
    """The row with the reason for which this stage leaves it out."""
    safe = detail.encode("utf-8", "backslashreplace").decode("utf-8")
    return replace(row, rejected_by=stage, reason=reason.value, detail=safe)


def with_syntax(row: TextRow) -> TextRow:
    """The row with what compiling its text as Python says."""
    error = syntax_error(row.text)
    return replace(row, compiles=error is None, syntax_error=error)


def chat_messages(row: TextRow) -> list[dict[str, str]]:
    """An instruction pair as the messages that chat formats take.

    >>> how = Rewriting(rewriter="m", question="Add.")
    >>> row = TextRow(id="0", text="Add.\\n\\nx = 1 + 1", where="a:1", rewriting=how)
    >>> [message["content"] for message in chat_messages(row)]
    ['Add.', 'x = 1 + 1']
    """
    assert row.rewriting is not None, "not an instruction pair"
    question = row.rewriting.question
    assert question is not None, "not an instruction pair"
    answer = row.text[len(question) :].removeprefix("\n\n")
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
