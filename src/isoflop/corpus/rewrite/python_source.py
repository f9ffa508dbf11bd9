"""Whether a text is Python, asked of the running interpreter without ever running it."""

import ast
import warnings

from isoflop.corpus.filters.syntax import COMPILE_ERRORS, syntax_error

__all__ = ["has_statements", "is_python", "syntax_error", "tree_of"]


def tree_of(source: str) -> ast.Module | None:
    """The syntax tree; None where there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source.removeprefix("\ufeff"))
    except COMPILE_ERRORS:
        return None


def has_statements(source: str) -> bool:
    """Whether there is more than comments and texts that stand alone.

    >>> has_statements("x = 1"), has_statements("# x"), has_statements("'x'"), has_statements("def (")
    (True, False, False, False)
    """
    tree = tree_of(source)
    nodes = [] if tree is None else tree.body
    return any(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in nodes
    )


def is_python(source: str) -> bool:
    """Whether the source compiles and holds anything at all."""
    return bool(source.strip()) and syntax_error(source) is None
