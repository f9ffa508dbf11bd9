"""Where tables for people are written, and how far a command is."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe: no figure is cut. Chosen: the widest table,
that of `isoflop bench train`, needs 180."""


def output_console() -> "Console":
    """Standard output, as wide as the terminal, or PIPE_WIDTH where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def show_count(done: int, total: int, unit: str) -> None:
    """A line on a terminal's standard error that counts up; nothing elsewhere."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done} of {total} {unit}", end=end, file=sys.stderr, flush=True)
