"""The decoder is Mixtral: same weights, same logits, loss and gradients as transformers' own."""

import pytest
import torch

pytest.importorskip("transformers")

from isoflop.model.config import ModelConfig
from isoflop.model.huggingface import mixtral_model, mixtral_state
from isoflop.model.router import balance_loss
from isoflop.model.transformer import Transformer, next_token_loss

MIXTRAL_IMPLEMENTATIONS = ("eager", "sdpa")
LARGEST_DIFFERENCE = 1e-5


def config(num_experts: int, top_k: int, router_order: str) -> ModelConfig:
    return ModelConfig(
        vocabulary_size=96,
        num_layers=3,
        d_model=32,
        num_heads=4,
        d_expert=64,
        num_experts=num_experts,
        top_k=top_k,
        sequence_length=48,
        init_std=0.1,
        router_order=router_order,
    )


CASES = [
    (8, 2, "topk_then_softmax"),
    (8, 8, "topk_then_softmax"),
    # Over all experts both orders are one; below k = E, Mixtral knows only the first.
    (8, 8, "softmax_then_topk"),
    (1, 1, "topk_then_softmax"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("attention", MIXTRAL_IMPLEMENTATIONS)
@pytest.mark.parametrize(("num_experts", "top_k", "router_order"), CASES)
def test_logits_and_loss_equal_those_of_transformers(num_experts, top_k, router_order, attention):
    shape = config(num_experts, top_k, router_order)
    ours = Transformer(shape, seed=7)
    with torch.no_grad():
        for layer in ours.layers:  # Norms of 1 would hide a misplaced one.
            generator = torch.Generator().manual_seed(1)
            layer.attention_norm.weight.uniform_(0.5, 1.5, generator=generator)
            layer.moe_norm.weight.uniform_(0.5, 1.5, generator=generator)
    theirs = mixtral_model(ours, attention_implementation=attention)
    tokens = torch.randint(96, (3, 48), generator=torch.Generator().manual_seed(2))
    logits = ours(tokens).logits
    expected = theirs(input_ids=tokens, labels=tokens)
    assert (logits - expected.logits).abs().max().item() < LARGEST_DIFFERENCE
    loss = next_token_loss(logits[:, :-1], tokens[:, 1:]).mean()
    assert abs(loss.item() - expected.loss.item()) < LARGEST_DIFFERENCE
    loss.backward()
    expected.loss.backward()
    assert_gradients_equal(ours, theirs)


def assert_gradients_equal(ours: Transformer, theirs: torch.nn.Module) -> None:
    expected = {name: weights.grad for name, weights in theirs.named_parameters()}
    for weights in ours.parameters():
        weights.data = weights.grad
    for name, gradient in mixtral_state(ours).items():
        difference = (gradient - expected[name]).abs().max().item()
        assert difference <= 1e-4 * expected[name].abs().max().item() + 1e-8, name


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_balance_loss_is_theirs_over_k_for_one_layer():
    """transformers counts k places a token and does not divide by k; ours is 1 at even use."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    shape = ModelConfig(**{**vars(config(8, 2, "topk_then_softmax")), "num_layers": 1})
    ours = Transformer(shape, seed=7)
    theirs = mixtral_model(ours)
    tokens = torch.randint(96, (3, 48), generator=torch.Generator().manual_seed(2))
    router_logits = theirs(input_ids=tokens, output_router_logits=True).router_logits
    expected = load_balancing_loss_func(router_logits, 8, 2) / 2
    torch.testing.assert_close(balance_loss(ours(tokens).router, "micro")[0], expected)
