"""Laws of attention by the kernels: the definition, however long, however it is cut."""

import math
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isoflop.model.ops import attention as attention_module
from isoflop.model.ops import native, reference
from isoflop.model.ops.build import native_available
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
