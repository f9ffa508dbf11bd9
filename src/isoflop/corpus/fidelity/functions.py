"""Functions of a source, and which of them are the same function before and after a rewriting. Pure."""

import ast
from dataclasses import dataclass
from typing import Literal

from isoflop.corpus.fidelity.values import words_of

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

How = Literal["same name", "same words", "same place", "none"]
"""How a counterpart was found: by its name; by its name without case and underscores; by its
parameters; there is none."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter that a call can give by place, or must give by name."""

    name: str
    annotation: ast.expr | None
    default: ast.expr | None
    """None: the call must give it."""
    by_name: bool
    """Keyword-only."""


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function of a module's own body."""

    name: str
    node: FunctionNode
    parameters: tuple[Parameter, ...]
    takes_more: bool
    """Any number of further arguments (``*args``)."""

    @property
    def public(self) -> bool:
        """Whether others may call it."""
        return not self.name.startswith("_")

    @property
    def required(self) -> int:
        """Arguments that a call must give by place."""
        return sum(p.default is None and not p.by_name for p in self.parameters)

    @property
    def most(self) -> int:
        """Arguments that a call can give by place."""
        return sum(not parameter.by_name for parameter in self.parameters)

    def tree_text(self) -> str:
        """Its syntax tree without names, docstring and annotations of its head."""
        copy = ast.parse(ast.unparse(self.node)).body[0]
        assert isinstance(copy, FunctionNode)
        copy.name, copy.returns = "f", None
        if ast.get_docstring(copy, clean=False) is not None:
            copy.body = copy.body[1:] or [ast.Pass()]
        for node in ast.walk(copy.args):
            if isinstance(node, ast.arg):
                node.annotation = None
        return ast.dump(copy)


@dataclass(frozen=True, kw_only=True)
class Match:
    """A function and its counterpart."""

    before: Function
    after: Function | None
    how: How

    @property
    def renamed(self) -> bool:
        """Whether callers would no longer find it: the artefact for which MBPP was left out."""
        return self.after is not None and self.after.name != self.before.name


def functions_of(tree: ast.Module) -> list[Function]:
    """The module's functions in order; of two of one name the last, which is what a caller gets."""
    last = {node.name: node for node in tree.body if isinstance(node, FunctionNode)}
    return [_function(node) for node in tree.body if last.get(getattr(node, "name", "")) is node]


def match_functions(before: list[Function], after: list[Function]) -> list[Match]:
    """A match for each function before; no function after is the counterpart of two."""
    left = list(after)
    found: dict[str, tuple[Function, How]] = {}

    def take(function: Function, candidates: list[Function], how: How) -> None:
        if function.name not in found and len(candidates) == 1:
            found[function.name] = (candidates[0], how)
            left.remove(candidates[0])

    for function in before:
        take(function, [f for f in left if f.name == function.name], "same name")
    for function in before:
        words = words_of(function.name)
        take(function, [f for f in left if words_of(f.name) == words], "same words")
    for function in before:
        shape = _shape(function)
        alike = [f for f in left if shape and _shape(f) == shape]
        rivals = [f for f in before if f.name not in found and _shape(f) == shape]
        take(function, alike if len(rivals) == 1 else [], "same place")
    lonely = [function for function in before if function.name not in found]
    if len(lonely) == len(left) == 1 and lonely[0].most == left[0].most:
        take(lonely[0], left, "same place")
    nothing: tuple[Function | None, How] = (None, "none")
    matches = []
    for function in before:
        counterpart, how = found.get(function.name, nothing)
        matches.append(Match(before=function, after=counterpart, how=how))
    return matches


def _shape(function: Function) -> tuple[str, ...]:
    """Words of its parameters; empty where these say nothing."""
    return tuple(words_of(parameter.name) for parameter in function.parameters)


def _function(node: FunctionNode) -> Function:
    arguments = node.args
    by_place = [*arguments.posonlyargs, *arguments.args]
    missing = len(by_place) - len(arguments.defaults)
    defaults: list[ast.expr | None] = [*([None] * missing), *arguments.defaults]
    parameters = [
        Parameter(name=a.arg, annotation=a.annotation, default=d, by_name=False)
        for a, d in zip(by_place, defaults, strict=True)
    ]
    parameters += [
        Parameter(name=a.arg, annotation=a.annotation, default=d, by_name=True)
        for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return Function(
        name=node.name,
        node=node,
        parameters=tuple(parameters),
        takes_more=arguments.vararg is not None,
    )
