"""Laws of attention by the kernels: the definition, however long, however it is cut."""

import dataclasses
import math
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoflop.model.ops import attention as attention_module
from isoflop.model.ops import attention_float32, native, reference
from isoflop.model.ops.build import native_available
from isoflop.model.packed import pack
from near_truth import (
    BAD,
    assert_near,
    doubled,
    dtypes,
    generator,
    quickly,
    results,
    rows_with,
    seeds,
    strided,
)

pytestmark = pytest.mark.skipif(not native_available(), reason="no C compiler")


def in_blocks_of(num_bytes: int) -> Any:
    return mock.patch.object(attention_module, "ATTENTION_BLOCK_BYTES", num_bytes)


@settings(quickly, max_examples=200)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 20),
    key_value_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    width=st.integers(1, 9),
    num_documents=st.sampled_from([None, 1, 3]),
    block_bytes=st.sampled_from([1, 500, 2000, 1 << 22]),
    dtype=dtypes,
    seed=seeds,
)
def test_attention(
    batch, length, key_value_heads, groups, width, num_documents, block_bytes, dtype, seed
):
    source = generator(seed)
    shapes = [(batch, key_value_heads * groups, length, width)]
    shapes += [(batch, key_value_heads, length, width)] * 2
    leaves = [torch.randn(shape, generator=source).to(dtype) for shape in shapes]
    documents = None
    if num_documents is not None:
        # Numbers in any order: a document may come back.
        documents = strided(torch.randint(num_documents, (batch, length), generator=source))
    with in_blocks_of(block_bytes):
        ours = results(lambda *x: [native.attention(*x, documents)], leaves, (True,), seed)
    theirs = results(lambda *x: [stored_attention(*x, documents)], leaves, (True,), seed)
    truth = results(lambda *x: [reference.attention(*x, documents)], doubled(leaves), (True,), seed)
    # Slopes are stored rounded before a sum is taken off them, which must cancel in one token.
    assert_near(ours, theirs, truth, dtype, roundings=8)


def stored_attention(query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None) -> Tensor:
    """Attention whose scores are stored in the products' precision, as the kernels' are."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    none = torch.zeros(query.shape[0], query.shape[2], dtype=torch.long)
    mask = reference.document_mask(none if documents is None else documents)
    scores = (query @ key.mT).float() * query.shape[-1] ** -0.5
    share = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
    return share.to(query.dtype) @ value


def test_documents_of_any_whole_number_type_are_read_as_numbers():
    leaves = [torch.randn(2, 2, 9, 4, generator=generator(seed)) for seed in range(3)]
    documents = torch.tensor([[0] * 4 + [1] * 5, [3] * 9])
    expected = native.attention(*leaves, documents)
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(native.attention(*leaves, documents.to(dtype)), expected)


def test_attention_keeps_large_scores_apart_and_never_sees_other_documents():
    """Scores of +-1e4 would overflow e^x; a hidden key of the largest score has no share."""
    query = torch.full((1, 1, 3, 4), 100.0)
    key = torch.stack([torch.full((4,), place) for place in (100.0, -100.0, 99.0)])[None, None]
    value = torch.eye(3)[:, :].repeat(1, 2)[None, None, :, :4].contiguous()
    out = native.attention(query, key, value, None)
    torch.testing.assert_close(out, reference.attention(query, key, value, None))
    documents = torch.tensor([[0, 1, 1]])
    out = native.attention(query, key, value, documents)
    assert torch.equal(out[0, 0, 1], value[0, 0, 1])
    assert out[0, 0, 2, 0] == 0  # Not even e^-87.


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("block_bytes", [1, 1 << 22])
def test_attention_hands_on_what_is_not_finite(part, bad, block_bytes):
    """To every position that sees it, by a sum over what each position sees."""
    query, key, value = (torch.randn(6, 3, generator=generator(seed)) for seed in range(3))
    (query, key, value)[part][2, 1] = bad
    with in_blocks_of(block_bytes):
        found = native.attention(*(leaf[None, None] for leaf in (query, key, value)), None)[0, 0]
    for place in range(6):
        seen = slice(0, place + 1)
        share = (key[seen] @ query[place] / 3**0.5).softmax(dim=0)
        if not (share @ value[seen]).isfinite().all():
            assert not found[place].isfinite().all(), place
    if math.isnan(bad):
        assert rows_with(found)[2:].tolist() == [True] + [part > 0] * 3


@settings(quickly, max_examples=30)
@given(
    batch=st.integers(1, 2),
    length=st.sampled_from([1, 2, 31, 33, 48, 49, 97, 130]),
    heads=st.integers(1, 2),
    width=st.sampled_from([2, 6, 16, 32, 34, 64]),
    num_documents=st.sampled_from([None, 1, 4]),
    scale=st.sampled_from([1.0, 3.0]),
    small=st.booleans(),
    seed=seeds,
)
def test_bfloat16_scores_by_tiles_are_as_near_as_torchs(
    batch, length, heads, width, num_documents, scale, small, seed
):
    """Several groups of queries, and lengths about the size of a tile."""
    if not attention_module.tiles_available():
        return
    source = generator(seed)
    shape = (batch, heads, length, width)
    leaves = [scale * torch.randn(shape, generator=source) for _ in range(2)]
    leaves = [leaf.bfloat16() for leaf in [*leaves, torch.randn(shape, generator=source)]]
    documents = None
    if num_documents is not None:
        documents = torch.randint(num_documents, (batch, length), generator=source)
        documents = documents.sort(dim=-1).values if small else documents
    ways = (native, reference, reference)
    given = (leaves, leaves, doubled(leaves))
    with mock.patch.object(attention_module, "TILE_SCORES", 1 if small else 1 << 16):
        ours, theirs, truth = (
            results(lambda *x, way=way: [way.attention(*x, documents)], values, (True,), seed)
            for way, values in zip(ways, given, strict=True)
        )
    for place, (mine, other, exact) in enumerate(zip(ours, theirs, truth, strict=True)):
        errors = [(one.double() - exact).norm().item() for one in (mine, other)]
        # Of one or two tokens gradients cancel, and the rounding of their terms is left.
        terms = scale * exact.numel() ** 0.5 / 2 if length < 3 else 0.0
        allowed = 1.3 * errors[1] + 2**-7 * max(exact.norm().item(), terms)
        assert errors[0] <= allowed, f"place {place}: {errors} of {exact.norm()}"


def filled_room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Room that holds what must not be read."""
    return torch.full(shape, math.nan if dtype.is_floating_point else 7, dtype=dtype)


def in_groups_of(group: int, scores: int) -> Any:
    return mock.patch.multiple(
        attention_float32, GROUP=group, FORWARD_SCORES=scores, room=filled_room
    )


def cancelling(width: int) -> float:
    """Scale of values at which what cancels in a slope is of order 1, as with few columns."""
    return min(1.0, (9 / width) ** 0.5)


groups_of = st.sampled_from([(8, 1), (24, 1 << 12), (64, 1 << 15)])


@settings(quickly, max_examples=100)
@given(
    batch=st.integers(1, 3),
    length=st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 96, 97, 150])),
    key_value_heads=st.integers(1, 2),
    sharing=st.integers(1, 3),
    width=st.sampled_from([16, 32, 48, 64, 80]),
    num_documents=st.sampled_from([None, 1, 3, 8]),
    in_order=st.booleans(),
    groups=groups_of,
    seed=seeds,
)
def test_float32_scores_in_the_cache_are_the_definition(
    batch, length, key_value_heads, sharing, width, num_documents, in_order, groups, seed
):
    source = generator(seed)
    shapes = [(batch, key_value_heads * sharing, length, width)]
    shapes += [(batch, key_value_heads, length, width)] * 2
    leaves = [torch.randn(shape, generator=source) for shape in shapes]
    leaves[2] *= cancelling(width)
    documents = None
    if num_documents is not None:
        documents = torch.randint(num_documents, (batch, length), generator=source)
        documents = documents.sort(dim=-1).values if in_order else documents
    refuse = AssertionError("batched products were made")
    with (
        in_groups_of(*groups),
        mock.patch.object(attention_module, "call", side_effect=refuse),
    ):
        ours = results(lambda *x: [native.attention(*x, documents)], leaves, (True,), seed)
    truth = results(lambda *x: [reference.attention(*x, documents)], doubled(leaves), (True,), seed)
    assert_near(ours, ours, truth, torch.float32)


@pytest.mark.parametrize("documents", [None, torch.tensor([[0] * 30 + [1] * 40])])
def test_a_position_has_the_same_bits_whatever_stands_behind_it(documents):
    heads = [torch.randn(1, 2, 70, 32, generator=generator(seed)) for seed in range(3)]
    whole = native.attention(*heads, documents)
    for length in (1, 16, 33, 64, 69):
        head = [part[:, :, :length] for part in heads]
        shorter = native.attention(*head, None if documents is None else documents[:, :length])
        assert torch.equal(shorter, whole[:, :, :length])


def test_scores_far_below_the_largest_have_no_share():
    """Nor a denormal one, by which slow numbers would spread."""
    query = torch.full((1, 1, 40, 16), 10.0)
    key = torch.linspace(10.0, -10.0, 40)[None, None, :, None].repeat(1, 1, 1, 16)
    value = torch.randn(1, 1, 40, 16, generator=generator(0))
    leaves = (query, key, value)
    found = results(lambda *x: [native.attention(*x, None)], leaves, (True,), 0)
    torch.testing.assert_close(found[0], value[:, :, :1].expand_as(value))
    # Each key scores 20 below the one before it: the fourth behind the first has no share left.
    assert not found[3][0, 0, 4:].any()
    assert all(part.isfinite().all() for part in found)


texts = st.lists(
    st.tuples(
        st.integers(0, 1).flatmap(lambda kind: st.just((kind,) * (3 + 20 * kind))),
        st.integers(0, 50).map(lambda count: (2,) * count),
    ),
    min_size=1,
    max_size=5,
)


@settings(quickly, max_examples=60)
@given(
    texts=texts,
    key_value_heads=st.integers(1, 2),
    sharing=st.integers(1, 2),
    width=st.sampled_from([8, 16, 32, 48]),
    groups=groups_of,
    dtype=dtypes,
    seed=seeds,
)
def test_packed_sequences_are_mixed_as_whole_ones(
    texts, key_value_heads, sharing, width, groups, dtype, seed
):
    packing = pack(*zip(*texts, strict=True), torch.device("cpu")).packing
    counts = (key_value_heads * sharing, key_value_heads)
    source, length = generator(seed), packing.spread.shape[1]
    rows = (1, len(packing.places), (counts[0] + 2 * counts[1]) * width)
    leaf = torch.randn(rows, generator=source)
    leaf[..., sum(counts) * width :] *= cancelling(width)
    leaves = [leaf.to(dtype)]
    # One table more than the longest sequence has positions: tables may be longer.
    angles = torch.rand(length + 1, width // 2, generator=source).repeat(1, 2)
    tables = (angles.cos(), angles.sin())

    def way(ops: Any) -> Any:
        return lambda x: [ops.attend_packed(x, *tables, packing, *counts)]

    with in_groups_of(*groups):
        ours = results(way(native), leaves, (True,), seed)
    theirs = results(way(reference), leaves, (True,), seed)
    truth = results(way(reference), doubled(leaves), (True,), seed)
    assert_near(ours, theirs, truth, dtype, roundings=8)


def test_a_packing_that_leads_out_of_memory_is_refused():
    packing = pack([(1,), (1,)], [(2,), (3, 3)], torch.device("cpu")).packing
    rows, tables = torch.zeros(1, 4, 48), torch.ones(2, 3, 16)
    for name in ("spread", "lengths", "firsts"):
        broken = dataclasses.replace(packing, **{name: getattr(packing, name) + 4})
        with pytest.raises(IndexError):
            native.attend_packed(rows, *tables, broken, 1, 1)
