"""Which of ruff's fixes a file must do without, as its imports, or its own text, are part of what it does.

Ruff sees names that the source spells. It does not see a name that is looked up while the program runs, nor
which of two modules a name comes from, nor that a failing import decides something. Pure.
"""

import ast

NAMES = ("F401", "F811")
"""Rules that take imports out."""

IMPORTS = (*NAMES, "I001", "UP026", "UP029", "UP035")
"""Rules that take imports out, put them in another order, or take them from other modules."""

_LOOK_UP = frozenset({"eval", "exec", "execfile", "globals", "__globals__", "f_globals", "modules"})
_LOOK_UP_HERE = frozenset({"locals", "vars", "dir"})
"""Of the names around them, if they are called without an argument."""

_IMPORT_BY_NAME = frozenset({"import_module", "__import__"})

_Imported = tuple[str | None, int, str]


def fixes_to_leave(tree: ast.Module, *, is_package: bool) -> tuple[str, ...]:
    """Rules whose fixes could change what the file does; `is_package`: it is an ``__init__.py``.

    >>> fixes_to_leave(ast.parse("from math import *\\nfrom cmath import *"), is_package=False) == IMPORTS
    True
    >>> fixes_to_leave(ast.parse("import math\\nprint(eval('math.pi'))"), is_package=False)
    ('F401', 'F811')
    >>> fixes_to_leave(ast.parse("import math, os\\nprint(os.name)"), is_package=False)
    ()
    """
    nodes = list(ast.walk(tree))
    if _order_matters(nodes) or any(_may_fail(node) for node in nodes):
        return IMPORTS
    return NAMES if is_package or _names_are_looked_up(nodes) else ()


def shows_its_docstrings(tree: ast.Module) -> bool:
    """Whether it reads a docstring, whose lines formatting would move."""
    return any("__doc__" in (_name(node), _text(node)) for node in ast.walk(tree))


def _order_matters(nodes: list[ast.AST]) -> bool:
    """Whether a later import replaces a name of an earlier one, or may, or a builtin."""
    origins: dict[str, _Imported] = {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                name, origin = _origin(node, alias)
                if name == "*" or origins.setdefault(name, origin) != origin:
                    return True
    return False


def _origin(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> tuple[str, _Imported]:
    """The name that an import binds, and what it is bound to."""
    if isinstance(node, ast.ImportFrom):
        return alias.asname or alias.name, (node.module, node.level, alias.name)
    top = alias.name.split(".")[0]
    return alias.asname or top, (alias.name if alias.asname else top, 0, "")


def _may_fail(node: ast.AST) -> bool:
    """Whether it guards an import: which one fails, and before what, is then logic."""
    if not isinstance(node, ast.Try | ast.TryStar | ast.With):
        return False
    return any(isinstance(inner, ast.Import | ast.ImportFrom) for inner in ast.walk(node))


def _names_are_looked_up(nodes: list[ast.AST]) -> bool:
    """Whether an imported name may be used without being spelt: by a look-up, in a doctest, as a fixture."""
    imported: set[str] = set()
    parameters: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported |= {_origin(node, alias)[0] for alias in node.names}
        elif isinstance(node, ast.arg):
            parameters.add(node.arg)
        elif _name(node) in _LOOK_UP or _looks_up_here(node) or _names_this_module(_text(node)):
            return True
    return bool(imported & parameters)


def _looks_up_here(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if _name(node.func) in _IMPORT_BY_NAME:
        return any(_name(argument) == "__name__" for argument in node.args)
    return _name(node.func) in _LOOK_UP_HERE and not node.args


def _names_this_module(text: str) -> bool:
    """Whether a text is a doctest, or code that imports from the program (``timeit``'s set-up)."""
    return ">>>" in text or ("__main__" in text and text != "__main__")


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
