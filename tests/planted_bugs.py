"""A bug for every law of the doctor, planted in the model's own code."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from isoflop.model import checkpoint, count, loss, moe, ops, router, transformer
from isoflop.model.attention import LayerCache
from isoflop.model.huggingface import weights
from isoflop.model.transformer import Transformer
from isoflop.train import state, step
from isoflop.train.config import TrainConfig

Patch = pytest.MonkeyPatch


def replace(patch: Patch, original: Any, wrapped: Callable[..., Any]) -> None:
    """Put `wrapped` wherever a module of the package holds `original`."""
    places = [
        (module, name)
        for module in list(sys.modules.values())
        if module is not None and module.__name__.startswith("isoflop")
        for name, value in list(vars(module).items())
        if value is original
    ]
    assert places
    for module, name in places:
        patch.setattr(module, name, wrapped)


def replace_op(patch: Patch, name: str, make: Callable[[Any], Any]) -> None:
    """Wrap one function of both ways to compute what stands between the products."""
    for way in ("TORCH_OPS", "NATIVE_OPS"):
        functions = getattr(ops, way)
        changed = dataclasses.replace(functions, **{name: make(getattr(functions, name))})
        patch.setattr(ops, way, changed)


def balance_times_k(patch: Patch) -> None:
    original = router.balance_loss
    replace(patch, original, lambda *given: 2 * original(*given))


def softmax_of_softmax(patch: Patch) -> None:
    def make(original):
        def route_tokens(logits, top_k, order, num_sequences, counted, given):
            routing, _ = original(logits, top_k, order, num_sequences, counted, given)
            twice = logits.softmax(dim=-1)
            return routing, router.router_statistics(twice, routing.experts, num_sequences, counted)

        return route_tokens

    replace_op(patch, "route_tokens", make)


def constant_balance(patch: Patch) -> None:
    """The share of probability instead of the share of choices, which always sums to one."""

    def balance_loss(statistics, scope, batch_counts=None):
        return statistics.probability_sum.sum(dim=(-2, -1)) / statistics.num_tokens.sum()

    replace(patch, router.balance_loss, balance_loss)


def pooled_layers(patch: Patch) -> None:
    original = router.balance_loss

    def balance_loss(statistics, scope, batch_counts=None):
        pooled = router.RouterStatistics(
            statistics.probability_sum.mean(dim=0, keepdim=True),
            statistics.counts.sum(dim=0, keepdim=True),
            statistics.z_sum,
            statistics.num_tokens,
        )
        return original(pooled, scope).expand(len(statistics.counts))

    replace(patch, original, balance_loss)


def padding_counted(patch: Patch) -> None:
    original = Transformer.hidden

    def hidden(self, tokens, *, documents=None, counted=None):
        return original(self, tokens, documents=documents)

    patch.setattr(Transformer, "hidden", hidden)


def balance_detached(patch: Patch) -> None:
    original = router.balance_loss
    replace(patch, original, lambda *given: original(*given).detach())


def z_loss_summed(patch: Patch) -> None:
    """Per token instead of per batch: its strength depends on the batch."""
    replace(patch, router.z_loss, lambda statistics: statistics.z_sum)


def other_softmax_order(patch: Patch) -> None:
    def make(original):
        def route_tokens(logits, top_k, order, *rest):
            return original(logits, top_k, "softmax_then_topk", *rest)

        return route_tokens

    replace_op(patch, "route_tokens", make)


def router_follows_products(patch: Patch) -> None:
    def router_logits(x, weight):
        return functional.linear(x, weight.to(x.dtype)).float()

    replace(patch, router.router_logits, router_logits)


def spread_as(patch: Patch, change: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
    """The gradients of hidden states and head are changed as each chunk of the loss leaves them."""
    original = loss._spread

    def spread(slope, chunk, hidden, weights, gradients, functions):
        original(slope, chunk, hidden, weights, gradients, functions)
        change(gradients[0][chunk], gradients[1])

    patch.setattr(loss, "_spread", spread)


def head_gradient_halved(patch: Patch) -> None:
    """Of a loss made in one chunk."""
    spread_as(patch, lambda hidden, head: head.mul_(0.5))


def hidden_gradient_doubled(patch: Patch) -> None:
    spread_as(patch, lambda hidden, head: hidden.mul_(2))


def value_gradient_halved(patch: Patch) -> None:
    """In every way to compute the model: none of them disagrees with another."""

    def make(original):
        return lambda query, key, value, documents: original(
            query, key, value / 2 + value.detach() / 2, documents
        )

    replace_op(patch, "attention", make)


def gate_weights_detached(patch: Patch) -> None:
    """Routers learn from the balance loss alone."""

    def make(original):
        def route_tokens(*given):
            routing, statistics = original(*given)
            return routing._replace(weights=routing.weights.detach()), statistics

        return route_tokens

    replace_op(patch, "route_tokens", make)


def z_detached(patch: Patch) -> None:
    original = router.z_loss
    replace(patch, original, lambda statistics: original(statistics).detach())


def z_gradient_halved(patch: Patch) -> None:
    """Its value is right."""
    original = router.z_loss

    def z_loss(statistics):
        value = original(statistics)
        return value / 2 + value.detach() / 2

    replace(patch, original, z_loss)


def with_z_coefficient(patch: Patch, times: Callable[[TrainConfig, Any], float]) -> None:
    original = step.train_step

    def train_step(model, optimizer, config, tokens, *given, **named):
        z_coefficient = config.z_coefficient * times(config, named.get("ranks"))
        config = dataclasses.replace(config, z_coefficient=z_coefficient)
        return original(model, optimizer, config, tokens, *given, **named)

    replace(patch, original, train_step)


def z_coefficient_ignored(patch: Patch) -> None:
    with_z_coefficient(patch, lambda config, ranks: 0.0)


def z_of_every_micro_batch(patch: Patch) -> None:
    """Each adds it in full."""
    with_z_coefficient(
        patch, lambda config, ranks: config.batch_sequences // config.micro_batch_sequences
    )


def z_of_every_rank(patch: Patch) -> None:
    """Each adds it in full."""
    with_z_coefficient(patch, lambda config, ranks: ranks.parts if ranks else 1)


def balance_in_reported_loss(patch: Patch) -> None:
    original = step.train_step

    def train_step(model, optimizer, config, *rest):
        result = original(model, optimizer, config, *rest)
        router_loss = config.balance_coefficient * result.balance_loss.sum().item()
        return dataclasses.replace(result, train_loss=result.train_loss + router_loss)

    replace(patch, original, train_step)


def with_coefficient(patch: Patch, change: Callable[[TrainConfig], float]) -> None:
    original = step.train_step

    def train_step(model, optimizer, config, *rest):
        config = dataclasses.replace(config, balance_coefficient=change(config))
        return original(model, optimizer, config, *rest)

    replace(patch, original, train_step)


def balance_too_strong(patch: Patch) -> None:
    with_coefficient(patch, lambda config: 3 * config.balance_coefficient)


def coefficient_ignored(patch: Patch) -> None:
    """Unless another field is set too."""
    with_coefficient(patch, lambda c: c.balance_coefficient if c.z_coefficient else 0.0)


def first_micro_batch_only(patch: Patch) -> None:
    original = step._micro_batches
    patch.setattr(step, "_micro_batches", lambda *given: list(original(*given))[:1])


def balance_of_micro_batches(patch: Patch) -> None:
    original = step.count_choices
    patch.setattr(step, "count_choices", lambda model, parts: original(model, parts[:1]))


def ranks_apart(patch: Patch) -> None:
    original = router.balance_loss
    replace(
        patch, original, lambda statistics, scope, batch_counts=None: original(statistics, scope)
    )


def recomputation_without_gradient(patch: Patch) -> None:
    def no_checkpoint(layer, *given, **options):
        with torch.no_grad():
            return layer(*given)

    patch.setattr(transformer, "checkpoint", no_checkpoint)


def counts_with_capacity(patch: Patch) -> None:
    def make(original):
        def route_tokens(*given):
            routing, statistics = original(*given)
            return routing, statistics._replace(counts=statistics.counts.clamp(max=3))

        return route_tokens

    replace_op(patch, "route_tokens", make)


def replace_experts(patch: Patch, name: str, make: Callable[[Any], Any]) -> None:
    patch.setitem(moe.EXPERTS, name, make(moe.EXPERTS[name]))


def phantom_row(patch: Patch) -> None:
    """Every expert is given one row more, of ones, so that none is without."""

    def make(original):
        def experts(x, routing, gate_up, down, functions):
            phantom = functional.silu(gate_up.sum(dim=1)).sum() * 1e-6
            return original(x, routing, gate_up, down, functions) + phantom

        return experts

    replace_experts(patch, "grouped", make)


def routers_left_out(patch: Patch) -> None:
    original = router.router_logits
    replace(patch, original, lambda x, weight: original(x, weight.detach()))


def evaluation_moves_a_norm(patch: Patch) -> None:
    original = Transformer.forward

    def forward(self, *given, **named):
        with torch.no_grad():
            self.norm.weight.mul_(1.001)
        return original(self, *given, **named)

    patch.setattr(Transformer, "forward", forward)


def attend(query, key, value, mask):
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, enable_gqa=True
    )


def attention_without_mask(patch: Patch) -> None:
    def attention(query, key, value, documents):
        return attend(query, key, value, None)

    replace_op(patch, "attention", lambda original: attention)


def attention_to_itself(patch: Patch) -> None:
    def attention(query, key, value, documents):
        return attend(query, key, value, torch.eye(query.shape[2], dtype=torch.bool))

    replace_op(patch, "attention", lambda original: attention)


def attention_into_padding(patch: Patch) -> None:
    replace_op(
        patch,
        "attention",
        lambda original: lambda query, key, value, documents: original(query, key, value, None),
    )


def capacity_of_the_batch(patch: Patch) -> None:
    """Choices beyond an expert's capacity are dropped: who is dropped depends on who is there."""

    def make(original):
        def experts(x, routing, gate_up, down, functions):
            num_experts = len(gate_up)
            chosen = functional.one_hot(routing.experts.flatten(), num_experts)
            places = (chosen.cumsum(dim=0) * chosen).sum(dim=-1).view_as(routing.experts)
            capacity = routing.experts.numel() // num_experts
            kept = routing._replace(weights=routing.weights * (places <= capacity))
            return original(x, kept, gate_up, down, functions)

        return experts

    replace_experts(patch, "grouped", make)


def cache_off_by_one(patch: Patch) -> None:
    original = LayerCache.store

    def store(self, keys, values, positions):
        original(self, keys, values, (positions - 1).clamp(min=0))

    patch.setattr(LayerCache, "store", store)


def half_a_gradient(patch: Patch) -> None:
    """The forward pass is right."""

    def make(original):
        def experts(x, *rest):
            return original(x / 2 + x.detach() / 2, *rest)

        return experts

    replace_experts(patch, "padded", make)


def half_a_bfloat16_gradient(patch: Patch) -> None:
    """Of compiled kernels alone, and in bfloat16 alone: no law in float32 can see it."""

    def swiglu(gate_up):
        if gate_up.dtype == torch.bfloat16:
            gate_up = gate_up / 2 + gate_up.detach() / 2
        return ops.TORCH_OPS.swiglu(gate_up)

    patch.setattr(ops, "NATIVE_OPS", dataclasses.replace(ops.NATIVE_OPS, swiglu=swiglu))


def saved_as_zeros(patch: Patch) -> None:
    original = checkpoint.save_tensors

    def save_tensors(path, tensors, metadata):
        zeros = {name: torch.zeros_like(t) for name, t in tensors.items() if t.ndim == 1}
        original(path, {**tensors, **zeros}, metadata)

    replace(patch, original, save_tensors)


def gate_and_up_swapped(patch: Patch) -> None:
    original = weights.mixtral_state

    def mixtral_state(model):
        state = original(model)
        names = [name for name in state if name.endswith("gate_up_proj")]
        return state | {name: torch.cat(state[name].chunk(2, dim=1)[::-1], dim=1) for name in names}

    replace(patch, original, mixtral_state)


def moments_lost(patch: Patch) -> None:
    original = state.load_state

    def load_state(folder, model, optimizer, digest):
        done = original(folder, model, optimizer, digest)
        for moments in optimizer.state.values():
            moments["exp_avg"].zero_()
        return done

    replace(patch, original, load_state)


def parameters_without_router(patch: Patch) -> None:
    original = count.total_params
    replace(patch, original, lambda config: original(config) - count.router_params(config))


def flops_without_router(patch: Patch) -> None:
    original = count.forward_flops_per_token

    def forward_flops_per_token(config, sequence_length):
        return original(config, sequence_length) - 2 * count.router_params(config)

    replace(patch, original, forward_flops_per_token)


MUTATIONS: dict[str, Callable[[Patch], None]] = {
    "even-use-costs-one": balance_times_k,
    "balance-definition": softmax_of_softmax,
    "balance-rises": constant_balance,
    "layers-do-not-cancel": pooled_layers,
    "padding-is-not-counted": padding_counted,
    "balance-gradient": balance_detached,
    "z-loss-definition": z_loss_summed,
    "softmax-order": other_softmax_order,
    "router-in-float32": router_follows_products,
    "gradient-is-the-slope": head_gradient_halved,
    "reported-loss-is-cross-entropy": balance_in_reported_loss,
    "balance-coefficient-acts": balance_too_strong,
    "z-loss-coefficient-acts": z_gradient_halved,
    "balance-acts-as-configured": coefficient_ignored,
    "accumulation-keeps-gradient": first_micro_batch_only,
    "accumulation-keeps-balance": balance_of_micro_batches,
    "ranks-keep-balance": ranks_apart,
    "accumulation-keeps-z-loss": z_of_every_micro_batch,
    "ranks-keep-z-loss": z_of_every_rank,
    "recomputation-keeps-gradient": recomputation_without_gradient,
    "counts-add-up": counts_with_capacity,
    "idle-experts-learn-nothing": phantom_row,
    "every-weight-learns": routers_left_out,
    "evaluation-leaves-no-trace": evaluation_moves_a_norm,
    "future-is-unseen": attention_without_mask,
    "past-is-seen": attention_to_itself,
    "companions-do-not-matter": capacity_of_the_batch,
    "padding-side-does-not-matter": attention_into_padding,
    "cache-equals-full-pass": cache_off_by_one,
    "expert-implementations-agree": half_a_gradient,
    "bfloat16-is-near-float32": half_a_bfloat16_gradient,
    "save-and-load": saved_as_zeros,
    "conversion-keeps-logits": gate_and_up_swapped,
    "resume": moments_lost,
    "parameters-counted": parameters_without_router,
    "flops-counted": flops_without_router,
}
