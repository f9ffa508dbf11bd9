"""Laws of the chunked loss: it is cross-entropy, and never holds the logits of all tokens."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from isoflop.model import loss as loss_module
from isoflop.model.loss import mean_loss, token_losses, token_losses_and_entropies
from isoflop.model.ops import NATIVE_OPS, TORCH_OPS, Ops, build

ALL_OPS = [TORCH_OPS] + ([NATIVE_OPS] if build.native_available() else [])

every_ops = pytest.mark.parametrize("ops", ALL_OPS, ids=lambda ops: ops.name)


def example(
    num_tokens: int, vocabulary: int, width: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """What the head reads, the head, and targets."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, width, generator=generator).to(dtype)
    head = torch.randn(vocabulary, width, generator=generator)
    targets = torch.randint(vocabulary, (num_tokens,), generator=generator)
    return hidden.requires_grad_(True), head.requires_grad_(True), targets


def full_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """With all logits at once, in float64."""
    logits = functional.linear(hidden.double(), head.to(hidden.dtype).double())
    return functional.cross_entropy(logits, targets, reduction="none")


def in_chunks_of(monkeypatch: pytest.MonkeyPatch, rows: int, head: Tensor, hidden: Tensor) -> None:
    num_bytes = rows * head.shape[0] * hidden.element_size()
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", num_bytes)


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2**-6}
"""Relative distance of whole tensors; bfloat16 numbers lie 2^-8 apart."""


@every_ops
@settings(max_examples=40)
@given(
    num_tokens=st.integers(1, 30),
    vocabulary=st.integers(2, 40),
    rows=st.integers(1, 31),
    dtype=st.sampled_from(list(TOLERANCES)),
    seed=st.integers(0, 999),
)
def test_chunks_give_full_cross_entropy_in_value_and_gradients(
    ops, num_tokens, vocabulary, rows, dtype, seed
):
    hidden, head, targets = example(num_tokens, vocabulary, 8, seed, dtype)
    pull = torch.rand(num_tokens, generator=torch.Generator().manual_seed(seed)) + 0.5
    losses = full_losses(hidden, head, targets)
    sides = {
        "each": (losses, lambda: token_losses(hidden, head, targets, ops), pull),
        "mean": (losses.mean(), lambda: mean_loss(hidden, head, targets, ops), torch.tensor(0.5)),
    }
    tolerance = TOLERANCES[dtype]
    with pytest.MonkeyPatch.context() as monkeypatch:
        in_chunks_of(monkeypatch, rows, head, hidden)
        for name, (expected, way, weight) in sides.items():
            found = way()
            assert found.dtype == torch.float32
            assert found.shape == expected.shape
            # Logits of order 3 are rounded, and a small loss is their difference.
            assert ((found - expected).abs() <= tolerance * (1 + expected.abs()) * 3).all(), name
            ours = torch.autograd.grad(found, (hidden, head), weight)
            truth = torch.autograd.grad(
                expected, (hidden, head), weight.double(), retain_graph=True
            )
            for mine, exact in zip(ours, truth, strict=True):
                assert relative(mine, exact.double()) <= tolerance, name


@every_ops
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_entropy_is_that_of_the_softmax_and_changes_neither_loss_nor_gradient(
    ops, dtype, rows, monkeypatch
):
    hidden, head, targets = example(9, 33, 16, seed=4, dtype=dtype)
    in_chunks_of(monkeypatch, rows, head, hidden)
    losses, entropies = token_losses_and_entropies(hidden, head, targets, ops)
    alone = token_losses(hidden, head, targets, ops)
    assert torch.equal(losses, alone)
    assert not entropies.requires_grad
    log_p = (hidden.double() @ head.double().T).log_softmax(dim=-1)
    expected = -(log_p.exp() * log_p).sum(dim=-1)
    assert relative(entropies, expected) <= TOLERANCES[dtype]
    pull = torch.linspace(0.5, 1.5, 9)
    for one, two in zip(
        torch.autograd.grad(losses, (hidden, head), pull),
        torch.autograd.grad(alone, (hidden, head), pull),
        strict=True,
    ):
        assert torch.equal(one, two)


@every_ops
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_the_size_of_chunks_changes_no_token_loss(ops, rows, monkeypatch):
    hidden, head, targets = example(7, 33, 16, seed=1)
    whole = token_losses(hidden, head, targets, ops)
    in_chunks_of(monkeypatch, rows, head, hidden)
    torch.testing.assert_close(token_losses(hidden, head, targets, ops), whole)
    torch.testing.assert_close(mean_loss(hidden, head, targets, ops), whole.mean())


@every_ops
def test_a_padded_vocabulary_takes_part_in_the_softmax_and_its_rows_learn(ops):
    """Rows that are never a target are pushed down; weights of zero count as logits of zero."""
    hidden, head, targets = example(12, 24, 8, seed=2)
    padded = torch.cat([head.detach(), torch.zeros(8, 8)]).requires_grad_(True)
    loss = mean_loss(hidden, padded, targets, ops)
    logits = hidden.detach() @ head.detach().T
    own = logits.exp().sum(dim=1)
    expected = (own + 8).log() - logits.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(loss, expected.mean())
    loss.backward()
    share = 1 / (own + 8) / 12
    torch.testing.assert_close(padded.grad[24:], (share @ hidden.detach()).expand(8, 8))


class Recorder:
    """Ops that note the shape of all logits they are given."""

    def __init__(self, ops: Ops):
        self.rows: list[int] = []
        self.slopes: list[int] = []
        self.ops = dataclasses.replace(ops, row_losses=self._losses, row_losses_slope_=self._slope)
        self._inner = ops

    def _losses(self, logits: Tensor, *others) -> tuple[Tensor, Tensor, Tensor]:
        self.rows.append(logits.shape[0])
        return self._inner.row_losses(logits, *others)

    def _slope(self, logits: Tensor, *others: Tensor) -> Tensor:
        self.slopes.append(logits.shape[0])
        return self._inner.row_losses_slope_(logits, *others)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the most numbers that any result held."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.most = max(self.most, value.numel())
        return out


@every_ops
@pytest.mark.parametrize("way", [mean_loss, token_losses])
def test_never_more_logits_are_held_than_one_chunk_has(ops, way, monkeypatch):
    num_tokens, vocabulary, rows = 50, 64, 3
    hidden, head, targets = example(num_tokens, vocabulary, 4, seed=3)
    in_chunks_of(monkeypatch, rows, head, hidden)
    # Beyond what may be kept for the backward pass.
    monkeypatch.setattr(loss_module, "KEPT_BYTES", 50 * 64 * 4 - 1)
    recorder = Recorder(ops)
    with LargestTensor() as largest:
        way(hidden, head, targets, recorder.ops).sum().backward()
    assert sum(recorder.rows) == sum(recorder.slopes) == num_tokens
    assert max(recorder.rows) == max(recorder.slopes) == rows
    # The head's gradient is as large as the head.
    assert largest.most <= max(rows * vocabulary, head.numel())


@every_ops
def test_one_row_is_taken_even_where_it_is_larger_than_a_chunk(ops, monkeypatch):
    hidden, head, targets = example(5, 9, 4, seed=4)
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 1)
    recorder = Recorder(ops)
    found = token_losses(hidden, head, targets, recorder.ops)
    assert recorder.rows == [1] * 5
    torch.testing.assert_close(found, full_losses(hidden, head, targets).float())


@every_ops
def test_without_leaves_that_want_one_no_gradient_is_made(ops):
    hidden, head, targets = example(5, 9, 4, seed=5)
    recorder = Recorder(ops)
    loss = mean_loss(hidden.detach(), head.detach(), targets, recorder.ops)
    assert not loss.requires_grad
    assert recorder.slopes == []


@every_ops
def test_where_gradients_are_switched_off_none_is_made(ops):
    hidden, head, targets = example(5, 9, 4, seed=5)
    for off in (torch.no_grad, torch.inference_mode):
        recorder = Recorder(ops)
        with off():
            loss = mean_loss(hidden, head, targets, recorder.ops)
            token_losses(hidden, head, targets, recorder.ops)
        assert not loss.requires_grad
        assert recorder.slopes == []


@every_ops
@pytest.mark.parametrize("way", [mean_loss, token_losses])
def test_a_frozen_head_or_hidden_has_no_gradient_and_the_other_the_same(ops, way):
    hidden, head, targets = example(5, 9, 4, seed=6)
    both = torch.autograd.grad(way(hidden, head, targets, ops).sum(), (hidden, head))
    loss = way(hidden, head.detach(), targets, ops).sum()
    assert torch.equal(torch.autograd.grad(loss, hidden)[0], both[0])
    loss = way(hidden.detach(), head, targets, ops).sum()
    assert torch.equal(torch.autograd.grad(loss, head)[0], both[1])


@every_ops
def test_an_even_guess_costs_the_logarithm_of_the_vocabulary(ops):
    loss = mean_loss(torch.zeros(3, 4), torch.ones(10, 4), torch.tensor([0, 5, 9]), ops)
    assert loss.item() == pytest.approx(math.log(10), rel=1e-6)


@every_ops
@pytest.mark.parametrize("way", [mean_loss, token_losses])
@pytest.mark.parametrize("target", [-1, 9])
def test_targets_out_of_the_vocabulary_are_refused(ops, way, target):
    """-100 is no word for "ignore" here: every token counts."""
    hidden, head, targets = example(5, 9, 4, seed=7)
    targets[3] = target
    with pytest.raises((IndexError, RuntimeError)):
        way(hidden, head, targets, ops)


@every_ops
@pytest.mark.parametrize("way", [mean_loss, token_losses])
def test_a_nan_is_seen_in_the_loss(ops, way):
    hidden, head, targets = example(5, 9, 4, seed=8)
    with torch.no_grad():
        hidden[2, 1] = math.nan
    found = way(hidden, head, targets, ops)
    assert found.isnan().sum().item() == 1


@every_ops
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_logits_kept_for_the_backward_pass_give_the_bits_of_logits_made_again(
    ops, dtype, monkeypatch
):
    """A second pass through the same graph, for which nothing is kept, included."""
    hidden, head, targets = example(29, 40, 8, 3, dtype)
    pull = torch.rand(29) + 0.5
    in_chunks_of(monkeypatch, 6, head, hidden)
    found = []
    for most in (loss_module.KEPT_BYTES, 0):
        monkeypatch.setattr(loss_module, "KEPT_BYTES", most)
        losses, entropies = token_losses_and_entropies(hidden, head, targets, ops)
        for _ in range(2):
            gradients = torch.autograd.grad(losses, (hidden, head), pull, retain_graph=True)
            found.append((losses, entropies, *gradients))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))
