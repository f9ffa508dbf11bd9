"""What is measured on a text, and which texts are kept.

A threshold of None measures and rejects nothing. Defaults are those of SwallowCode
(arXiv:2505.02881) unless the line says otherwise.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from isoflop.config import UserError

PYLINT_DISABLED = (
    "E0401", "C0114", "C0301", "C0103", "C0116", "C0411", "R0903", "W0511", "C0412",
)  # fmt: skip
"""Messages that do not count: import-error, missing module docstring, line-too-long, invalid-name,
missing function docstring, wrong-import-order, too-few-public-methods, fixme, ungrouped-imports.
SwallowCode's filter script; a class without docstring does count there."""

REPEAT_FLOOR_CHARACTERS = 50
"""Shorter blocks are not looked for. Chosen: half of the paper's threshold."""

Penalty = Literal["published", "per_line", "none"]


@dataclass(frozen=True, kw_only=True)
class LintConfig:
    """pylint's score, lowered by the share of comments."""

    threshold: float | None = 7.0
    """Keep a text whose `lint_score` is at least this. arXiv:2505.02881: 34% of the texts that
    compile fall below."""
    penalty: Penalty = "published"
    """"published": the score times 1 - (comment tokens / all tokens); a file of nothing but comments
    keeps half its score, and a negative score rises. "per_line": lines that hold nothing but
    comments or docstrings / lines that are not blank; a negative score falls. "none": the score."""
    disabled: tuple[str, ...] = PYLINT_DISABLED
    """pylint messages that do not count."""
    measure: Literal["pylint", "none"] = "pylint"
    """"none": pylint is not run. It takes most of the time."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not -math.inf < self.threshold <= 10:
            raise UserError(f"lint.threshold={self.threshold} must be at most 10, or None")
        if self.measure == "none" and self.threshold is not None:
            raise UserError(
                f"lint.measure='none' leaves nothing for lint.threshold={self.threshold}; "
                "set lint.threshold=None too"
            )
        for name in self.disabled:
            if not name or not name.replace("-", "").isalnum():
                raise UserError(f"lint.disabled has {name!r}; give ids or names, e.g. 'C0301'")


@dataclass(frozen=True, kw_only=True)
class CommentLanguageConfig:
    """In which languages comments and strings are written."""

    rule: Literal["published", "corrected"] = "corrected"
    """"published": "english_or_japanese" where every character is printable ASCII, kana, an
    ideograph or Japanese punctuation, so that Chinese passes and a typographic dash does not.
    "corrected": by scripts and frequent words, see `comment_language`."""
    allowed: tuple[str, ...] | None = None
    """Keep texts of these. None: all; the paper tried English and Japanese and did not adopt it."""


@dataclass(frozen=True, kw_only=True)
class RepetitionConfig:
    """A block of characters that stands twice in a row."""

    min_block_characters: int | None = 100
    """Reject a text with such a block at least so long. The paper's `remove_repetition`."""
    min_text_characters: int = 1000
    """Shorter texts are not rejected. The same script."""

    def __post_init__(self) -> None:
        block = self.min_block_characters
        if block is not None and block < REPEAT_FLOOR_CHARACTERS:
            raise UserError(
                f"repetition.min_block_characters={block} must be at least "
                f"{REPEAT_FLOOR_CHARACTERS}, or None: shorter blocks are not looked for"
            )
        if self.min_text_characters < 0:
            raise UserError(
                f"repetition.min_text_characters={self.min_text_characters} must be 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """Characters of a text."""

    min_characters: int | None = None
    """None: any. (The paper's merge script drops texts of at most 10.)"""
    max_characters: int | None = None
    """None: any. (The paper's rewriting skips inputs of more than 102,688.)"""

    def __post_init__(self) -> None:
        least, most = self.min_characters, self.max_characters
        if least is not None and least < 0:
            raise UserError(f"length.min_characters={least} must be 0 or more, or None")
        if most is not None and most < (least or 1):
            raise UserError(
                f"length.max_characters={most} must be at least {least or 1} "
                f"(length.min_characters={least}), or None"
            )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one text may cost. Beyond, it is rejected and says so; the rest goes on."""

    cpu_seconds: float = 60.0
    """Processor time of one text, over all measures. Chosen: of 3,647 files the slowest took 13 s, with
    the packages that it imports, on a busy machine."""
    memory_bytes: int = 2 << 30
    """Address space beyond what a worker holds before it begins. Chosen."""

    def __post_init__(self) -> None:
        if not 0 < self.cpu_seconds < math.inf:
            raise UserError(f"limits.cpu_seconds={self.cpu_seconds} must be above 0 and finite")
        if self.memory_bytes < 1 << 26:
            raise UserError(f"limits.memory_bytes={self.memory_bytes} must be at least {1 << 26}")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """All filters for code, in the order in which they are asked."""

    language: str | None = "Python"
    """Keep texts of this language. None: all; then every text is measured as Python."""
    syntax: Literal["reject", "measure"] = "reject"
    """Whether a text that the running Python does not compile is rejected. The paper's Python is
    3.10."""
    lint: LintConfig = field(default_factory=LintConfig)
    comment_language: CommentLanguageConfig = field(default_factory=CommentLanguageConfig)
    min_llm_score: float | None = None
    """Keep texts whose `llm_score` is at least this. The paper tried 6 and did not adopt it."""
    repetition: RepetitionConfig = field(default_factory=RepetitionConfig)
    length: LengthConfig = field(default_factory=LengthConfig)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.min_llm_score is not None and not 0 <= self.min_llm_score <= 10:
            raise UserError(f"min_llm_score={self.min_llm_score} must be 0 to 10, or None")
        if self.language == "":
            raise UserError("language='' names none; give a name, or None for all")

    @property
    def measuring_only(self) -> "FilterConfig":
        """The same measures without any threshold: nothing is rejected."""
        return replace(
            self,
            language=None,
            syntax="measure",
            lint=replace(self.lint, threshold=None),
            comment_language=replace(self.comment_language, allowed=None),
            min_llm_score=None,
            repetition=replace(self.repetition, min_block_characters=None),
            length=LengthConfig(),
        )
