"""Laws of configs: text form, digest, checked changes of one field."""

import dataclasses
import json
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from fakes import tiny_experiment, tiny_model, tiny_train
from isoflop.config import UserError, digest, from_dict, override, to_dict, to_text
from isoflop.experiments import EXPERIMENTS, load_experiment
from isoflop.sweep.config import Experiment


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: float
    kind_of_thing: Literal["round", "square"] = "round"


@dataclass(frozen=True, kw_only=True)
class Other:
    depth: int


@dataclass(frozen=True, kw_only=True)
class Outer:
    label: str
    limit: int | None = None
    path: str | None = None
    pair: tuple[int, float] = (1, 2.0)
    words: tuple[str, ...] = ()
    parts: tuple[Inner | Other, ...] = ()
    main: Inner = Inner(width=1.0)
    exact: bool = False


OUTER = Outer(label="a", parts=(Inner(width=0.5), Other(depth=2)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_survives_its_text(name):
    experiment = load_experiment(name)
    again = from_dict(Experiment, json.loads(to_text(experiment)))
    assert again == experiment
    assert digest(again) == digest(experiment)


def test_text_and_config_are_inverse_with_unions_tuples_and_none():
    assert from_dict(Outer, json.loads(to_text(OUTER))) == OUTER


def test_missing_fields_take_their_defaults():
    assert from_dict(Outer, {"label": "a"}) == Outer(label="a")


OTHER_WORDS = {
    "float32": "bfloat16",
    "grouped": "loop",
    "global": "micro",
    "auto": "torch",
    "none": "layers",
}
"""For fields that take certain words only."""


def changed(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return OTHER_WORDS.get(value, value + "x")
    if isinstance(value, float) and value < 1:
        return value / 2
    return 1 if value is None else value * 2


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(tiny_train())])
def test_the_digest_changes_with_every_field(field):
    train = tiny_train(train_tokens=99_999, resume_seconds=1.0)
    other = replace(train, **{field: changed(getattr(train, field))})
    assert digest(other) != digest(train)


def test_the_digest_changes_with_inputs_and_their_order():
    codes = {digest(OUTER), digest(OUTER, "a", "b"), digest(OUTER, "b", "a"), digest(OUTER, "ab")}
    assert len(codes) == 4


def test_the_digest_knows_classes_with_the_same_fields_apart():
    same = dataclasses.make_dataclass("Same", [("depth", int)], frozen=True, kw_only=True)
    assert digest(same(depth=2)) != digest(Other(depth=2))


def test_the_digest_does_not_depend_on_the_order_of_keys():
    data = to_dict(OUTER)
    turned = {key: data[key] for key in reversed(data)}
    assert digest(from_dict(Outer, turned)) == digest(OUTER)


def test_equal_configs_have_equal_digests_whether_a_float_was_typed_as_int():
    typed, read = Inner(width=1), from_dict(Inner, {"width": 1})
    assert typed == read
    assert digest(typed) == digest(read) == digest(Inner(width=1.0))


def test_pinned_digest():
    """A change of the form would orphan every run folder that exists."""
    assert digest(tiny_model()) == "80012807"


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("label=b=c", {"label": "b=c"}),
        ("label=7", {"label": "7"}),
        ("label=None", {"label": "None"}),
        (" label = b ", {"label": "b"}),
        ("limit=7", {"limit": 7}),
        ("limit=None", {"limit": None}),
        ("path=a/b", {"path": "a/b"}),
        ("path=None", {"path": None}),
        ("pair=(3,4)", {"pair": (3, 4.0)}),
        ("words=('x',)", {"words": ("x",)}),
        ("words=[]", {"words": ()}),
        ("exact=True", {"exact": True}),
        ("main.width=2", {"main": Inner(width=2.0)}),
        ("main.kind_of_thing=square", {"main": Inner(width=1.0, kind_of_thing="square")}),
        ("parts.1.depth=9", {"parts": (Inner(width=0.5), Other(depth=9))}),
        ("parts.0.width=1e-3", {"parts": (Inner(width=1e-3), Other(depth=2))}),
    ],
)
def test_override_changes_one_field_and_nothing_else(assignment, expected):
    assert override(OUTER, assignment) == replace(OUTER, **expected)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("label", "must have the form path=value"),
        ("lable=b", "no field 'lable'; it has label, limit, path, pair, words, parts, main, exact"),
        ("=b", "no field ''"),
        ("main.wide=1", "Inner has no field 'wide'; it has width, kind_of_thing"),
        ("main.width=wide", "expected float, got 'wide'"),
        ("main.width=True", "expected float, got True"),
        ("main.width=1e999", "expected float, got inf"),
        ("main.width.x=1", "nothing lies below"),
        ("main.kind_of_thing=oval", "expected 'round' or 'square', got 'oval'"),
        ("main=3", "expected Inner, got 3"),
        ("limit=1.0", "expected int or None, got 1.0"),
        ("limit=False", "expected int or None, got False"),
        ("limit={[]:1}", "expected int or None"),
        ("limit=" + "-" * 50_000 + "1", "expected int or None"),
        ("exact=1", "expected bool, got 1"),
        ("pair=(1,2,3)", "expected tuple"),
        ("words=('x',2)", "[1]: expected str, got 2"),
        ("parts.2.depth=1", "'2' must be 0 to 1"),
        ("parts.-1.depth=1", "'-1' must be 0 to 1"),
        ("parts.0=1", "give a field after '0', or set the whole tuple"),
    ],
)
def test_a_wrong_override_is_one_line_that_lists_what_is_allowed(assignment, said):
    with pytest.raises(UserError) as raised:
        override(OUTER, assignment)
    text = str(raised.value).replace("override", "").replace(repr(assignment), "")
    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "file.json: Outer lacks the field 'label'"),
        ({"label": "a", "size": 1}, "Outer has no field 'size'"),
        ({"label": 1}, "file.json.label: expected str, got 1"),
        ({"label": "a", "parts": [{"depth": 1}]}, "kind is None; it must be one of Inner, Other"),
        ({"label": "a", "parts": [{"kind": [], "depth": 1}]}, "must be one of Inner, Other"),
        ({"label": "a", "main": {"width": float("nan")}}, "file.json.main.width: expected float"),
        ([], "expected Outer, got []"),
        (None, "expected Outer, got None"),
    ],
)
def test_wrong_data_is_told_with_its_place(data, said):
    with pytest.raises(UserError) as raised:
        from_dict(Outer, data, "file.json")
    assert said in str(raised.value)


def test_override_reaches_every_level_of_an_experiment(tmp_path):
    experiment = tiny_experiment(tmp_path)
    assert override(experiment, "cells.1.model.init_std=1").cells[1].model.init_std == 1.0
    assert override(experiment, "corpus.sources.0.num_items=3").corpus.sources[0].num_items == 3
    assert override(experiment, "seeds=(4,5)").seeds == (4, 5)
    with pytest.raises(UserError, match="top_k=9 must be between 1 and num_experts=4"):
        override(experiment, "cells.1.model.top_k=9")


def test_changes_that_must_fit_each_other_are_made_together():
    train = tiny_train(train_tokens=20 * 256, warmup_steps=10, num_checkpoints=2)
    expected = replace(replace(train, warmup_steps=1), train_tokens=4 * 256, num_checkpoints=4)
    changes = ("train_tokens=1024", "warmup_steps=1", "num_checkpoints=4")
    # In this order and one by one, 4 steps with a warm-up of 10 would be refused.
    assert override(train, *changes) == override(train, *changes[::-1]) == expected
    with pytest.raises(UserError, match="warmup_steps=30 must be less than"):
        override(train, "warmup_steps=30")
