"""What kind of value a parameter takes, guessed from its annotation, its default, its use and its name.

Pure. A guess need not be right: a call that fails with a TypeError or AttributeError compares nothing and
is counted apart.
"""

import ast
import re

from isoflop.corpus.fidelity.functions import Function, Parameter

ANY_KINDS = ("int", "str", "list[int]", "float", "list[str]", "dict", "bool")
"""Where nothing is known, and now and then where something is."""

_ANNOTATIONS = (
    (r"(?:list|sequence|iterable|collection)\[(?:list|sequence|tuple)\b", "list[list]"),
    (r"(?:list|sequence|iterable|collection|iterator)\[str\]", "list[str]"),
    (r"(?:list|sequence|iterable|collection|iterator)\[float\]", "list[float]"),
    (r"(?:list|sequence|iterable|collection|iterator|array)\b", "list[int]"),
    (r"tuple\b", "tuple"),
    (r"(?:frozen)?set\b", "set"),
    (r"(?:dict|mapping|counter|defaultdict)\b", "dict"),
    (r"bytes\b", "bytes"),
    (r"str\b", "str"),
    (r"bool\b", "bool"),
    (r"int\b", "int"),
    (r"(?:float|complex|number|decimal)\b", "float"),
)

_METHODS = {
    "str": "split lower upper strip lstrip rstrip replace startswith endswith isdigit isalpha isupper "
    "islower title capitalize format encode splitlines find isnumeric isalnum swapcase zfill ljust center "
    "isspace",
    "list[int]": "append extend insert sort reverse remove",
    "dict": "items keys values setdefault",
    "set": "union intersection difference issubset issuperset",
}  # fmt: skip
_KIND_OF_METHOD = {name: kind for kind, names in _METHODS.items() for name in names.split()}

_NAMES = (
    (r"(?:matrix|grid|board|maze|mat)\d?$", "list[list]"),
    (r"(?:l|li|lst|arr|array|nums|numbers|values|items|data|sequence|seq|elements|scores|list\w*|\w+_?list|lista)\d?$",
     "list[int]"),
    (r"(?:words|strings|names|strs|lines|sentences)$", "list[str]"),
    (r"(?:s|st|str\d?|string\d?|text|txt|word|name|sentence|msg|message|char|ch|c|key|phrase|title|path|line|"
     r"password|nome|texto|frase|palavra)\d?$", "str"),
    (r"(?:d|dic|dict\w*|mapping|graph|counts|table)$", "dict"),
    (r"(?:price|rate|ratio|weight|height|temp\w*|radius|salary|preco|celsius|fahrenheit)$", "float"),
    (r"(?:is_\w+|has_\w+|flag|verbose|reverse)$", "bool"),
    (r"(?:n|m|k|i|j|x|y|z|a|b|p|q|r|num\w*|number\d?|count|size|limit|year|month|day|age|index|start|end|low|high|"
     r"lower|upper|base|exponent|power|target|total|length|width|numero|valor)\d?$", "int"),
)  # fmt: skip

_NUMERIC_CALLS = ("range", "abs", "sqrt", "pow", "round", "chr", "bin", "hex", "factorial", "gcd")
_LIST_CALLS = (
    "sum",
    "max",
    "min",
    "sorted",
    "enumerate",
    "zip",
    "len",
    "reversed",
    "map",
    "filter",
)


def kinds_of(function: Function, parameter: Parameter) -> tuple[str, ...]:
    """Likely kinds, the likeliest first; never empty."""
    annotated = _from_annotation(parameter.annotation)
    if annotated:
        return annotated
    default = _from_default(parameter.default)
    used = _from_use(function, parameter.name)
    named = _from_name(parameter.name)
    likely = tuple(dict.fromkeys([*default, *used, *named]))
    return likely or ANY_KINDS[:4]


def _from_annotation(annotation: ast.expr | None) -> tuple[str, ...]:
    if annotation is None:
        return ()
    text = ast.unparse(annotation).lower().replace("typing.", "").strip("'\"")
    if text in ("any", "object"):
        return ANY_KINDS
    parts = re.split(r"\s*\|\s*|^(?:optional|union)\[|,\s*(?![^\[]*\])", text)
    kinds = [_from_annotation_text(part) for part in parts]
    found = [kind for kind in kinds if kind is not None]
    if found and ("none" in text or "optional" in text):
        found.append("none")
    return tuple(dict.fromkeys(found))


def _from_annotation_text(text: str) -> str | None:
    return next((kind for pattern, kind in _ANNOTATIONS if re.match(pattern, text)), None)


def _from_default(default: ast.expr | None) -> list[str]:
    if isinstance(default, ast.Constant):
        kind = type(default.value).__name__
        return [kind] if kind in ("int", "float", "str", "bool", "bytes") else []
    simple = ((ast.List, "list[int]"), (ast.Tuple, "tuple"), (ast.Dict, "dict"), (ast.Set, "set"))
    return [kind for node, kind in simple if isinstance(default, node)]


def _from_name(name: str) -> list[str]:
    low = name.lower()
    return [kind for pattern, kind in _NAMES if re.match(pattern, low)][:1]


def _from_use(function: Function, name: str) -> list[str]:
    """Kinds that the body's operations on the parameter suggest, in the order of the body."""
    kinds: list[str] = []
    for node in ast.walk(function.node):
        kinds += _from_operation(node, name)
    return kinds


def _from_operation(node: ast.AST, name: str) -> list[str]:
    if isinstance(node, ast.Attribute) and _is(node.value, name):
        kind = _KIND_OF_METHOD.get(node.attr)
        return [] if kind is None else [kind]
    if isinstance(node, ast.Subscript):
        if isinstance(node.value, ast.Subscript) and _is(node.value.value, name):
            return ["list[list]"]
        if _is(node.value, name):
            return ["list[int]", "str"]
    if isinstance(node, ast.For | ast.comprehension) and _is(node.iter, name):
        return ["list[int]", "str"]
    if isinstance(node, ast.BinOp) and (_is(node.left, name) or _is(node.right, name)):
        other = node.right if _is(node.left, name) else node.left
        return _from_other(other, arithmetic=not isinstance(node.op, ast.Add))
    if isinstance(node, ast.Compare) and _is(node.left, name):
        if isinstance(node.ops[0], ast.In | ast.NotIn):
            return ["str", "int"]
        return _from_other(node.comparators[0], arithmetic=False)
    if isinstance(node, ast.Call):
        return _from_call(node, name)
    return []


def _from_call(node: ast.Call, name: str) -> list[str]:
    if not any(_is(argument, name) for argument in node.args):
        return []
    called = (
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    )
    if called in _NUMERIC_CALLS:
        return ["int"]
    if called in _LIST_CALLS:
        return ["list[int]", "str"]
    return {"int": ["digits"], "float": ["digits"], "ord": ["str"], "join": ["list[str]"]}.get(
        called, []
    )


def _from_other(other: ast.expr, *, arithmetic: bool) -> list[str]:
    """From what a parameter is added to, compared with, or multiplied by."""
    if isinstance(other, ast.Constant):
        kind = type(other.value).__name__
        return [kind] if kind in ("int", "float", "str", "bool") else []
    return ["int", "float"] if arithmetic else []


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
