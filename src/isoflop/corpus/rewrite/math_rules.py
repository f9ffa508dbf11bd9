"""Mathematical web pages without what surrounds their text: no model, nothing added.

Every line of the result is a line of the page, at most less a signature, a vote or a permalink
sign. `removed_lines` of the row says what was taken, by rule.
"""

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from isoflop.corpus.rewrite.accounts import Result
from isoflop.corpus.rewrite.new_rows import rejected, rewritten
from isoflop.corpus.rewrite.page_lines import DATE, SPAN_RULES, TIME, USER, Span
from isoflop.corpus.rewrite.reasons import Note, Reason
from isoflop.corpus.rewrite.replies import noted
from isoflop.corpus.rows import Rewriting, TextRow

TIDY_MATH = "tidy_math"
"""The stage's name in rows."""

RULES_VERSION = "2"
"""Changed with any rule, so that folders of other rules are not taken for these."""

_SITE = re.compile(
    r"(?<!\s)\s+[-\u2013\u2014|\u00b7]\s+(?:[\w.,' ]{1,40} )?(?:Stack Exchange|MathOverflow|Cross Validated"
    r"|documentation|Wikipedia(?:, the free encyclopedia)?|PlanetMath|Wolfram MathWorld)$"
)
_SIGNATURE = re.compile(rf"(?<!\s)\s*(?:-|\u2013|\u2014) {USER} {DATE}{TIME}$")
_COMMENT_VOTES = re.compile(r"^\d{1,4} {2,}(?=\S)")
_PERMALINK = re.compile(r"(?<=\S)\u00b6$")
_HASH_PERMALINK = re.compile(r"(?<=[\w).!?:\]'\u2019\u201d])#$")
_SOURCE_LINK = re.compile(r"\s?\[source\]")
_HEADING_ID = re.compile(r"(?<!\s)\s*\{#[\w-]+\}$")
_LINK_TARGET = re.compile(r"\[\\?\[link\\?\]\]\(#[\w-]+\)")
_IMAGE_TAIL = re.compile(r"""^(\[image: .*\])"\)$""")
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True, kw_only=True)
class MathRules:
    """Rules for mathematical pages."""

    version: str = RULES_VERSION
    min_characters: int = 51
    """Of what is left; as the reference drops rewritten pages of 50 characters and fewer."""


def tidy_page(text: str) -> tuple[str, dict[str, int]]:
    """The page's own text, and how many lines each rule took or shortened.

    >>> tidy_page("Sum - MathOverflow\\n\\nSum\\n\\nAsked 2020-01-31\\n\\n3\\n\\nWhat is $1 + 1$?")
    ('Sum\\n\\nWhat is $1 + 1$?\\n', {'date': 1, 'site title': 1, 'votes': 1})
    """
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    removed: Counter[str] = Counter()
    kept = [True] * len(lines)
    is_sphinx = False
    for rule in SPAN_RULES:
        # Rules see the page as the rules before left it, so that spans do not meet.
        places = [number for number, keep in enumerate(kept) if keep]
        for start, stop, name in rule([lines[place] for place in places]):
            is_sphinx |= name == "site head"
            removed[name] += _take(lines, kept, places, (start, stop, name))
    left = [line for line, keep in zip(lines, kept, strict=True) if keep]
    left = _title(left, removed)
    left = [_shortened(line, removed, is_sphinx=is_sphinx) for line in left]
    body = _BLANK_LINES.sub("\n\n", "\n".join(left)).strip("\n")
    return body + "\n", dict(sorted((+removed).items()))


class MathRewriter:
    """Applies the rules to each row."""

    def __init__(self, config: MathRules) -> None:
        """Needs nothing."""
        self._config = config

    async def results(self, rows: Iterator[TextRow]) -> AsyncIterator[Result]:
        """One result a row, in order."""
        for row in rows:
            yield Result(row=row if row.rejected_by else self._rewrite(row))

    def _rewrite(self, row: TextRow) -> TextRow:
        text, removed = tidy_page(row.text)
        if len(text.strip()) < self._config.min_characters:
            detail = f"{len(text.strip())} characters of at least {self._config.min_characters}"
            return rejected(row, TIDY_MATH, Reason.NO_MATHEMATICS_LEFT, detail)
        unchanged = Note.UNCHANGED if text.strip() == row.text.strip() else None
        how = Rewriting(
            rewriter=f"rules {self._config.version}",
            notes=noted(unchanged),
            removed_lines=removed,
        )
        return rewritten(row, text, TIDY_MATH, how)


def _take(lines: list[str], kept: list[bool], places: list[int], span: Span) -> int:
    """Mark the lines of a span; the number of those that were not blank."""
    taken = 0
    for place in places[span[0] : span[1]]:
        taken += int(kept[place] and bool(lines[place].strip()))
        kept[place] = False
    return taken


def _title(lines: list[str], removed: Counter[str]) -> list[str]:
    """The first line without the site's name, and not twice."""
    texts = [number for number, line in enumerate(lines) if line.strip()][:2]
    if not texts:
        return lines
    title = _SITE.sub("", lines[texts[0]])
    if title != lines[texts[0]]:
        removed["site title"] += 1
    bare = [_PERMALINK.sub("", lines[number]).rstrip("#") for number in texts]
    if len(texts) == 2 and title.strip() == bare[1].strip():
        return lines[texts[1] :]
    return [*lines[: texts[0]], title, *lines[texts[0] + 1 :]]


def _shortened(line: str, removed: Counter[str], *, is_sphinx: bool) -> str:
    """A line without signs that only the site needs."""
    bare = _SIGNATURE.sub("", line)
    if bare != line:
        removed["signature"] += 1
        bare = _COMMENT_VOTES.sub("", bare)
    before = bare
    bare = _PERMALINK.sub("", bare)
    if is_sphinx:
        bare = _HASH_PERMALINK.sub("", _SOURCE_LINK.sub("", bare))
    bare = _HEADING_ID.sub("", _IMAGE_TAIL.sub(r"\1", bare))
    bare = _LINK_TARGET.sub("[link]", bare)
    if bare != before:
        removed["markup"] += 1
    return bare
