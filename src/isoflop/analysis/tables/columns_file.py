"""The file of fixed columns beside a chart or a tracker's run: an object of columns and values."""

import math
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.records import read_json

TOO_DEEP = "nested too deeply; a table is a list of objects, each of names and plain values"


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: not JSON, or something else than an object; with `remedy`.
    """
    try:
        found = read_json(path, missing="", remedy=remedy)
    except RecursionError:
        raise UserError(f"{path}: {TOO_DEEP}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object, got {str(found)[:40]!r}; {remedy}")
    return found


def check_tokens_per_step(value: Any, place: str) -> None:
    """Refuse what is no number above 0; None is allowed.

    Raises:
        UserError: with the place and a remedy.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and math.isfinite(value) and value > 0):
        raise UserError(
            f"{place}: tokens_per_step is {value!r}; it must be a number above 0, without quotes"
        )
