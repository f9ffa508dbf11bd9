"""Second moments are those of the matrices' real inputs and gradients, and looking changes nothing."""

import dataclasses

import pytest
import torch

from isoflop.model.transformer import Transformer
from isoflop.posttrain.probes import probe_second_moments, trace_and_largest

TEXT = "ask 12 and then 21"


def test_trace_and_largest_are_those_of_the_second_moment():
    source = torch.Generator().manual_seed(0)
    for shape in ((3, 7), (7, 3), (5, 5), (1, 4)):
        rows = torch.randn(shape, generator=source)
        moment = (rows.double().T @ rows.double()) / shape[0]
        eigenvalues = torch.linalg.eigvalsh(moment)
        trace, largest = trace_and_largest(rows)
        assert trace == pytest.approx(eigenvalues.sum().item())
        assert largest == pytest.approx(eigenvalues[-1].item())


def test_factors_are_of_what_goes_in_and_what_comes_back(model, tokenizer):
    rows = {row.matrix: row for row in probe_second_moments(model, tokenizer, step=4, texts=[TEXT])}
    tokens = torch.tensor([tokenizer.encode(TEXT)])
    # The first layer's projection: its inputs are norms of embeddings, its gradients PyTorch's own.
    seen = {}
    plain = Transformer(model.config, seed=3, ops="torch")
    layer = plain.layers[0].attention
    inner = plain.ops.linear

    def linear(x, weight):
        out = inner(x, weight)
        if weight is layer.query_key_value:
            seen["inputs"] = x.detach().flatten(0, 1)
            out.register_hook(lambda gradient: seen.update(gradients=gradient.flatten(0, 1)))
        return out

    layer.ops = type(plain.ops)(**{**vars(plain.ops), "linear": linear})
    hidden, _ = plain.hidden(tokens[:, :-1])
    plain.losses_of(hidden[0], tokens[0, 1:]).sum().backward()
    row = rows["layers.0.attention.query_key_value"]
    assert row.step == 4
    assert row.num_rows == tokens.shape[1] - 1
    for name, trace, largest in (
        ("inputs", row.input_trace, row.input_largest_eigenvalue),
        ("gradients", row.gradient_trace, row.gradient_largest_eigenvalue),
    ):
        expected = trace_and_largest(seen[name])
        assert (trace, largest) == pytest.approx(expected, rel=1e-4), name
    product = row.input_largest_eigenvalue * row.gradient_largest_eigenvalue
    assert row.fisher_largest_eigenvalue == pytest.approx(product)


def test_routers_and_head_are_heard_as_they_are_multiplied(model, tokenizer):
    """Their gradient is the sum over rows of gradient times input, whatever way it is taken."""
    rows = {row.matrix: row for row in probe_second_moments(model, tokenizer, step=0, texts=[TEXT])}
    tokens = torch.tensor([tokenizer.encode(TEXT)])
    plain = Transformer(model.config, seed=3, ops="torch")
    read = []
    moe = plain.layers[1].moe
    moe.register_forward_pre_hook(lambda _, given: read.append(given[0][0]))
    inner, come_back = moe.ops.route_tokens, []

    def route_tokens(logits, *others):
        logits.register_hook(come_back.append)
        return inner(logits, *others)

    moe.ops = dataclasses.replace(moe.ops, route_tokens=route_tokens)
    hidden, _ = plain.hidden(tokens[:, :-1])
    logits = plain.logits(hidden[0])
    plain.losses_of(hidden[0], tokens[0, 1:]).sum().backward()
    # Of cross-entropy by logits: probabilities less the target's one.
    gradients = logits.detach().softmax(dim=-1)
    gradients[torch.arange(len(gradients)), tokens[0, 1:]] -= 1
    torch.testing.assert_close(gradients.T @ hidden[0].detach(), plain.head.grad)
    head = rows["head"]
    assert head.num_rows == len(gradients)
    assert (head.input_trace, head.input_largest_eigenvalue) == pytest.approx(
        trace_and_largest(hidden[0].detach()), rel=1e-4
    )
    assert (head.gradient_trace, head.gradient_largest_eigenvalue) == pytest.approx(
        trace_and_largest(gradients), rel=1e-4
    )
    router = rows["layers.1.moe.router"]
    assert router.num_rows == len(gradients)
    assert (router.input_trace, router.input_largest_eigenvalue) == pytest.approx(
        trace_and_largest(read[0].detach()), rel=1e-4
    )
    (gradients,) = come_back
    torch.testing.assert_close(gradients.T @ read[0].detach(), moe.router.grad)
    assert (router.gradient_trace, router.gradient_largest_eigenvalue) == pytest.approx(
        trace_and_largest(gradients), rel=1e-4
    )
    assert router.gradient_trace > 0


def test_a_dense_model_has_a_router_without_gradients(tokenizer, shape):
    dense = Transformer(dataclasses.replace(shape, num_experts=1, top_k=1), seed=3)
    rows = {row.matrix: row for row in probe_second_moments(dense, tokenizer, step=0, texts=[TEXT])}
    assert rows["layers.0.moe.router"].gradient_trace == 0.0
    assert rows["head"].gradient_trace > 0


def test_every_matrix_has_a_row_and_experts_see_each_token_top_k_times(model, tokenizer):
    rows = {row.matrix: row for row in probe_second_moments(model, tokenizer, step=0, texts=[TEXT])}
    matrices = {
        f"layers.{layer}.{name}"
        for layer in range(2)
        for name in (
            "attention.query_key_value",
            "attention.output",
            "moe.router",
            "moe.gate_up",
            "moe.down",
        )
    }
    # All weights of two axes or more but the embedding, which is looked up.
    every = {name for name, weights in model.named_parameters() if weights.dim() > 1}
    assert set(rows) == matrices | {"head"} == every - {"embedding"}
    read = len(tokenizer.encode(TEXT)) - 1
    assert rows["layers.1.moe.down"].num_rows == read * model.config.top_k


def test_model_and_gradients_stay_as_they_are(model, tokenizer):
    for weights in model.parameters():
        weights.grad = torch.ones_like(weights)
    before = [weights.detach().clone() for weights in model.parameters()]
    ops = model.ops
    probe_second_moments(model, tokenizer, step=0)
    assert model.ops is ops
    for weights, then in zip(model.parameters(), before, strict=True):
        assert torch.equal(weights, then)
        assert torch.equal(weights.grad, torch.ones_like(weights))


def test_a_text_of_one_token_is_left_out_and_a_long_one_is_cut(model, tokenizer):
    assert probe_second_moments(model, tokenizer, step=0, texts=["a"]) == []
    (row, *_) = probe_second_moments(model, tokenizer, step=0, texts=["ask " * 100, "a"])
    assert row.num_rows == model.config.sequence_length
