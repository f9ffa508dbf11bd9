"""Laws of the experiment: what it refuses."""

import dataclasses

import pytest

from fakes import tiny_experiment, tiny_model, tiny_train
from isoflop.config import UserError
from isoflop.design.family import Cell
from isoflop.tokens.config import TokenizerConfig


def cell(name: str = "a", **changes) -> Cell:
    return Cell(name=name, model=tiny_model(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cells": ()}, "needs at least one cell and one seed"),
        ({"seeds": ()}, "needs at least one cell and one seed"),
        ({"seeds": (1, 2, 1)}, "seeds must differ and be 0 or more, got (1, 2, 1)"),
        ({"cells": (cell("a"), cell("a", num_experts=8))}, "different names, got a, a"),
        ({"train": tiny_train(sequence_length=64)}, "sequence_length=32 must be at least"),
        ({"cells": (cell("a"), cell("b", d_expert=64))}, "cannot be compared: active parameters"),
        ({"active_tolerance": -1.0}, "must be 0 or above"),
    ],
)
def test_what_cannot_be_a_study_is_refused(tmp_path, changes, said):
    with pytest.raises(UserError) as raised:
        tiny_experiment(tmp_path, **changes)
    assert said in str(raised.value)


def test_without_a_tolerance_unlike_cells_may_stand_side_by_side(tmp_path):
    cells = (cell("a"), cell("b", d_expert=64))
    assert tiny_experiment(tmp_path, cells=cells, active_tolerance=None).cells == cells


def test_a_vocabulary_other_than_the_tokenizers_is_refused(tmp_path):
    experiment = tiny_experiment(tmp_path)
    experiment.check_vocabulary()
    other = TokenizerConfig(vocabulary_size=300, pad_to_multiple=32)
    with pytest.raises(UserError, match="vocabulary_size=288 must be the tokenizer's 320"):
        dataclasses.replace(experiment, tokenizer=other).check_vocabulary()
