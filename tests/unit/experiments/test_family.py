"""Laws of a small family: one thing varies, the rest is held fixed."""

import pytest

from fakes import tiny_model, tiny_train
from isoflop.config import UserError
from isoflop.corpus.config import Corpus, PhoneBookProbe
from isoflop.experiments import ladder, small_family
from isoflop.model.count import active_params, total_params

BASE = tiny_model(num_experts=2)


def test_cells_of_a_ladder_differ_in_experts_alone():
    cells = ladder(BASE, (8, 2, 4))
    assert [cell.name for cell in cells] == ["E2-k2", "E4-k2", "E8-k2"]
    assert {active_params(cell.model) for cell in cells} == {active_params(BASE)}
    totals = [total_params(cell.model) for cell in cells]
    assert totals == sorted(set(totals))


def test_the_finer_cell_differs_in_top_k_alone():
    cells = {cell.name: cell.model for cell in ladder(BASE, (2, 8), finer=8)}
    coarse, fine = cells["E8-k2"], cells["E16-k4"]
    assert fine.density == coarse.density
    assert active_params(fine) == active_params(coarse)
    router = BASE.num_layers * BASE.d_model
    assert total_params(fine) - total_params(coarse) == 8 * router


def made(**changes):
    return small_family(
        name="a",
        summary="b",
        corpus=Corpus(sources=(PhoneBookProbe(),)),
        train=tiny_train(),
        **changes,
    )


def test_the_family_takes_its_shape_from_its_arguments():
    experiment = made(num_experts=(4, 8), d_model=64, num_layers=3, init_std=0.1, seeds=(5, 6))
    experiment.check_vocabulary()
    for cell in experiment.cells:
        model = cell.model
        assert (model.d_model, model.num_layers, model.init_std) == (64, 3, 0.1)
        assert (model.num_heads, model.d_expert, model.sequence_length) == (4, 128, 32)
    assert experiment.seeds == (5, 6)


def test_top_k_one_needs_another_router_and_says_so():
    with pytest.raises(UserError, match="softmax_then_topk"):
        made(top_k=1)
