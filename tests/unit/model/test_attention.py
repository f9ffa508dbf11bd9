"""Laws of attention: rotations, masks, and the cache equal to attention without one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from isoflop.model.attention import Attention, rotary_tables
from isoflop.model.config import ModelConfig
from isoflop.model.ops import OpsImplementation, select_ops
from isoflop.model.ops.cached import LayerCache, NewPositions
from isoflop.model.ops.reference import document_mask, rotate

CONFIG = ModelConfig(
    vocabulary_size=8,
    num_layers=1,
    d_model=24,
    num_heads=3,
    d_expert=8,
    num_experts=1,
    top_k=1,
    sequence_length=32,
)


def attention(seed: int = 0, ops: OpsImplementation = "torch") -> Attention:
    module = Attention(CONFIG, select_ops(ops))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in module.parameters():
            weights.normal_(0.0, 0.3, generator=generator)
    return module


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_rotation_keeps_lengths_and_position_zero():
    cosine, sine = rotary_tables(CONFIG, 10)
    x = random(2, 3, 10, 8)
    turned = rotate(x, cosine, sine)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])


def test_products_of_rotated_vectors_depend_on_distance_alone():
    cosine, sine = rotary_tables(CONFIG, 32)
    query, key = random(8, seed=1), random(8, seed=2)
    turned_query = rotate(query.expand(1, 1, 32, 8), cosine, sine)[0, 0]
    turned_key = rotate(key.expand(1, 1, 32, 8), cosine, sine)[0, 0]
    scores = turned_query @ turned_key.T
    for distance in range(-31, 32):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert scores[0].std() > 0.1


def test_angles_by_hand():
    """Pair i of width w turns by position x base^(-2i/w); both halves hold the same angles."""
    cosine, sine = rotary_tables(CONFIG, 3)
    for pair in range(4):
        angle = torch.tensor(2 * 10_000.0 ** (-2 * pair / 8))
        for column in (pair, pair + 4):
            torch.testing.assert_close(cosine[2, column], angle.cos())
            torch.testing.assert_close(sine[2, column], angle.sin())


def test_document_mask_by_hand():
    mask = document_mask(torch.tensor([[7, 7, 9]]))
    assert mask.tolist() == [[[[True, False, False], [True, True, False], [False, False, True]]]]


def test_attention_equals_the_slow_sum():
    module, x = attention(), random(2, 7, 24)
    cosine, sine = rotary_tables(CONFIG, 7)
    projected = functional.linear(x, module.query_key_value)
    query, key, value = projected.split(24, dim=-1)
    out = torch.zeros(2, 7, 24)
    for row in range(2):
        for head in range(3):
            part = slice(8 * head, 8 * head + 8)
            turned_query = rotate(query[row, :, part][None, None], cosine, sine)[0, 0]
            turned_key = rotate(key[row, :, part][None, None], cosine, sine)[0, 0]
            for place in range(7):
                scores = turned_key[: place + 1] @ turned_query[place] / 8**0.5
                out[row, place, part] = scores.softmax(dim=0) @ value[row, : place + 1, part]
    expected = functional.linear(out, module.output)
    torch.testing.assert_close(module(x, cosine, sine), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ops", ["torch", "auto"])
@pytest.mark.parametrize("prefix", [1, 3, 6])
def test_the_cache_gives_what_attention_without_it_gives(prefix, ops):
    """Sequences stand at their own positions: row 1 lags row 0 by one token."""
    module, x = attention(ops=ops), random(2, 7, 24)
    cosine, sine = rotary_tables(CONFIG, 32)
    expected = module(x, cosine[:7], sine[:7])
    cache = LayerCache.empty(CONFIG, 2, 16, x)

    def step(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return module.forward_cached(tokens, NewPositions(places, cosine, sine, 16), cache)

    step(x[:, :prefix], torch.arange(prefix).expand(2, prefix))
    for place in range(prefix, 7):
        places = torch.tensor([[place], [place - 1]])
        tokens = torch.stack([x[0, place : place + 1], x[1, place - 1 : place]])
        out = step(tokens, places)
        torch.testing.assert_close(out[0, 0], expected[0, place], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out[1, 0], expected[1, place - 1], rtol=1e-5, atol=1e-5)


@settings(max_examples=60)
@given(
    width=st.sampled_from([2, 8, 16, 20, 32, 48, 64]),
    groups=st.sampled_from([1, 3]),
    places=st.lists(st.integers(0, 69), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_one_new_position_over_a_full_cache_is_the_references(width, groups, places, dtype, seed):
    """Whole blocks of the compiled loops and what is left over, over positions and over the width."""
    capacity, key_value_heads, batch = 70, 2, len(places)
    heads = groups * key_value_heads
    cosine, sine = (random(capacity, width, seed=seed + n) for n in (1, 2))
    new = NewPositions(torch.tensor(places)[:, None], cosine, sine, capacity)
    projected = random(batch, 1, (heads + 2 * key_value_heads) * width, seed=seed).to(dtype)
    shape = (batch, key_value_heads, capacity, width)
    keys, values = (random(*shape, seed=seed + n).to(dtype) for n in (3, 4))
    found, caches = [], []
    for name in ("torch", "auto"):
        cache = LayerCache(keys.clone(), values.clone())
        ops = select_ops(name)
        found.append(ops.attend_cached(projected.clone(), new, cache, heads, key_value_heads))
        caches.append(cache)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.03}
    torch.testing.assert_close(found[1], found[0], **close)
    for row, place in enumerate(places):
        # Behind the new position nothing was written.
        assert torch.equal(caches[1].keys[row, :, place + 1 :], keys[row, :, place + 1 :])
        torch.testing.assert_close(
            caches[1].keys[row, :, : place + 1], caches[0].keys[row, :, : place + 1], **close
        )
        assert torch.equal(caches[1].values[row], caches[0].values[row])
