"""Every law says what its paper says: coefficients, limits, worked examples, and one form for all uses."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.analysis.laws import LAWS, find_law
from isoflop.analysis.laws.abnar import PUBLISHED as ABNAR
from isoflop.analysis.laws.abnar import abnar_loss
from isoflop.analysis.laws.chinchilla import (
    BESIROGLU,
    HOFFMANN,
    chinchilla_loss,
    chinchilla_optimum,
)
from isoflop.analysis.laws.clark import (
    HASH,
    RL_R,
    S_BASE,
    clark_cutoff,
    clark_loss,
    effective_experts,
)
from isoflop.analysis.laws.draw import DESIGNS, draw_table
from isoflop.analysis.laws.joint import joint_loss, joint_reduced
from isoflop.analysis.laws.kaplan import TABLE_2, kaplan_loss
from isoflop.analysis.laws.krajewski import DENSE, MOE, krajewski_loss
from isoflop.analysis.laws.law import published_values
from isoflop.analysis.laws.ling import PUBLISHED as LING_PUBLISHED
from isoflop.analysis.laws.ling import ling_best_granularity, ling_leverage
from isoflop.config import UserError

NEAR = pytest.approx


def one(*values):
    return [np.array([float(value)]) for value in values]


def grid(law, number=40, seed=0):
    """Random inputs within a law's own design."""
    generator = np.random.default_rng(seed)
    return {
        given_.name: np.exp(
            generator.uniform(
                np.log(max(min(DESIGNS[law.name][given_.name]), 1e-3)),
                np.log(max(DESIGNS[law.name][given_.name])),
                number,
            )
        )
        for given_ in law.inputs
    }


SLOW = {
    ("kaplan", "table 2"): lambda x: kaplan_loss(x["N"], x["D"]),
    ("chinchilla", "hoffmann"): lambda x: chinchilla_loss(x["N"], x["D"]),
    ("chinchilla", "besiroglu"): lambda x: chinchilla_loss(x["N"], x["D"], **BESIROGLU),
    ("clark", "s-base"): lambda x: clark_loss(x["N"], x["E"]),
    ("clark", "rl-r"): lambda x: clark_loss(x["N"], x["E"], **RL_R),
    ("clark", "hash"): lambda x: clark_loss(x["N"], x["E"], **HASH),
    ("krajewski", "moe"): lambda x: krajewski_loss(x["N"], x["D"], x["G"]),
    ("krajewski", "dense"): lambda x: krajewski_loss(x["N"], x["D"], x["G"], **DENSE),
    ("joint", "joint"): lambda x: joint_loss(x["N"], x["D"], x["E"]),
    ("abnar", "abnar"): lambda x: abnar_loss(x["N"], x["D"], x["S"]),
    ("ling", "ling"): lambda x: ling_leverage(x["A"], x["G"], x["C"]),
}
"""Each published set as the formula of its paper, written out."""


@pytest.mark.parametrize(("law", "name"), SLOW, ids="-".join)
def test_the_form_that_fits_use_is_the_papers_formula(law, name):
    found = find_law(law)
    inputs = grid(found)
    values = published_values(found, name).values
    np.testing.assert_allclose(found.predict(inputs, values), SLOW[law, name](inputs), rtol=1e-9)


def test_every_published_set_of_every_law_is_compared():
    assert set(SLOW) == {(law.name, name) for law in LAWS.values() for name in law.published}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_to_linear_and_back_is_the_same(law):
    values = published_values(law).values
    back = law.from_linear(law.to_linear(values))
    assert back == {name: NEAR(values[name]) for name in back}


def test_kaplan_tends_to_its_two_limits():
    n, d = TABLE_2["N_c"], TABLE_2["D_c"]
    assert kaplan_loss(*one(n, 1e300))[0] == NEAR(1.0)
    assert kaplan_loss(*one(1e300, d))[0] == NEAR(1.0)
    # Doubling N at unlimited data multiplies the loss by 2^-alpha_N = 0.95 (section 1.2).
    ratio = kaplan_loss(*one(2e9, 1e300))[0] / kaplan_loss(*one(1e9, 1e300))[0]
    assert ratio == NEAR(2**-0.076)
    assert round(ratio, 2) == 0.95


def test_chinchilla_by_hand_and_at_its_optimum():
    by_hand = 1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28
    assert chinchilla_loss(*one(70e9, 1.4e12))[0] == NEAR(by_hand)
    for values in (HOFFMANN, BESIROGLU):
        law = {name: value for name, value in values.items() if name != "E"}
        best = chinchilla_optimum(1e21, **law)
        assert 6 * best.parameters * best.tokens == NEAR(1e21)
        least = chinchilla_loss(*one(best.parameters, best.tokens), **values)[0]
        for factor in (0.9, 1.1):
            other = chinchilla_loss(*one(best.parameters * factor, best.tokens / factor), **values)
            assert other[0] > least


def test_exponents_of_the_two_chinchillas_are_those_that_are_cited():
    share = [v["beta"] / (v["alpha"] + v["beta"]) for v in (HOFFMANN, BESIROGLU)]
    # 0.45 with the printed exponents, 0.5126 in the refit (arXiv:2404.10102).
    assert share == [NEAR(0.4516, abs=1e-4), NEAR(0.5126, abs=1e-4)]


def test_clarks_effective_experts_begin_and_end_where_the_paper_says():
    for values in (S_BASE, RL_R, HASH):
        ends = effective_experts(np.array([1.0, 1e12]), values["E_start"], values["E_max"])
        assert ends.tolist() == [NEAR(values["E_start"]), NEAR(values["E_max"])]


@pytest.mark.parametrize(
    ("values", "billions"), [(S_BASE, 937), (RL_R, 85), (HASH, 83)], ids=["s-base", "rl-r", "hash"]
)
def test_clarks_cut_offs_lie_within_the_rounding_of_the_printed_c(values, billions):
    low, high = (
        clark_cutoff(b=values["b"], c=values["c"] + half) / 1e9 for half in (0.0005, -0.0005)
    )
    assert low < billions < high
    size = clark_cutoff(b=values["b"], c=values["c"])
    few, many = clark_loss(np.array([size, size]), np.array([2.0, 256.0]), **values)
    assert few == NEAR(many)


def test_krajewski_by_hand_and_dense_has_no_granularity():
    by_hand = 0.47 + (2.1 / 8**0.58 + 18.1) / 1e9**0.115 + 30.8 / 2e10**0.147
    assert krajewski_loss(*one(1e9, 2e10, 8))[0] == NEAR(by_hand)
    assert MOE["g"] > 0
    dense = krajewski_loss(np.full(2, 1e9), np.full(2, 2e10), np.array([1.0, 16.0]), **DENSE)
    assert dense[0] == dense[1]


@pytest.mark.parametrize(
    ("experts", "m", "mu", "n", "nu"),
    [
        (1, 30.364, -0.1817, 53.984, -0.1965),
        (8, 21.833, -0.1676, 119.91, -0.2338),
        (32, 16.542, -0.1557, 234.67, -0.2652),
    ],
)
def test_the_joint_laws_reduced_table(experts, m, mu, n, nu):
    found = joint_reduced(float(experts))
    assert (found.m, found.n) == (NEAR(m, rel=3e-3), NEAR(n, rel=3e-3))
    assert (found.mu, found.nu) == (NEAR(mu, abs=2e-4), NEAR(nu, abs=2e-4))
    by_reduced = m * 1e9**mu + n * 5e10**nu + 1.3637
    assert joint_loss(*one(1e9, 5e10, experts))[0] == NEAR(by_reduced, abs=3e-3)


def test_abnar_by_hand():
    n, d, s = 4e9, 3e10, 0.75
    by_hand = (
        16612.50 / n**0.5962
        + 5455.67 / d**0.3954
        + 0.4598 / 0.25**-0.1666
        + 17.26 / (0.25**0.1603 * n**0.1595)
        + 0.94
    )
    assert abnar_loss(*one(n, d, s))[0] == NEAR(by_hand)
    assert len(ABNAR) == 10


def test_lings_two_published_results_hold_with_the_inferred_logarithms():
    assert 8 <= ling_best_granularity() <= 12
    assert ling_leverage(*one(0.031, 12, 1e22))[0] == NEAR(7, rel=0.05)
    # A dense model has the leverage of itself.
    assert ling_leverage(*one(1, 1, 1e20))[0] == NEAR(1, abs=0.02)
    best = ling_best_granularity()
    around = ling_leverage(np.full(3, 0.05), np.array([best / 2, best, best * 2]), np.full(3, 1e21))
    assert around.argmax() == 1


def test_of_the_usual_bases_lings_results_come_out_with_two_alone():
    """log10 of C and log2 of G: what the module says of the other eight pairs."""
    at = LING_PUBLISHED
    near = []
    for base_c, base_g in itertools.product((2, math.e, 10), repeat=2):
        best = base_g ** (-at["beta"] / (2 * at["gamma"]))
        fine, flops = math.log(12, base_g), math.log(1e22, base_c)
        power = at["a"] + at["d"] * flops + at["gamma"] * fine**2 + at["beta"] * fine
        leverage = (0.031 + at["A_start"]) ** power
        assert (leverage > 4000) == (base_c != 10)
        if 8 <= best <= 12 and abs(leverage - 7) < 0.5:
            near.append((base_c, base_g))
    assert near == [(10, 2)]


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_law_has_source_ranges_and_inputs_that_tables_have(law):
    assert "arXiv:" in law.source
    assert law.caution
    values = published_values(law).values
    assert set(law.coefficient_names) <= set(values)
    for exponent in law.exponents:
        for known in law.published.values():
            inside = law.to_linear(known.values)[exponent.name]
            assert exponent.low <= inside <= exponent.high
    outside = law.outside({given_.name: np.array([1e30]) for given_ in law.inputs})
    assert bool(outside) == any(given_.valid for given_ in law.inputs)


def test_names_that_are_no_law_or_no_coefficients_list_those_there_are():
    with pytest.raises(UserError, match="law 'hoffman' must be one of kaplan, chinchilla"):
        find_law("hoffman")
    with pytest.raises(UserError, match="it has hoffmann, besiroglu"):
        published_values(find_law("chinchilla"), "epoch")


@settings(max_examples=25)
@given(st.sampled_from(sorted(LAWS)), st.integers(0, 1000))
def test_tables_drawn_without_noise_hold_the_law_itself(name, seed):
    law = LAWS[name]
    table = draw_table(law, published_values(law).values, noise=0.0, num_seeds=2, seed=seed)
    column = "efficiency_leverage" if law.response != "loss" else "train_loss"
    values = table.number(column)
    half = len(values) // 2
    np.testing.assert_array_equal(values[:half], values[half:])
    assert len(values) == 2 * math.prod(len(v) for v in DESIGNS[name].values())
