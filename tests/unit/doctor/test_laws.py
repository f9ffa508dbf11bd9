"""Every law holds on our model in many shapes, and a verdict is never kinder than the measurement."""

import dataclasses
import math

import pytest

from fakes_doctor import ours
from isoflop.doctor.law import Law, Measurement, judge
from isoflop.doctor.laws import LAWS, examine
from isoflop.doctor.subject import NotApplicableError

SHAPES: dict[str, dict[str, object]] = {
    "E8 k2": {},
    "E8 k1, softmax first": {"top_k": 1, "router_order": "softmax_then_topk"},
    "E7 k3, three layers, shared keys": {
        "num_experts": 7,
        "top_k": 3,
        "num_layers": 3,
        "num_key_value_heads": 2,
    },
    "E24 k4": {"num_experts": 24, "top_k": 4},
    "E2 k1, one layer": {
        "num_experts": 2,
        "top_k": 1,
        "num_layers": 1,
        "router_order": "softmax_then_topk",
    },
    "dense": {"num_experts": 4, "top_k": 4},
    "one expert": {"num_experts": 1, "top_k": 1},
    "widths that grouped products refuse": {"d_model": 18, "num_heads": 1, "d_expert": 10},
    "short sequences": {"sequence_length": 5},
}

NEEDS_CHOICE = {
    "balance-definition",
    "balance-rises",
    "layers-do-not-cancel",
    "balance-gradient",
    "balance-coefficient-acts",
    "balance-acts-as-configured",
    "accumulation-keeps-balance",
    "ranks-keep-balance",
    "idle-experts-learn-nothing",
}
"""Laws that say nothing where every token sees every expert."""


@pytest.mark.parametrize("shape", SHAPES)
def test_our_model_keeps_every_law(shape):
    """Whatever the seed, and is left as it was."""
    subject = ours(**SHAPES[shape])
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    rows = examine(subject, seed=len(shape))
    after = subject.model.state_dict()
    assert before.keys() == after.keys()
    assert all(after[name].equal(before[name]) for name in before)
    assert all(parameter.grad is None for parameter in subject.model.parameters())
    assert [row.law for row in rows] == [law.name for law in LAWS]
    broken = [row for row in rows if row.verdict in ("fail", "error")]
    assert not broken, broken
    left_out = {row.law for row in rows if row.verdict == "not applicable"}
    expected = NEEDS_CHOICE if subject.shape.top_k == subject.shape.num_experts else set()
    if "softmax first" in shape or "one layer" in shape:
        # A Mixtral knows the other order only.
        expected = expected | {"conversion-keeps-logits"}
    if subject.shape.num_layers == 1:
        expected = expected | {"layers-do-not-cancel"}
    assert left_out == expected


def test_a_large_model_is_examined_on_a_small_one_where_gradients_are_needed(monkeypatch):
    monkeypatch.setattr("isoflop.doctor.laws.LARGEST_TRAINED", 1000)
    rows = {row.law: row for row in examine(ours(num_layers=3), seed=0)}
    assert {row.verdict for row in rows.values()} == {"pass"}
    for law in LAWS:
        small = "2 layers of width 64" in (rows[law.name].reason or "")
        assert small == law.trains, law.name


def law_that_measures(value: float, expected: float = 0.0, tolerance: float = 0.5) -> Law:
    return dataclasses.replace(
        LAWS[0],
        tolerance=tolerance,
        check=lambda subject, seed: Measurement(value=value, expected=expected),
    )


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (0.0, "pass"),
        (0.5, "pass"),
        (-0.5, "pass"),
        (0.51, "fail"),
        (-0.51, "fail"),
        (math.nan, "fail"),
        (math.inf, "fail"),
        (-math.inf, "fail"),
    ],
)
def test_only_a_finite_value_within_the_tolerance_passes(value, verdict):
    row = judge(law_that_measures(value), ours(), 0)
    assert row.verdict == verdict
    assert row.value == (value if math.isfinite(value) else None)


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("odd"), KeyError("odd")])
def test_a_law_that_raises_is_an_error_and_never_a_pass(error):
    def check(subject, seed):
        raise error

    row = judge(dataclasses.replace(LAWS[0], check=check), ours(), 0)
    assert (row.verdict, row.value) == ("error", None)
    assert type(error).__name__ in row.reason
    assert "odd" in row.reason


def test_a_law_without_meaning_says_why():
    def check(subject, seed):
        raise NotApplicableError("no such thing")

    row = judge(dataclasses.replace(LAWS[0], check=check), ours(), 0)
    assert (row.verdict, row.reason) == ("not applicable", "no such thing")


def test_every_law_is_told_in_full():
    assert len({law.name for law in LAWS}) == len(LAWS)
    for law in LAWS:
        assert law.meaning.endswith("."), law.name
        assert law.tolerance >= 0
        assert "/" in law.catches, "the bug's repository"
        assert ": " in law.catches, "what the bug was"
