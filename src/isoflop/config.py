"""Frozen configs as facts: a text form, a digest, and checked changes of one field.

A config is a frozen dataclass of numbers, strings, tuples and other configs.
``to_dict`` and ``from_dict`` are inverse; ``digest`` names a config in folder
names; ``override`` returns a copy with one field changed.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from typing import Any, TypeVar, cast

Config = TypeVar("Config")

DIGEST_HEX_DIGITS = 8
"""Length of a digest in a folder name: 32 bits, chosen for short names."""


class UserError(ValueError):
    """A mistake that the user can mend: the message says what, where and how.

    The command line prints it as one line and exits with status 2.
    """


def to_dict(config: Any) -> Any:
    """The config as plain values; each nested config carries its class name under "kind"."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        hints = typing.get_type_hints(type(config))
        names = [field.name for field in dataclasses.fields(config)]
        fields = {name: _plain(getattr(config, name), hints[name]) for name in names}
        return {"kind": type(config).__name__, **fields}
    if isinstance(config, tuple):
        return [to_dict(item) for item in config]
    return config


def _plain(value: Any, hint: Any) -> Any:
    """A field's plain value. An int in a float field becomes a float: equal configs, one text."""
    is_int_as_float = type(value) is int and float in _members(hint) and int not in _members(hint)
    return float(value) if is_int_as_float else to_dict(value)


def to_text(config: Any) -> str:
    """The config as indented JSON with sorted keys: one field a line, so that a diff can be read."""
    return json.dumps(to_dict(config), indent=2, sort_keys=True, allow_nan=False) + "\n"


def digest(config: Any, *inputs: str) -> str:
    """Eight hex digits that name this config together with the digests of its inputs."""
    text = json.dumps([to_dict(config), *inputs], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_HEX_DIGITS]


def from_dict(kind: type[Config], data: Any, where: str = "config") -> Config:
    """Build a `kind` from plain values; the inverse of `to_dict`.

    Raises:
        UserError: an unknown or missing field or an ill-typed value, named with its path.
    """
    return cast(Config, _build(kind, data, where))


def override(config: Config, *assignments: str) -> Config:
    """A copy with fields changed, e.g. ``override(run, "model.num_experts=64")``.

    The path goes through nested configs by field name and through tuples by
    position. The text is read as a Python literal, or taken as it is where the
    field is text. All changes are made before the result is checked, so that
    fields which must fit each other can be changed together.

    Raises:
        UserError: no such field, a value of another type, or a config that refuses the result.
    """
    data = to_dict(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"override {assignment!r} must have the form path=value")
        _assign(config, data, path.strip().split("."), text.strip(), assignment)
    return from_dict(type(config), data, "the changed config")


def _assign(config: Any, data: Any, path: list[str], text: str, assignment: str) -> None:
    """Set one value in `data`, the plain values of `config`."""
    head, rest = path[0], path[1:]
    if isinstance(config, tuple):
        if not head.isdigit() or int(head) >= len(config):
            raise UserError(f"override {assignment!r}: {head!r} must be 0 to {len(config) - 1}")
        if not rest:
            raise UserError(
                f"override {assignment!r}: give a field after {head!r}, or set the whole tuple"
            )
        _assign(config[int(head)], data[int(head)], rest, text, assignment)
        return
    if not dataclasses.is_dataclass(config):
        raise UserError(f"override {assignment!r}: nothing lies below {head!r}")
    names = [field.name for field in dataclasses.fields(config)]
    if head not in names:
        raise UserError(
            f"override {assignment!r}: {type(config).__name__} has no field {head!r}; "
            f"it has {', '.join(names)}"
        )
    if rest:
        _assign(getattr(config, head), data[head], rest, text, assignment)
        return
    hint = typing.get_type_hints(type(config))[head]
    data[head] = to_dict(_build(hint, _literal(text, hint), f"override {assignment!r}"))


def _literal(text: str, hint: Any) -> Any:
    """Read the text of an override: as it is for a text field, else as a Python literal."""
    allowed = _members(hint)
    wants_text = str in allowed or any(
        typing.get_origin(member) is typing.Literal for member in allowed
    )
    if text == "None" and type(None) in allowed:
        return None
    if wants_text:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        # All that literal_eval is documented to raise; the type check then names the text.
        return text


def _members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _build(hint: Any, data: Any, where: str) -> Any:
    """Make `data` a value of the type `hint`, or say why it is none."""
    members = _members(hint)
    configs = {m.__name__: m for m in members if _is_config_type(m)}
    if configs and isinstance(data, dict):
        only = next(iter(configs)) if len(configs) == 1 else None
        name = data.get("kind", only)
        if name not in list(configs):
            raise UserError(f"{where}: kind is {name!r}; it must be one of {', '.join(configs)}")
        return _build_dataclass(configs[name], data, where)
    for member in members:
        accepted, value = _accept(member, data, where)
        if accepted:
            return value
    raise UserError(f"{where}: expected {_describe(hint)}, got {data!r}")


def _build_dataclass(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints = _hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    given = {name: value for name, value in data.items() if name != "kind"}
    unknown = [name for name in given if name not in fields]
    if unknown:
        raise UserError(
            f"{where}: {kind.__name__} has no field {unknown[0]!r}; it has {', '.join(fields)}"
        )
    missing = [
        name
        for name, field in fields.items()
        if name not in given
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{where}: {kind.__name__} lacks the field {missing[0]!r}")
    return kind(**{n: _build(hints[n], value, f"{where}.{n}") for n, value in given.items()})


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(kind)


def _accept(member: Any, data: Any, where: str) -> tuple[bool, Any]:
    """Whether `data` is of the single type `member`, and its value as that type."""
    origin, arguments = typing.get_origin(member), typing.get_args(member)
    if origin is typing.Literal:
        return data in arguments and type(data) is not bool, data
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            return False, None
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            if arguments[0] in (int, str) and all(type(v) is arguments[0] for v in data):
                # Rows of rollouts hold thousands of tokens.
                return True, tuple(data)
            return True, tuple(_build(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(data))
        if len(arguments) != len(data):
            return False, None
        pairs = zip(arguments, data, strict=True)
        return True, tuple(_build(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(pairs))
    if origin is dict:
        if not isinstance(data, dict):
            return False, None
        return True, {str(k): _build(arguments[1], v, f"{where}[{k!r}]") for k, v in data.items()}
    if member is float and type(data) is int:
        return True, float(data)
    if type(data) is float and not math.isfinite(data):
        return False, None
    return type(data) is member, data


def _is_config_type(member: Any) -> bool:
    return isinstance(member, type) and dataclasses.is_dataclass(member)


def _describe(hint: Any) -> str:
    """The type in a reader's words."""
    parts = []
    for member in _members(hint):
        if typing.get_origin(member) is typing.Literal:
            parts += [repr(value) for value in typing.get_args(member)]
        elif member is type(None):
            parts.append("None")
        else:
            parts.append(getattr(member, "__name__", str(member)))
    return " or ".join(parts)
