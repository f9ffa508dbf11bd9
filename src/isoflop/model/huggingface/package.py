"""transformers, which only opening a Mixtral in memory needs; writing and reading files do not."""

from typing import Any

from isoflop.extras import import_extra


def import_transformers() -> Any:
    """The transformers package.

    Raises:
        UserError: it is not installed.
    """
    return import_extra("transformers", "hf", "a Mixtral in memory")
