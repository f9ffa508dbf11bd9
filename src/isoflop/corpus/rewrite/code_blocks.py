"""Which of a reply's code blocks is the program. Pure.

A model writes more than the program: its output, how to use it, the text before the change, a line
that it explains. Such blocks are left out where others remain; parts of one program are joined.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from isoflop.corpus.rewrite.markdown import Block
from isoflop.corpus.rewrite.python_source import is_python, tree_of
from isoflop.corpus.rewrite.reasons import Note
from isoflop.corpus.rewrite.replies import noted

TAGS = {
    "python": ("python", "py", "python3", "py3", "python2", "ipython", ""),
    "cpp": ("cpp", "c++", "cc", "cxx", "c", "hpp", "h", ""),
    "rust": ("rust", "rs", ""),
}
"""Words after a fence that name a language; some models write none."""

_BESIDE = re.compile(
    r"[\W_\d]*(?:(?:the|an?|your|sample|expected) )?"
    r"(?:original|before|old|input|usage|examples?|output|tests?)\b.{0,40}",
    re.IGNORECASE,
)
"""A line before a block that is not the program."""

MOST_PARTS = 64
"""Blocks that are held against each other: bounds the work on hostile text. Chosen."""

_ROUTINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The block chosen among those of a reply."""

    block: Block
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A block of Python that compiles, with the names by which blocks belong together."""

    block: Block
    tree: ast.Module
    routines: frozenset[str]
    """Functions and classes that it defines, tests apart."""
    bound: frozenset[str]
    """Names that it defines, imports or assigns outside of functions and classes."""
    imported: frozenset[str]
    wanted: frozenset[str]
    """Names that it reads and binds nowhere."""


def is_data(source: str) -> bool:
    """Whether Python does nothing but name values: a program's output, or JSON.

    >>> is_data('{"score": 7, "code": "x = 1"}'), is_data("f(1)"), is_data('"a docstring"')
    (True, False, False)
    """
    tree = tree_of(source)
    if tree is None or not tree.body:
        return False
    if any(isinstance(node, ast.Call | ast.Await | ast.NamedExpr) for node in ast.walk(tree)):
        return False
    texts = [_is_text(node) for node in tree.body]
    # "Total: 5" is an annotation.
    return not all(texts) and all(isinstance(n, ast.Expr) or _is_annotation(n) for n in tree.body)


def choose_block(blocks: list[Block], language: str) -> Found | None:
    """The program among the blocks of a reply; None: no block is code of the language.

    Blocks whose fence names the language count before those without a word, those that the line
    before them does not call an example before those that it does, those that compile before those
    that do not, and of what is then left the longest.
    """
    fitting = [b for b in blocks if b.language in TAGS[language] and b.content.strip()]
    left = [b for b in fitting if b.language] or fitting
    left = [b for b in left if _BESIDE.fullmatch(b.label) is None] or left
    if language == "python":
        left = [b for b in left if is_python(b.content)] or left
        left = [b for b in left if not is_data(b.content)] or [b for b in left if b.language]
    if not left:
        return None
    programs = _programs(left) if language == "python" and len(left) > 1 else left
    block = max(programs, key=lambda b: len(b.content))
    several = Note.SEVERAL_CODE_BLOCKS if len(fitting) > 1 else None
    return Found(block=block, notes=noted(several, None if block in left else Note.BLOCKS_JOINED))


def _programs(blocks: list[Block]) -> list[Block]:
    """The blocks without quotations, examples and what a later one writes anew; parts of one joined."""
    if len(blocks) > MOST_PARTS:
        return blocks
    parts = [part for part in map(_part, blocks) if part is not None]
    if len(parts) < len(blocks):
        return blocks
    for drop in (_quoted, _examples, _written_anew):
        dropped = drop(parts)
        parts = [part for number, part in enumerate(parts) if number not in dropped] or parts
    joined: list[_Part] = []
    for part in parts:
        whole = _joined(joined[-1], part) if joined else None
        if whole is None:
            joined.append(part)
        else:
            joined[-1] = whole
    return [part.block for part in joined]


def _part(block: Block) -> _Part | None:
    tree = tree_of(block.content)
    if tree is None:
        return None
    routines = {node.name for node in tree.body if isinstance(node, _ROUTINES)}
    outside = [node for node in tree.body if not isinstance(node, _ROUTINES)]
    nodes = list(ast.walk(tree))
    read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return _Part(
        block=block,
        tree=tree,
        routines=frozenset(name for name in routines if not name.lower().startswith("test")),
        bound=frozenset(routines | _bound(n for top in outside for n in ast.walk(top))),
        imported=frozenset(_imported(nodes)),
        wanted=frozenset(read - _bound(nodes)),
    )


def _bound(nodes: Iterable[ast.AST]) -> set[str]:
    """Names that the nodes define, import, assign or take as parameters."""
    names = set[str]()
    for node in nodes:
        if isinstance(node, _ROUTINES):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            names.update(_imported([node]))
    return names


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)


def _quoted(parts: list[_Part]) -> set[int]:
    """Those of whose lines each stands in the longest: lines that are explained."""
    longest = max(range(len(parts)), key=lambda n: len(parts[n].block.content))
    lines = _lines(parts[longest])
    return {n for n, part in enumerate(parts) if n != longest and _lines(part) <= lines}


def _examples(parts: list[_Part]) -> set[int]:
    """Those that define nothing and use what another defines."""
    routines = frozenset[str]().union(*(part.routines for part in parts))
    return {
        number
        for number, part in enumerate(parts)
        if not _defines(part) and (part.wanted | part.imported) & routines
    }


def _written_anew(parts: list[_Part]) -> set[int]:
    """Those whose functions and classes are all defined again in one later block."""
    last = {name: number for number, part in enumerate(parts) for name in part.routines}
    again = [{last[name] for name in part.routines} for part in parts]
    return {n for n, numbers in enumerate(again) if len(numbers) == 1 and n not in numbers}


def _joined(first: _Part, then: _Part) -> _Part | None:
    """Two parts of one program as one; None: they are none."""
    only_names = all(
        isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign) or _is_text(node)
        for node in first.tree.body
    )
    if not then.wanted & first.bound or then.routines & first.routines:
        return None
    content = first.block.content.rstrip() + "\n\n\n" + then.block.content
    if not (only_names or _defines(then)) or not is_python(content):
        return None
    closed = first.block.closed and then.block.closed
    return _part(replace(first.block, content=content, closed=closed))


def _defines(part: _Part) -> bool:
    """Whether a part is more than calls of others: it defines something, or is what a program runs."""
    runs = any(
        isinstance(node, ast.If) and "'__main__'" in ast.dump(node.test) for node in part.tree.body
    )
    return bool(part.routines) or runs


def _lines(part: _Part) -> set[str]:
    return {line.strip() for line in part.block.content.split("\n")} - {""}


def _is_text(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _is_annotation(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and node.value is None
