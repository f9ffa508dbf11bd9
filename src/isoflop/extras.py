"""Packages that only some commands need: imported where used, and their absence told in one line."""

import importlib
from typing import Any

from isoflop.config import UserError


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """A module of the extra `extra`.

    Args:
        purpose: what needs it, as the beginning of the message.

    Raises:
        UserError: it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{purpose} needs {error.name}, which is not installed; "
            f"run: pip install 'isoflop[{extra}]'"
        ) from None
