"""Laws of the decoder: causality, isolation of documents, initialisation, precision."""

import math

import pytest
import torch

from isoflop.config import UserError
from isoflop.model.config import ModelConfig
from isoflop.model.moe import SelectionNoise
from isoflop.model.transformer import Transformer, next_token_loss


def config(**changes) -> ModelConfig:
    fields = {
        "vocabulary_size": 48,
        "num_layers": 2,
        "d_model": 16,
        "num_heads": 2,
        "d_expert": 32,
        "num_experts": 4,
        "top_k": 2,
        "sequence_length": 24,
    }
    return ModelConfig(**(fields | changes))


def lively(shape: ModelConfig, seed: int = 0, **options) -> Transformer:
    """A model whose weights are large enough that every part matters to the logits."""
    return Transformer(ModelConfig(**{**vars(shape), "init_std": 0.3}), seed=seed, **options)


def random_tokens(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(48, size, generator=torch.Generator().manual_seed(seed))


def test_no_logit_depends_on_a_later_token_by_gradient():
    """The gradient of position t's logits with respect to later embeddings is exactly zero."""
    model = lively(config())
    tokens = torch.arange(12)[None]  # Each token once: its embedding row is its position.
    for position in range(12):
        logits = model(tokens).logits[0, position]
        (gradient,) = torch.autograd.grad(logits.square().sum(), model.embedding)
        assert not gradient[position + 1 : 12].any()
        assert (gradient[: position + 1].abs().amax(dim=1) > 0).all()


def test_changing_a_later_token_never_changes_an_earlier_logit():
    model = lively(config())
    tokens = random_tokens(1, 20)
    before = model(tokens).logits
    for place in (1, 7, 19):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 48
        after = model(changed).logits
        torch.testing.assert_close(after[0, :place], before[0, :place], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(after[0, place], before[0, place])


def test_documents_are_isolated_by_the_mask():
    """With `documents`, what stands in another document has no influence, by gradient."""
    model = lively(config())
    tokens = torch.arange(12)[None]
    documents = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3])
    logits = model(tokens, documents=documents).logits[0]
    (gradient,) = torch.autograd.grad(logits[5:9].square().sum(), model.embedding)
    influence = gradient[:12].abs().amax(dim=1) > 0
    assert influence.tolist() == [False] * 5 + [True] * 4 + [False] * 3


def test_one_document_equals_no_mask():
    model = lively(config())
    tokens = random_tokens(2, 10)
    whole = model(tokens).logits
    masked = model(tokens, documents=torch.zeros(2, 10, dtype=torch.long)).logits
    torch.testing.assert_close(masked, whole, rtol=1e-5, atol=1e-5)


def test_sequences_of_a_batch_do_not_influence_each_other():
    model = lively(config())
    tokens = random_tokens(5, 16)
    together = model(tokens).logits
    alone = torch.cat([model(row[None]).logits for row in tokens])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_attention_sees_distances_not_places():
    """Rotary positions: in one layer, moving all positions alike changes nothing."""
    model = lively(config(num_layers=1))
    tokens = random_tokens(1, 8)
    long = torch.cat([random_tokens(1, 6, seed=1), tokens], dim=1)
    documents = torch.tensor([[0] * 6 + [1] * 8])
    shifted = model(long, documents=documents).logits[:, 6:]
    torch.testing.assert_close(shifted, model(tokens).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("experts", ["grouped", "padded"])
def test_the_ways_to_compute_experts_give_one_model(experts):
    shape = config()
    fast, slow = lively(shape, experts=experts), lively(shape, experts="loop")
    tokens = random_tokens(3, 16)
    quick, plain = fast(tokens), slow(tokens)
    torch.testing.assert_close(quick.logits, plain.logits, rtol=1e-5, atol=1e-5)
    assert quick.router.counts.tolist() == plain.router.counts.tolist()


def test_expert_counts_sum_to_tokens_times_k_in_every_layer():
    router = lively(config(num_layers=3))(random_tokens(4, 10)).router
    assert router.expert_counts.sum(dim=-1).tolist() == [4 * 10 * 2] * 3


def test_every_weight_learns():
    """One backward pass reaches all parameters of all layers."""
    model = lively(config(num_experts=2))
    tokens = random_tokens(8, 20)
    next_token_loss(model(tokens).logits[:, :-1], tokens[:, 1:]).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_same_seed_same_weights_and_another_seed_others():
    first, again = Transformer(config(), seed=5), Transformer(config(), seed=5)
    torch.manual_seed(99)  # Global state must not matter.
    third = Transformer(config(), seed=5)
    other = Transformer(config(), seed=6)
    for name, weights in first.named_parameters():
        assert torch.equal(weights, dict(again.named_parameters())[name]), name
        assert torch.equal(weights, dict(third.named_parameters())[name]), name
        if weights.ndim > 1:
            assert not torch.equal(weights, dict(other.named_parameters())[name]), name


def test_initialisation_draws_nothing_from_global_state():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    Transformer(config(), seed=5)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("num_layers", [1, 4])
def test_standard_deviations_are_as_stated(num_layers):
    """init_std everywhere, but a layer's two outputs by 1/sqrt(2 layers); norms are 1."""
    shape = config(
        num_layers=num_layers, d_model=64, d_expert=128, init_std=0.02, vocabulary_size=512
    )
    for name, weights in Transformer(shape, seed=1).named_parameters():
        if weights.ndim == 1:
            assert torch.equal(weights, torch.ones_like(weights)), name
            continue
        output = name.endswith(("attention.output", "moe.down"))
        expected = 0.02 / math.sqrt(2 * num_layers) if output else 0.02
        # The standard error of a standard deviation over n draws is std / sqrt(2 n).
        tolerance = 5 / math.sqrt(2 * weights.numel())
        assert weights.std().item() == pytest.approx(expected, rel=tolerance), name
        assert abs(weights.mean().item()) < 5 * expected / math.sqrt(weights.numel()), name


def test_loss_at_initialisation_is_that_of_even_guessing():
    shape = config(vocabulary_size=48, init_std=0.02)
    tokens = random_tokens(4, 20)
    loss = next_token_loss(Transformer(shape).forward(tokens).logits, tokens).mean()
    assert loss.item() == pytest.approx(math.log(48), abs=0.02)


def test_next_token_loss_by_hand():
    logits = torch.tensor([[[math.log(1.0), math.log(3.0)], [0.0, 0.0]]])
    losses = next_token_loss(logits, torch.tensor([[0, 1]]))
    torch.testing.assert_close(losses, torch.tensor([[math.log(4.0), math.log(2.0)]]))


def test_bfloat16_products_stay_near_float32_and_weights_stay_float32():
    shape = config()
    full, half = lively(shape), lively(shape, compute_dtype=torch.bfloat16)
    tokens = random_tokens(4, 16)
    expected, actual = full(tokens).logits, half(tokens).logits
    assert actual.dtype == torch.float32
    assert all(weights.dtype == torch.float32 for weights in half.parameters())
    # A token whose two best experts nearly tie may be sent elsewhere, so compare most positions.
    errors = (actual - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert errors.median().item() < 0.03


@pytest.mark.parametrize("ops", ["auto", "torch"])
def test_more_tokens_than_the_sequence_length_are_refused(ops):
    model = Transformer(config(sequence_length=8), ops=ops)
    with pytest.raises(UserError, match="9 tokens are more than sequence_length=8"):
        model(random_tokens(1, 9))


def test_a_document_that_comes_back_is_the_same_document():
    """Its number counts, not its place: what stands between is not seen, what stood before is."""
    model = lively(config())
    tokens = torch.arange(9)[None]
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 0, 0, 0]])
    logits = model(tokens, documents=documents).logits[0]
    (gradient,) = torch.autograd.grad(logits[6:].square().sum(), model.embedding)
    influence = gradient[:9].abs().amax(dim=1) > 0
    assert influence.tolist() == [True] * 3 + [False] * 3 + [True] * 3


def recorded(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """The experts of each layer, from a pass over a cache, prompt first and then token by token."""
    batch, length = tokens.shape
    cache = model.empty_cache(batch, length)
    parts = []
    with torch.no_grad():
        for start, end in ((0, 5), *((place, place + 1) for place in range(5, length))):
            record: list[torch.Tensor] = []
            positions = torch.arange(start, end).expand(batch, -1)
            model.hidden_cached(tokens[:, start:end], positions, cache, record)
            parts.append(torch.stack(record))
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize("order", ["topk_then_softmax", "softmax_then_topk"])
@pytest.mark.parametrize("ops", ["torch", "auto"])
@pytest.mark.parametrize("recompute", ["none", "layers"])
def test_replaying_the_models_own_choices_changes_nothing(order, ops, recompute):
    """Loss and all gradients: those of the pass that chose for itself."""
    model = lively(config(router_order=order), ops=ops, recompute=recompute)
    tokens = random_tokens(3, 13)
    experts = recorded(model, tokens)
    assert experts.shape == (2, 3, 13, 2)

    def gradients(**options) -> dict[str, torch.Tensor]:
        hidden, router = model.hidden(tokens, **options)
        model.zero_grad()
        (hidden.square().sum() + router.probability_sum.square().sum()).backward()
        return {name: weights.grad.clone() for name, weights in model.named_parameters()
                if weights.grad is not None}  # fmt: skip

    own, replayed = gradients(), gradients(experts=experts)
    for name, gradient in own.items():
        torch.testing.assert_close(replayed[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_other_choices_are_followed_and_still_teach_the_router():
    model = lively(config())
    tokens = random_tokens(2, 9)
    own = recorded(model, tokens)
    other = (own + 1) % 4
    hidden, router = model.hidden(tokens, experts=other)
    assert not torch.allclose(hidden, model.hidden(tokens)[0])
    counts = torch.stack([layer.flatten().bincount(minlength=4) for layer in other])
    assert torch.equal(router.expert_counts, counts)
    hidden.square().sum().backward()
    assert model.layers[0].moe.router.grad.abs().sum() > 0


def test_noise_moves_choices_alone_and_replay_undoes_what_it_does():
    """With the noisy pass's choices replayed, the noiseless model says exactly what that pass said."""
    model = lively(config())
    tokens = random_tokens(2, 13)
    quiet = recorded(model, tokens)
    shares = []
    for std in (0.0, 0.1, 3.0):
        for number, layer in enumerate(model.layers):
            layer.moe.noise = SelectionNoise(std, torch.Generator().manual_seed(number))
        noisy = recorded(model, tokens)
        shares.append((noisy != quiet).float().mean().item())
        for number, layer in enumerate(model.layers):
            layer.moe.noise = SelectionNoise(std, torch.Generator().manual_seed(number))
        cache, record = model.empty_cache(2, 13), []
        with torch.no_grad():
            positions = torch.arange(13).expand(2, -1)
            said, _ = model.hidden_cached(tokens, positions, cache, record)
            for layer in model.layers:
                layer.moe.noise = None
            again, _ = model.hidden(tokens, experts=torch.stack(record))
        torch.testing.assert_close(again, said, rtol=1e-5, atol=1e-5)
    assert shares[0] == 0.0 < shares[1] < shares[2]
