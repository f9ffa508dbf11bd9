"""Laws of one optimiser step: it is the plain step over the whole batch, however it is split."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fakes import tiny_model, tiny_train
from isoflop.model.ops.build import native_available
from isoflop.model.router import balance_loss, z_loss
from isoflop.model.transformer import Transformer
from isoflop.records import EngineRow
from isoflop.train.config import TrainConfig
from isoflop.train.engine import build_model
from isoflop.train.optim import make_optimizer
from isoflop.train.step import StepResult, train_step

SHAPE = tiny_model(num_layers=2, num_heads=2, num_key_value_heads=1, num_experts=6, init_std=0.2)

OPS = ["torch"] + (["native"] if native_available() else [])

DOCUMENTS = torch.arange(32).expand(8, 32) // torch.tensor([[5], [32], [9], [31]] * 2)


def batch(seed: int = 0, num_sequences: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(288, (num_sequences, 33), generator=generator)


def built(config: TrainConfig, shape=SHAPE) -> Transformer:
    """The model as the config names it; nothing is timed."""
    return build_model(
        shape,
        config,
        EngineRow(ops=config.ops, kernels=None, experts=config.experts, timed=None),
        seed=3,
    )


def settled(**changes: object) -> TrainConfig:
    """Router losses that count, and gradients that are not clipped."""
    fields = {"balance_coefficient": 0.3, "z_coefficient": 0.01, "max_gradient_norm": 1e9}
    fields |= {"ops": "torch", "experts": "grouped"}
    return tiny_train(**{**fields, **changes})


def steps(
    config: TrainConfig, number: int, documents: Tensor | None = None, shape=SHAPE
) -> tuple[Transformer, list[StepResult]]:
    """A model after some steps, each on another batch."""
    model = built(config, shape)
    optimizer = make_optimizer(model, config)
    results = [
        train_step(model, optimizer, config, batch(seed), documents) for seed in range(number)
    ]
    return model, results


def slow_steps(
    config: TrainConfig, number: int, documents: Tensor | None
) -> tuple[Transformer, list[dict[str, Tensor]]]:
    """Written out: all logits, one expert after the other, one backward pass, plain AdamW."""
    model = Transformer(SHAPE, seed=3, experts="loop", ops="torch")
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if "norm" not in n], "weight_decay": 0.1},
        {"params": [p for n, p in named if "norm" in n], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    results = []
    for seed in range(number):
        tokens = batch(seed)
        logits, router = model(tokens[:, :-1], documents=documents)
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        counts = router.counts.sum(dim=1)
        share = counts / (tokens[:, 1:].numel() * SHAPE.top_k)
        probability = router.probability_sum.sum(dim=1) / tokens[:, 1:].numel()
        balance = SHAPE.num_experts * (share * probability).sum(dim=-1)
        z = router.z_sum / tokens[:, 1:].numel()
        optimizer.zero_grad()
        (loss + 0.3 * balance.sum() + 0.01 * z.sum()).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
        optimizer.step()
        results.append(
            {"loss": loss.detach(), "norm": norm, "balance": balance, "z": z, "counts": counts}
        )
    return model, results


def weights(model: Transformer) -> Tensor:
    """All weights in one row."""
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def gradients(model: Transformer) -> Tensor:
    """All gradients in one row."""
    return torch.cat([value.grad.flatten() for value in model.parameters()])


def distance(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


WAYS = {
    "plain": {},
    "micro-batches": {"micro_batch_sequences": 2},
    "padded": {"experts": "padded", "micro_batch_sequences": 4},
    "recomputed": {"recompute": "layers", "micro_batch_sequences": 1},
    "clipped": {"max_gradient_norm": 0.05},
}


@pytest.mark.parametrize("documents", [None, DOCUMENTS])
@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("way", WAYS)
def test_steps_equal_the_slow_ones(way, ops, documents):
    config = settled(ops=ops, **WAYS[way])
    model, found = steps(config, 4, documents)
    slow, expected = slow_steps(config, 4, documents)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.train_loss == pytest.approx(theirs["loss"].item(), rel=1e-5)
        assert ours.gradient_norm == pytest.approx(theirs["norm"].item(), rel=1e-3)
        torch.testing.assert_close(ours.balance_loss, theirs["balance"].detach(), rtol=1e-3, atol=0)
        torch.testing.assert_close(ours.z_loss, theirs["z"].detach(), rtol=1e-3, atol=0)
    assert torch.equal(found[0].expert_counts, expected[0]["counts"])
    before = weights(Transformer(SHAPE, seed=3))
    # Adam makes whole steps of gradients that are next to nothing, whatever their sign.
    assert distance(weights(model) - before, weights(slow) - before) < 0.01


@pytest.mark.parametrize("scope", ["global", "sequence"])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("ops", OPS)
def test_the_split_changes_nothing_but_in_the_micro_scope(scope, size, ops):
    """The balance loss is the largest part of this gradient."""
    common = {"balance_coefficient": 3.0, "ops": ops}
    found = {}
    for name, own in (("whole", None), ("split", size)):
        for kind in (scope, "micro"):
            config = settled(balance_scope=kind, micro_batch_sequences=own, **common)
            model, (result,) = steps(config, 1)
            found[name, kind] = (gradients(model), result)
    (whole, first), (split, second) = found["whole", scope], found["split", scope]
    assert distance(split, whole) < 1e-5
    assert second.train_loss == pytest.approx(first.train_loss, rel=1e-6)
    torch.testing.assert_close(second.balance_loss, first.balance_loss)
    torch.testing.assert_close(second.z_loss, first.z_loss)
    assert torch.equal(second.expert_counts, first.expert_counts)
    assert distance(found["split", "micro"][0], found["whole", "micro"][0]) > 1e-3
    micro = [found[name, "micro"][1].balance_loss for name in ("whole", "split")]
    assert (micro[1] > micro[0]).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("experts", ["grouped", "padded", "loop"])
@pytest.mark.parametrize("ops", OPS)
def test_recomputed_layers_give_the_same_bits(ops, experts, precision):
    common = {"ops": ops, "experts": experts, "precision": precision, "micro_batch_sequences": 4}
    kept, kept_results = steps(settled(**common), 2, DOCUMENTS)
    again, again_results = steps(settled(recompute="layers", **common), 2, DOCUMENTS)
    assert torch.equal(gradients(kept), gradients(again))
    assert torch.equal(weights(kept), weights(again))
    for ours, theirs in zip(kept_results, again_results, strict=True):
        assert ours.train_loss == theirs.train_loss
        assert ours.gradient_norm == theirs.gradient_norm
        for field in ("balance_loss", "z_loss", "expert_counts"):
            assert torch.equal(getattr(ours, field), getattr(theirs, field)), field


@pytest.mark.parametrize("ops", OPS)
def test_two_ranks_with_summed_counts_and_mean_gradients_are_the_whole_batch(ops):
    """What data-parallel training must do: counts added before the loss, gradients averaged."""
    config = settled(ops=ops, balance_coefficient=3.0)
    whole, (expected,) = steps(config, 1)
    halves = batch().split(4)
    model = built(config)
    with torch.no_grad():
        counts = sum(model.hidden(half[:, :-1])[1].expert_counts for half in halves)
    assert torch.equal(counts, expected.expert_counts)
    ranks, balances = [], []
    for half in halves:
        model.zero_grad()
        loss, router = model.mean_loss(half[:, :-1], half[:, 1:])
        balances.append(balance_loss(router, "global", counts))
        (loss + 3.0 * balances[-1].sum() + 0.01 * z_loss(router).sum()).backward()
        ranks.append(gradients(model))
    assert distance(torch.stack(ranks).mean(dim=0), gradients(whole)) < 1e-5
    torch.testing.assert_close(torch.stack(balances).mean(dim=0), expected.balance_loss)


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_what_is_not_finite_leaves_weights_and_optimiser_alone(fault, ops):
    config = settled(ops=ops, z_coefficient=math.inf if fault == "gradient" else 0.0)
    model = built(config)
    optimizer = make_optimizer(model, config)
    if fault == "loss":
        with torch.no_grad():
            model.head[5, 0] = math.nan
    before = weights(model)
    result = train_step(model, optimizer, config, batch())
    assert math.isfinite(result.train_loss) == (fault == "gradient")
    assert not math.isfinite(result.gradient_norm)
    assert torch.equal(weights(model).nan_to_num(9.0), before.nan_to_num(9.0))
    assert not optimizer.state


def test_the_train_loss_is_the_mean_cross_entropy_without_router_losses():
    tokens = batch()
    model = Transformer(SHAPE, seed=3, ops="torch")
    logits = model(tokens[:, :-1]).logits
    expected = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    told = set()
    for coefficient in (0.0, 1.0, 100.0):
        config = settled(balance_coefficient=coefficient, z_coefficient=coefficient)
        _, (result,) = steps(config, 1)
        told.add(result.train_loss)
    assert len(told) == 1
    assert told.pop() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("changes", [{}, {"micro_batch_sequences": 2}, {"experts": "padded"}])
@pytest.mark.parametrize("top_k", [2, 3, 6])
def test_choices_sum_to_tokens_times_k_in_every_layer(changes, top_k):
    shape = tiny_model(num_layers=3, num_experts=6, top_k=top_k)
    _, (result,) = steps(settled(**changes), 1, shape=shape)
    assert result.expert_counts.sum(dim=-1).tolist() == [8 * 32 * top_k] * 3
    assert result.balance_loss.shape == result.z_loss.shape == (3,)


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("size", [None, 4])
def test_documents_train_as_if_each_stood_alone(ops, size):
    """Loss and gradient: positions are turned relative to each other, so places do not matter."""
    config = settled(
        ops=ops, micro_batch_sequences=size, balance_coefficient=0.0, z_coefficient=0.0
    )
    tokens, cut = batch(), 11
    documents = (torch.arange(32) >= cut).long().expand(8, 32)
    together, (found,) = steps(config, 1, documents)
    model = built(config)
    first, _ = model.token_losses(tokens[:, :cut], tokens[:, 1 : cut + 1])
    second, _ = model.token_losses(tokens[:, cut:-1], tokens[:, cut + 1 :])
    alone = torch.cat([first, second], dim=1).mean()
    alone.backward()
    assert found.train_loss == pytest.approx(alone.item(), rel=1e-5)
    assert distance(gradients(together), gradients(model)) < 1e-4
    _, (across,) = steps(config, 1)
    assert abs(across.train_loss - found.train_loss) > 1e-3


@pytest.mark.parametrize("size", [None, 2])
def test_gradients_of_an_earlier_step_do_not_linger(size):
    config = settled(micro_batch_sequences=size)
    model = built(config)
    for value in model.parameters():
        value.grad = torch.full_like(value, 7.0)
    train_step(model, make_optimizer(model, config), config, batch())
    fresh, _ = steps(config, 1)
    assert torch.equal(gradients(model), gradients(fresh))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_gradients_and_optimiser_are_float32(precision):
    config = settled(precision=precision, micro_batch_sequences=4)
    model = built(config)
    optimizer = make_optimizer(model, config)
    result = train_step(model, optimizer, config, batch())
    for value in model.parameters():
        assert value.dtype == value.grad.dtype == torch.float32
    kept = [value for state in optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in kept} == {torch.float32}
    assert result.balance_loss.dtype == result.z_loss.dtype == torch.float32
    assert result.expert_counts.dtype == torch.int64


def test_gradients_are_clipped_to_the_norm_and_never_made_longer():
    _, (free,) = steps(settled(), 1)
    clipped, (result,) = steps(settled(max_gradient_norm=free.gradient_norm / 7), 1)
    assert result.gradient_norm == free.gradient_norm
    assert gradients(clipped).norm().item() == pytest.approx(free.gradient_norm / 7, rel=1e-4)
    wide, _ = steps(settled(max_gradient_norm=free.gradient_norm * 7), 1)
    assert gradients(wide).norm().item() == pytest.approx(free.gradient_norm, rel=1e-5)


def test_the_result_holds_no_graph():
    _, (result,) = steps(settled(micro_batch_sequences=2), 1)
    for field in (result.balance_loss, result.z_loss, result.expert_counts):
        assert not field.requires_grad
