"""Take a value out of a row whose columns a user named, or say why it cannot be used."""

from collections.abc import Mapping
from typing import Any

from isoflop.evaluate.tasks.problem import BadRowError

QUOTED_CHARACTERS = 60
"""Longest quotation of a bad value."""


def text_of(row: Mapping[str, Any], *names: str) -> str:
    """The text in the first of the columns `names` that the row has.

    Raises:
        BadRowError: none of them, no text, empty, or a lone surrogate, which UTF-8 cannot hold.
    """
    text = any_text_of(row, *names)
    if not text.strip():
        raise BadRowError("empty text", f"column {_found(row, names)!r}")
    return text


def any_text_of(row: Mapping[str, Any], *names: str) -> str:
    """As `text_of`, but the text may be empty."""
    return _require_text(row[_found(row, names)], _found(row, names))


def texts_of(row: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """The list of texts in the first of the columns that the row has; at least one.

    Raises:
        BadRowError: no such column, no list, or a text that cannot be used.
    """
    name = _found(row, names)
    if not isinstance(row[name], list | tuple):
        raise BadRowError("not a list", f"column {name!r} is {quoted(row[name])}")
    if not row[name]:
        raise BadRowError("empty list", f"column {name!r}")
    return tuple(_require_text(text, name) for text in row[name])


def name_of(row: Mapping[str, Any], *names: str) -> str | None:
    """The row's own name, a text or a whole number; None where it has none."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return _require_text(value, name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return None


def _found(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if row.get(name) is not None:
            return name
    wanted = " or ".join(repr(name) for name in names)
    raise BadRowError("no column", f"needs {wanted}, has {quoted(', '.join(map(str, row)))}")


def _require_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRowError("not text", f"column {name!r} is {quoted(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRowError("lone surrogate", f"column {name!r}, character {error.start}") from None
    return value


def quoted(value: Any) -> str:
    """The value as Python writes it, in ASCII, cut where it is long."""
    text = ascii(value)
    return text if len(text) <= QUOTED_CHARACTERS else text[: QUOTED_CHARACTERS - 3] + "..."
