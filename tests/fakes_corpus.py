"""Real rows, files and jobs for the tests of the corpus pipeline."""

import ctypes
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isoflop.corpus.pool import Changes, RowFunction, Spoiled
from isoflop.corpus.rows import TextRow, text_id

GOOD_CODE = '''"""A module."""


def double(number):
    """Twice the number."""
    return 2 * number
'''


def row(text: str, **fields: object) -> TextRow:
    """A row that was read."""
    return TextRow(**{"id": text_id(text), "text": text, "where": "a.py", **fields})  # type: ignore[arg-type]


def write_jsonl(file: Path, texts: Sequence[str], **columns: object) -> Path:
    """One record a text."""
    lines = [json.dumps({"text": text, **columns}) + "\n" for text in texts]
    file.write_text("".join(lines), encoding="utf-8")
    return file


@dataclass(frozen=True)
class HostileJob:
    """Does to its worker what the row's text says."""

    def prepare(self) -> RowFunction:
        return Hostile()


class Hostile:
    """ "spin" and "sleep" never end, "fill" takes memory, "crash", "raise", "leave" end the process."""

    def __call__(self, row: TextRow, begin: Callable[[str], bool]) -> Changes:
        if not begin("first"):
            return {}
        changes: Changes = {"language": row.text.upper()}
        if not begin("second"):
            return changes
        match row.text:
            case "spin":
                while True:
                    pass
            case "sleep":
                time.sleep(1000)
            case "fill":
                return {"language": "x" * (1 << 34)}
            case "crash":
                ctypes.string_at(0)
            case "raise":
                raise KeyError("a reason")
            case "leave":
                os._exit(3)
            case "spoil":
                raise Spoiled(changes)
        return changes

    def close(self) -> None:
        """Nothing to leave."""
