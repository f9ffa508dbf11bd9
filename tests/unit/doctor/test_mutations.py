"""A planted bug for every law, in the model's own code: the law fails, and without the bug it passes."""

import pytest

import planted_bugs
from fakes_doctor import ours
from isoflop.doctor.law import Law, judge
from isoflop.doctor.laws import LAWS
from isoflop.model import router, transformer
from planted_bugs import MUTATIONS, replace

BY_NAME = {law.name: law for law in LAWS}


def test_every_law_has_a_planted_bug():
    assert list(MUTATIONS) == [law.name for law in LAWS]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_a_planted_bug_breaks_its_law(law: Law, monkeypatch):
    assert judge(law, ours(), 0).verdict == "pass"
    MUTATIONS[law.name](monkeypatch)
    row = judge(law, ours(), 0)
    assert row.verdict == "fail", row
    assert row.law == law.name


@pytest.mark.parametrize(
    ("law", "bug"),
    [
        ("gradient-is-the-slope", planted_bugs.hidden_gradient_doubled),
        ("gradient-is-the-slope", planted_bugs.value_gradient_halved),
        ("gradient-is-the-slope", planted_bugs.gate_weights_detached),
        ("every-weight-learns", planted_bugs.gate_weights_detached),
        ("z-loss-coefficient-acts", planted_bugs.z_detached),
        ("z-loss-coefficient-acts", planted_bugs.z_coefficient_ignored),
    ],
)
@pytest.mark.parametrize("init_std", [0.1, 0.02])
def test_other_bugs_of_gradients_are_seen_too(law, bug, init_std, monkeypatch):
    """Also where weights are as small as training begins with."""
    bug(monkeypatch)
    assert judge(BY_NAME[law], ours(init_std=init_std), 0).verdict == "fail"


def test_gradients_that_grew_are_not_hidden_by_a_loss_of_the_right_value(monkeypatch):
    """The loss's value is right, its gradient 180,000 times too strong: only the slope tells."""
    original = router.balance_loss

    def balance_loss(*given):
        value = original(*given)
        return value + 180_000 * (value - value.detach())

    replace(monkeypatch, original, balance_loss)
    assert judge(BY_NAME["even-use-costs-one"], ours(), 0).verdict == "pass"
    row = judge(BY_NAME["balance-gradient"], ours(), 0)
    assert row.verdict == "fail"
    assert row.value == pytest.approx(180_001, rel=1e-2)


def test_layers_whose_counts_are_left_out_are_seen(monkeypatch):
    original = router.stack_layers
    replace(monkeypatch, original, lambda layers: original(layers[:1]))
    assert judge(BY_NAME["counts-add-up"], ours(), 0).verdict == "fail"


def test_counts_doubled_by_recomputation_are_seen(monkeypatch):
    def checkpoint_twice(layer, *given, **options):
        x, delta, statistics = layer(*given)
        return x, delta, statistics._replace(counts=2 * statistics.counts)

    monkeypatch.setattr(transformer, "checkpoint", checkpoint_twice)
    row = judge(BY_NAME["recomputation-keeps-gradient"], ours(), 0)
    assert row.verdict == "fail"
    assert "1024 instead of 512" in row.reason
