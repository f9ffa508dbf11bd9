"""Packed sequences give what whole ones do: hidden states, gradients, experts; and hold each token once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.model.config import ModelConfig
from isoflop.model.packed import pack
from isoflop.model.transformer import Transformer

PROMPTS = [(5, 6, 7), (5, 6, 7), (8,), (9, 9, 9, 9), (9, 9, 9, 9), (5, 6, 7)]
OTHERS = [(1, 2), (), (3,), (4, 4, 4), (1,), (2,)]


def make_model(ops: str = "auto", d_model: int = 16) -> Transformer:
    config = ModelConfig(
        vocabulary_size=16,
        num_layers=2,
        d_model=d_model,
        num_heads=2,
        d_expert=8,
        num_experts=4,
        top_k=2,
        sequence_length=8,
        init_std=0.3,
    )
    return Transformer(config, seed=1, ops=ops)


texts = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
        st.lists(st.integers(0, 9), max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100)
@given(texts)
def test_every_sequence_is_there_and_neighbours_share_their_prompt(pairs):
    prompts, others = zip(*pairs, strict=True)
    packed = pack(prompts, others, torch.device("cpu"))
    tokens = packed.tokens[0]
    for row, (prompt, other) in enumerate(pairs):
        whole = packed.packing.spread[row, : len(prompt) + len(other)]
        assert packed.packing.lengths[row] == len(whole)
        assert torch.equal(packed.packing.positions[whole], torch.arange(len(whole)))
        assert tokens[whole].tolist() == [*prompt, *other]
        assert whole[len(prompt) - 1] == packed.last_of_prompt[row]
        if other:
            assert whole[len(prompt)] == packed.first_own[row]
    new = [n for n, one in enumerate(prompts) if n == 0 or one != prompts[n - 1]]
    assert len(tokens) == sum(map(len, others)) + sum(len(prompts[n]) for n in new)
    # Each token's place holds it.
    flat = packed.packing.spread.flatten()[packed.packing.places]
    assert flat.tolist() == list(range(len(tokens)))
    # Sequences' own tokens are all tokens, each once.
    packing = packed.packing
    ends = zip(packing.spread, packing.firsts, packing.lengths, strict=True)
    own = torch.cat([whole[first:length] for whole, first, length in ends])
    assert own.sort().values.tolist() == list(range(len(tokens)))


@pytest.mark.parametrize("ops", ["auto", "torch"])
@pytest.mark.parametrize("d_model", [16, 32])
def test_hidden_states_gradients_and_experts_are_those_of_each_sequence_alone(ops, d_model):
    model = make_model(ops, d_model)
    packed = pack(PROMPTS, OTHERS, torch.device("cpu"))
    record = []
    hidden, router = model.hidden(packed.tokens, packing=packed.packing, record=record)
    whole = hidden[0][packed.packing.spread]
    pull = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0))
    expected, found = [], []
    for row, (prompt, other) in enumerate(zip(PROMPTS, OTHERS, strict=True)):
        alone_record = []
        alone, _ = model.hidden(torch.tensor([[*prompt, *other]]), record=alone_record)
        length = len(prompt) + len(other)
        torch.testing.assert_close(whole[row, :length], alone[0], rtol=1e-4, atol=1e-5)
        chosen = torch.stack(record)[:, 0][:, packed.packing.spread[row, :length]]
        assert torch.equal(chosen, torch.stack(alone_record)[:, 0])
        expected.append((alone[0] * pull[row, :length]).sum())
        found.append((whole[row, :length] * pull[row, :length]).sum())
    truth = torch.autograd.grad(sum(expected), list(model.parameters()), allow_unused=True)
    ours = torch.autograd.grad(sum(found), list(model.parameters()), allow_unused=True)
    for (name, _), one, two in zip(model.named_parameters(), ours, truth, strict=True):
        if two is not None:
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5, msg=name)
    # Routers are counted over each token once.
    assert router.num_tokens.tolist() == [packed.tokens.shape[1]]
    assert router.expert_counts.sum(dim=-1).tolist() == [2 * packed.tokens.shape[1]] * 2


def test_packed_sequences_hold_no_documents():
    packed = pack(PROMPTS, OTHERS, torch.device("cpu"))
    documents = torch.zeros_like(packed.tokens)
    with pytest.raises(ValueError, match="one document"):
        make_model().hidden(packed.tokens, packing=packed.packing, documents=documents)
