"""What is measured on every checkpoint."""

from dataclasses import dataclass
from typing import Literal

from isoflop.config import UserError

ContextStart = Literal["end_of_text", "nothing"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Items asked of each checkpoint, and how answers are generated."""

    max_items: int = 512
    """Items of each task and split at the last checkpoint, taken in the file's order."""
    max_items_between: int = 128
    """The same at the checkpoints before the last."""
    max_new_tokens: int = 64
    """Generation ends here if no end of text came."""
    batch_items: int = 128
    """Items scored together. No influence on results beyond rounding."""
    context_start: ContextStart = "end_of_text"
    """What stands before a prompt. "end_of_text": the token that precedes every document but a
    sequence's first in training; "nothing": for models whose attention stops at document ends."""

    def __post_init__(self) -> None:
        for name in ("max_items", "max_items_between", "max_new_tokens", "batch_items"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
