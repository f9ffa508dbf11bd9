"""A model computed by the kernels is the model computed by plain PyTorch, and the same each time."""

import pytest
import torch
from torch import Tensor

from isoflop.model.config import ModelConfig
from isoflop.model.ops import NATIVE_OPS, TORCH_OPS, select_ops
from isoflop.model.ops.build import native_available
from isoflop.model.router import balance_loss, z_loss
from isoflop.model.transformer import Transformer

pytestmark = pytest.mark.skipif(not native_available(), reason="no C compiler")


def config(**changes) -> ModelConfig:
    fields = {
        "vocabulary_size": 48,
        "num_layers": 2,
        "d_model": 16,
        "num_heads": 4,
        "num_key_value_heads": 2,
        "d_expert": 24,
        "num_experts": 6,
        "top_k": 2,
        "sequence_length": 24,
        "init_std": 0.3,
    }
    return ModelConfig(**(fields | changes))


def tokens_of(*size: int, seed: int = 0) -> Tensor:
    return torch.randint(48, size, generator=torch.Generator().manual_seed(seed))


DOCUMENTS = torch.tensor([[0] * 9 + [1] * 11, [5] * 20, [0] + [1] * 19])


def loss_and_gradients(model: Transformer, documents: Tensor | None) -> dict[str, Tensor]:
    """Everything training would see: the loss, the router's losses, and all gradients."""
    tokens = tokens_of(3, 21)
    model.zero_grad()
    loss, router = model.mean_loss(tokens[:, :-1], tokens[:, 1:], documents=documents)
    balance, z = balance_loss(router, "sequence"), z_loss(router)
    (loss + balance.sum() + z.sum()).backward()
    gradients = {name: weights.grad for name, weights in model.named_parameters()}
    return {"loss": loss.detach(), "balance": balance.detach(), "z": z.detach(), **gradients}


SHAPES = {
    "shared keys and values": {},
    "own keys and values": {"num_key_value_heads": None},
    "softmax first": {"router_order": "softmax_then_topk", "top_k": 1},
    "all experts": {"top_k": 6},
    "one expert": {"num_experts": 1, "top_k": 1},
}


@pytest.mark.parametrize("experts", ["grouped", "padded", "loop"])
@pytest.mark.parametrize("documents", [None, DOCUMENTS])
@pytest.mark.parametrize("shape", SHAPES)
def test_native_and_torch_are_one_model_in_loss_and_all_gradients(shape, documents, experts):
    found, expected = (
        loss_and_gradients(
            Transformer(config(**SHAPES[shape]), seed=3, experts=experts, ops=ops), documents
        )
        for ops in ("native", "torch")
    )
    for name, value in expected.items():
        scale = max(value.abs().max().item(), 1e-3)
        difference = (found[name] - value).abs().max().item()
        assert difference <= 2e-5 * scale, f"{name}: {difference} of {scale}"


@pytest.mark.parametrize("experts", ["grouped", "padded"])
def test_bfloat16_kernels_are_as_near_to_float32_as_torch_is(experts):
    """In loss and all gradients: at most half as far again, but for one rounding."""
    shape = config(top_k=6)  # No choices, which a rounding could turn.
    full = loss_and_gradients(Transformer(shape, seed=3, ops="torch"), DOCUMENTS)
    distances = {}
    for ops in ("native", "torch"):
        model = Transformer(shape, seed=3, experts=experts, ops=ops, compute_dtype=torch.bfloat16)
        found = loss_and_gradients(model, DOCUMENTS)
        assert all(value.dtype == torch.float32 for value in found.values())
        distances[ops] = {
            name: ((found[name] - value).norm() / value.norm()).item()
            for name, value in full.items()
        }
    for name, distance in distances["native"].items():
        assert distance <= 1.5 * distances["torch"][name] + 2**-8, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ops", ["native", "torch"])
def test_the_same_run_gives_the_same_bits(ops, dtype):
    first, second = (
        loss_and_gradients(Transformer(config(), seed=3, ops=ops, compute_dtype=dtype), DOCUMENTS)
        for _ in range(2)
    )
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_gradients_are_those_of_finite_differences():
    """Along the gradient itself, where the slope is the gradient's length."""
    model = Transformer(config(top_k=6), seed=3, ops="native")
    tokens = tokens_of(3, 21)

    def loss() -> Tensor:
        found, router = model.mean_loss(tokens[:, :-1], tokens[:, 1:], documents=DOCUMENTS)
        return found + balance_loss(router, "micro").sum() + 0.1 * z_loss(router).sum()

    weights = list(model.parameters())
    gradients = torch.autograd.grad(loss(), weights)
    length = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    step = 1e-2 / length
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.add_(gradient, alpha=sign * step)
        ends.append(loss().item())
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient, alpha=sign * step)
    slope = (ends[0] - ends[1]) / (2 * step * length)
    assert slope == pytest.approx(length, rel=1e-2)


def test_each_name_selects_its_functions():
    assert select_ops("torch") is TORCH_OPS
    assert select_ops("native") is NATIVE_OPS
    assert select_ops("auto") is NATIVE_OPS


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("ops", ["native", "torch"])
def test_one_bad_weight_anywhere_is_seen_in_the_losses_or_gradients(ops, bad):
    """Never a finite loss with finite gradients; the step would go on with it."""
    for name, _ in Transformer(config(), seed=3, ops=ops).named_parameters():
        model = Transformer(config(), seed=3, ops=ops)
        weights = dict(model.named_parameters())[name]
        with torch.no_grad():
            # An embedding that is read: that of the batch's first token.
            place = tokens_of(3, 21)[0, 0].item() if name == "embedding" else 0
            weights[place].view(-1)[0] = bad
        found = loss_and_gradients(model, None)
        assert not all(value.isfinite().all() for value in found.values()), name
