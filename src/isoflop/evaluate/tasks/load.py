"""A task's data made into problems: rows read, shots chosen, prompts put together.

Shots are worked examples from rows that are not asked. No row whose question, or the question it
was made from, is asked may be a shot: compared by content, letter case and white space aside, not
by the file it came from. They are the same for every problem: the rows a task names (`shot_ids`),
else the first of the shots' file, else, with a seed, a fixed draw from it.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isoflop.config import UserError
from isoflop.evaluate.tasks.names import find_task
from isoflop.evaluate.tasks.problem import (
    BadRowError,
    Item,
    LoadedTask,
    Problem,
    Style,
    Task,
    Template,
)
from isoflop.evaluate.tasks.rows import Row, read_file, read_hub
from isoflop.records import SetAside

DIGEST_DIGITS = 16
"""Hex digits of a data digest: 64 bits, chosen."""

DEFAULT_SPLIT = "test"


@dataclass(frozen=True)
class _Rows:
    """What could be read of one file or split."""

    items: list[tuple[str, Item]]
    """Place and item."""
    set_aside: list[SetAside]


def load_task(
    name: str,
    *,
    data: Path | None = None,
    style: Style | None = None,
    shots: int | None = None,
    shots_data: Path | None = None,
    shots_seed: int | None = None,
    limit: int | None = None,
) -> LoadedTask:
    """Read a task's problems.

    Args:
        name: see `names.TASKS`.
        data: a file, or a folder in the hub's layout; None: the hub.
        style: how questions are put; None: the papers' form.
        shots: worked examples before each question; None: the papers' number.
        shots_data: where they come from: a file or folder of rows that are not asked, e.g. the
            training split. None: the hub's, or rows of `data` that are kept for prompts.
        shots_seed: draw the shots with this seed; None: the first.
        limit: ask the first so many problems only. The shots do not depend on it.

    Raises:
        UserError: no such task or style, unreadable data, no problem left, too few shots.
    """
    task = find_task(name)
    style = style or task.default_style
    if style not in task.templates:
        raise UserError(f"{name} has no style {style!r}; it has {', '.join(task.templates)}")
    template = task.templates[style]
    num_shots = task.num_shots if shots is None else shots
    if num_shots < 0:
        raise UserError(f"shots={num_shots} must be at least 0")
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit} must be at least 1")
    rows = _parse(_test_rows(task, data), task, template)
    asked = [(where, item) for where, item in rows.items if item.split == "test"]
    if not asked:
        reasons = ", ".join(sorted({row.reason for row in rows.set_aside})) or "no rows"
        raise UserError(f"{data or task.name}: holds no problem of {name} ({reasons})")
    items = [item for _, item in asked]
    examples = (
        choose_shots(_shot_items(task, template, data, shots_data, rows), items, task, num_shots,
                     shots_seed)
        if num_shots
        else []
    )  # fmt: skip
    texts = tuple(_shot_text(template, item) for item in examples)
    problems = tuple(_problems(task, template, asked, texts))[:limit]
    return LoadedTask(
        task=replace(
            task,
            scorer=template.scorer or task.scorer,
            sampling=template.sampling or task.sampling,
        ),
        style=style,
        num_shots=len(texts),
        problems=problems,
        set_aside=tuple(rows.set_aside),
        data=str(data) if data is not None else f"hub: {task.hub.path if task.hub else ''}",
        data_digest=problems_digest(problems),
    )


def choose_shots(
    candidates: Sequence[Item], asked: Iterable[Item], task: Task, number: int, seed: int | None
) -> list[Item]:
    """`number` of the candidates, none of which is asked.

    Raises:
        UserError: too few are left.
    """
    taken = {key for item in asked for key in _keys(item)}
    allowed: dict[str, Item] = {}
    for item in candidates:
        if not any(key in taken for key in _keys(item)):
            allowed.setdefault(_keys(item)[0], item)
    free = list(allowed.values())
    if len(free) < number:
        raise UserError(
            f"{task.name} needs {number} shots but only {len(free)} of {len(candidates)} rows for "
            "shots are not asked themselves; give --shots-data FILE with other rows, e.g. the "
            "training split, or fewer --shots"
        )
    if seed is not None:
        return random.Random(seed).sample(free, number)
    named = {item.id: item for item in free if item.id in task.shot_ids}
    first = [named[name] for name in task.shot_ids if name in named]
    rest = [item for item in free if item not in first]
    return [*first, *rest][:number]


def _keys(item: Item) -> list[str]:
    """What makes two items the same question."""
    return [" ".join(text.casefold().split()) for text in (item.question, *item.sources)]


def _test_rows(task: Task, data: Path | None) -> Iterator[Row]:
    if data is not None and not data.is_dir():
        return read_file(data)
    hub = task.hub
    if hub is None:
        if data is None:
            raise UserError(f"{task.name} is not on the hub; give its file with --data FILE")
        return read_hub(str(data), None, DEFAULT_SPLIT)
    return read_hub(hub.path if data is None else str(data), hub.config, hub.split)


def _shot_items(
    task: Task, template: Template, data: Path | None, shots_data: Path | None, rows: _Rows
) -> list[Item]:
    """Rows that may be shots, wherever they are."""
    kept = [item for _, item in rows.items if item.split == "shots"]
    if shots_data is None and kept:
        return kept
    found = _shot_rows(task, data, shots_data)
    return [item for _, item in _parse(found, task, template).items]


def _shot_rows(task: Task, data: Path | None, shots_data: Path | None) -> Iterator[Row]:
    hub = task.hub
    if shots_data is not None and not shots_data.is_dir():
        return read_file(shots_data)
    if hub is not None and hub.shots_split is not None:
        config = hub.config if hub.shots_path is None else hub.shots_config
        if shots_data is not None:
            return read_hub(str(shots_data), config, hub.shots_split)
        if data is None:
            return read_hub(hub.shots_path or hub.path, config, hub.shots_split)
        if data.is_dir() and hub.shots_path is None:
            return read_hub(str(data), config, hub.shots_split)
    raise UserError(
        f"{task.name} needs shots: give --shots-data FILE with rows that are not asked, e.g. the "
        "training split, or --shots 0"
    )


def _parse(rows: Iterable[Row], task: Task, template: Template) -> _Rows:
    """Rows as items in the style's form; what cannot be asked is set aside."""
    items: list[tuple[str, Item]] = []
    set_aside: list[SetAside] = []
    rewrite: Callable[[Item], Item] = template.rewrite or (lambda item: item)
    for where, row in rows:
        try:
            if isinstance(row, BadRowError):
                raise row
            items.append((where, rewrite(task.parse(row))))
        except (RecursionError, MemoryError):
            detail = "its values or its code are nested too deeply"
            set_aside.append(SetAside(where=where, reason="nested too deeply", detail=detail))
        except BadRowError as bad:
            detail = bad.detail.encode("utf-8", "backslashreplace").decode()
            set_aside.append(SetAside(where=where, reason=bad.reason, detail=detail))
    return _Rows(items, set_aside)


def _asked_text(template: Template, item: Item) -> str:
    return template.ask.replace("{question}", item.question)


def _shot_text(template: Template, item: Item) -> str:
    return (
        _asked_text(template, item) + template.lead + item.answer + template.end + template.between
    )


def _problems(
    task: Task, template: Template, asked: list[tuple[str, Item]], shots: tuple[str, ...]
) -> Iterator[Problem]:
    """One problem an item; a name that came before gets its place behind it."""
    seen: set[str] = set()
    before = template.preamble + "".join(shots)
    for number, (_, item) in enumerate(asked):
        name = item.id or f"{task.name}/{number}"
        if name in seen:
            name = f"{name}#{number}"
        seen.add(name)
        choices = item.choices and tuple(template.lead + choice for choice in item.choices)
        yield Problem(
            id=name,
            task=task.name,
            prompt=before + _asked_text(template, item),
            answer=template.lead + item.answer,
            golds=item.golds,
            choices=choices,
            program=item.program,
            head=item.head,
            preamble=template.preamble,
            shots=shots,
        )


def problems_digest(problems: Sequence[Problem]) -> str:
    """Sixteen hex digits of everything that is asked and compared."""
    state = hashlib.sha256()
    for problem in problems:
        parts = (problem.id, problem.prompt, problem.answer, *problem.golds)
        more = (*(problem.choices or ()), problem.program or "", problem.head)
        for part in (*parts, *more):
            state.update(len(part.encode()).to_bytes(8, "big") + part.encode())
    return state.hexdigest()[:DIGEST_DIGITS]
