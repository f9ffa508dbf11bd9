"""Who is compared, who is not and why, and that batches can be learned."""

import math

import pytest
import torch

from isoflop.bench.contestants import Contestant, build, check_peers, contestants, skip_reason
from isoflop.bench.shapes import SPEED_SHAPES, Shape, chosen_shapes, cpu_model
from isoflop.bench.text import Text
from isoflop.config import UserError

SMALL = Shape(name="small", model=cpu_model(32, 1, 4), batch_sequences=2, device="cpu")
SHAPES = {shape.name: shape for shape in SPEED_SHAPES}


def batched(precision: str) -> Contestant:
    return Contestant(family="transformers", experts="batched_mm", precision=precision)


def test_weights_copied_for_every_row_are_counted_before_they_are_made():
    assert skip_reason(batched("float32"), SMALL) is None
    # 8 layers x 2,048 tokens x 2 experts x 3 x 256 x 512 x 4 bytes.
    assert "52 GB a step" in skip_reason(batched("float32"), SHAPES["d256-L8-E16-k2"])
    assert "26 GB a step" in skip_reason(batched("bfloat16"), SHAPES["d256-L8-E16-k2"])
    grouped = Contestant(family="transformers", experts="grouped_mm", precision="float32")
    assert skip_reason(grouped, SHAPES["d256-L8-E16-k2"]) is None


def test_each_family_is_tried_in_each_precision():
    found = contestants(SMALL, ["eager"])
    assert {one.precision for one in found if one.family == "transformers"} == {
        "float32",
        "bfloat16",
        "bfloat16 autocast",
    }
    assert {one.precision for one in found if one.family == "ours"} == {"float32", "bfloat16"}
    assert len({one.name for one in found}) == len(found)
    assert {one.family for one in contestants(SMALL, [])} == {"ours"}


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(UserError, match="no peer 'fast'; there are eager, grouped_mm, batched_mm"):
        check_peers(["fast"])
    with pytest.raises(UserError, match="no shape 'd1'; there are d64-L4-E8-k2"):
        chosen_shapes(["d1"], "cpu")


def test_the_shapes_of_a_device_are_the_issues():
    assert [shape.name for shape in chosen_shapes(None, "cuda")] == [
        "d512-L16-E8-k2",
        "d1024-L16-E16-k2",
        "d2048-L16-E8-k2",
    ]
    assert all(s.model.sequence_length == 4096 for s in chosen_shapes(None, "cuda"))
    assert all(s.model.head_width == 128 for s in chosen_shapes(None, "cuda"))
    assert all(s.batch_tokens == 2048 for s in chosen_shapes(None, "cpu"))
    assert SHAPES["demo"].model.num_experts == 64


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_families_begin_at_the_same_weights_and_learn_alike(precision):
    text = Text(SMALL.model.vocabulary_size)
    losses = []
    for family, experts in (("ours", "grouped"), ("transformers", "grouped_mm")):
        one = Contestant(family=family, experts=experts, precision=precision)
        step = build(one, SMALL, "cpu")
        losses.append([step(text.batch(n, sequences=2, length=64)) for n in range(4)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)
    assert losses[0][0] == pytest.approx(math.log(512), abs=0.05)
    assert losses[0][3] < losses[0][0] - 0.01


def test_a_text_is_a_function_of_its_seed_and_number_and_can_be_learned():
    text = Text(100)
    batch = text.batch(3, sequences=50, length=200)
    assert torch.equal(batch, Text(100).batch(3, sequences=50, length=200))
    assert not torch.equal(batch, text.batch(4, sequences=50, length=200))
    assert not torch.equal(batch, Text(100, seed=1).batch(3, sequences=50, length=200))
    assert batch.shape == (50, 201)
    assert 0 <= int(batch.min()) <= int(batch.max()) < 100
    # Half of all tokens are their predecessor's most usual successor, and more by chance.
    pairs = torch.zeros(100, 100)
    pairs.index_put_((batch[:, :-1].flatten(), batch[:, 1:].flatten()), torch.ones(()), True)
    assert float(pairs.max(dim=1).values.sum() / pairs.sum()) > 0.45
