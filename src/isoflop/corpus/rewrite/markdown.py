"""Headings and code blocks of a model's Markdown, read as models write it. Pure, linear time.

CommonMark ends a code block at the first bare fence. Models break that: a fence inside a
docstring, a block inside a block. So a block may say itself where it is whole (for Python: where
it compiles), and only else fences are counted. A heading inside a block is no heading.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MOST_ENDS_TRIED = 16
"""Fences at which a block is tried for being whole: bounds the work on hostile text. Chosen."""

TAB_COLUMNS = 4
"""CommonMark 0.31, section 2.2."""

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})(?P<language>[^`\r\n]*)$")
_ONE_LINE = re.compile(r"```(?P<language>\w*)[ \t](?P<content>[^`\r\n]+)```")
"""Of a line without white space at its ends."""
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]*(?P<title>[^#\s].*)$")
_BOLD_HEADING = re.compile(r"^ {0,3}\*\*(?P<title>[^*\r\n]{1,80})\*\*(?P<rest>.*)$")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of code."""

    language: str
    """First word after the fence, in small letters; empty where there is none."""
    content: str
    closed: bool
    """Whether a fence ends it."""
    line: int
    """Of its opening fence, counted from 0."""
    label: str
    """The last line with words before it, of the two before; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with what stands below it, up to the next heading."""

    title: str
    """Empty for what stands before the first heading."""
    prose: str
    """Lines outside code blocks."""
    blocks: tuple[Block, ...]
    line: int
    """Of its first line below the heading, counted from 0."""


IsWhole = Callable[[str], bool]
"""Whether a block's content is complete, where its language can tell."""


def read_sections(text: str, is_whole: IsWhole | None = None) -> list[Section]:
    """The sections of `text`, in order; the first has no title and may be empty."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    sections: list[Section] = []
    title, prose, blocks, first = "", list[str](), list[Block](), 0

    def finish() -> None:
        sections.append(
            Section(title=title, prose="\n".join(prose), blocks=tuple(blocks), line=first)
        )

    number = 0
    while number < len(lines):
        line = lines[number]
        block, after = _block_at(lines, number, is_whole)
        if block is not None:
            blocks.append(block)
            number = after
            continue
        heading = heading_of(line)
        if heading is not None:
            finish()
            title, prose, blocks, first = heading, [], [], number + 1
        else:
            prose.append(line)
        number += 1
    finish()
    return sections


def open_fences(text: str) -> Iterator[tuple[str, bool]]:
    """Each line of the text, and whether it stands in a fenced block or is a fence.

    >>> [inside for _, inside in open_fences("a\\n```\\nx\\n```\\nb")]
    [False, True, True, True, False]
    """
    marks, depth = "", 0
    for line in text.split("\n"):
        fence = _FENCE.match(line.rstrip("\r"))
        inside = depth > 0 or fence is not None
        if fence is not None and depth == 0:
            marks, depth = fence["marks"], 1
        elif fence is not None and fence["marks"].startswith(marks):
            # As in `_end_of_block`: a fence with a language opens a block inside the block.
            depth += 1 if fence["language"].strip() else -1
        yield line, inside


def heading_of(line: str) -> str | None:
    """The text of a heading line ("### Title" or "**Title**"), None for any other line.

    >>> heading_of("### Evaluation: 7"), heading_of("**Score:** 7"), heading_of("#include <x>")
    ('Evaluation: 7', 'Score: 7', None)
    """
    match = _HEADING.match(line)
    if match is not None:
        # "#include" and "#!/bin/sh" are code that stands outside a fence.
        bare = line.lstrip()
        is_text = bare.startswith(("# ", "#\t", "##"))
        return match["title"].rstrip("# \t") if is_text else None
    match = _BOLD_HEADING.match(line)
    return None if match is None else f"{match['title']}{match['rest']}".strip()


def _block_at(lines: list[str], start: int, is_whole: IsWhole | None) -> tuple[Block | None, int]:
    """The block that opens at a line, and the first line after it."""
    line = lines[start]
    label = next(filter(None, (lines[n].strip() for n in (start - 1, start - 2) if n >= 0)), "")
    single = _ONE_LINE.fullmatch(line.strip(" \t"))
    if single is not None and single["content"].strip():
        language = single["language"].lower()
        content = single["content"].strip(" \t") + "\n"
        block = Block(language=language, content=content, closed=True, line=start, label=label)
        return block, start + 1
    opening = _FENCE.match(line)
    if opening is None:
        return None, start
    indent = _columns(opening["indent"])
    end = _end_of_block(lines, start, opening["marks"], indent, is_whole)
    stop = len(lines) if end is None else end
    language = (opening["language"].split() or [""])[0].lower().strip("{}.")
    content = _content(lines, start, stop, indent)
    closed = end is not None
    block = Block(language=language, content=content, closed=closed, line=start, label=label)
    return block, stop + 1


def _end_of_block(
    lines: list[str], start: int, marks: str, indent: int, is_whole: IsWhole | None
) -> int | None:
    """Line of the fence that ends the block opened at `start`; None: nothing ends it."""
    ends, nested, depth = list[int](), None, 1
    for number in range(start + 1, len(lines)):
        match = _FENCE.match(lines[number])
        if match is None or match["marks"][0] != marks[0] or len(match["marks"]) < len(marks):
            continue
        if match["language"].strip():
            depth += 1
            continue
        # CommonMark: an end is indented by at most three columns; deeper ones are content.
        if _columns(match["indent"]) > indent + 3:
            continue
        depth -= 1
        ends.append(number)
        if depth == 0 and nested is None:
            nested = number
        if is_whole is None and nested is not None:
            return nested
        if is_whole is not None and is_whole(_content(lines, start, number, indent)):
            return number
        if len(ends) == MOST_ENDS_TRIED:
            break
    if nested is not None:
        return nested
    return ends[0] if ends else None


def _content(lines: list[str], start: int, stop: int, indent: int) -> str:
    """Lines between two fences, less the indentation of the opening one."""
    inside = lines[start + 1 : stop]
    if indent:
        inside = [line[min(indent, len(line) - len(line.lstrip(" "))) :] for line in inside]
    return "".join(f"{line}\n" for line in inside)


def _columns(indent: str) -> int:
    return len(indent.expandtabs(TAB_COLUMNS))
