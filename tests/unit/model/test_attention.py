"""Laws of attention: rotations, masks, and the cache equal to attention without one."""

import pytest
import torch
from torch.nn import functional

from isoflop.model.attention import (
    Attention,
    LayerCache,
    document_mask,
    rotary_tables,
    rotate,
)
from isoflop.model.config import ModelConfig

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


def attention(seed: int = 0) -> Attention:
    module = Attention(CONFIG)
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


@pytest.mark.parametrize("prefix", [1, 3, 6])
def test_the_cache_gives_what_attention_without_it_gives(prefix):
    """Sequences stand at their own positions: row 1 lags row 0 by one token."""
    module, x = attention(), random(2, 7, 24)
    cosine, sine = rotary_tables(CONFIG, 32)
    expected = module(x, cosine[:7], sine[:7])
    cache = LayerCache.empty(CONFIG, 2, 16, x)

    def step(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        mask = (torch.arange(16) <= places[:, :, None])[:, None]
        tables = cosine[places][:, None], sine[places][:, None]
        return module(tokens, *tables, mask, cache, places)

    step(x[:, :prefix], torch.arange(prefix).expand(2, prefix))
    for place in range(prefix, 7):
        places = torch.tensor([[place], [place - 1]])
        tokens = torch.stack([x[0, place : place + 1], x[1, place - 1 : place]])
        out = step(tokens, places)
        torch.testing.assert_close(out[0, 0], expected[0, place], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out[1, 0], expected[1, place - 1], rtol=1e-5, atol=1e-5)
