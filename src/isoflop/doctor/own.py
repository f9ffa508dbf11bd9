"""Our own checkpoint as the doctor sees it: the decoder of `model`, trained by `train`."""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from isoflop.config import UserError
from isoflop.doctor.hugging_face_files import check_finite
from isoflop.doctor.own_ranks import step_of_ranks
from isoflop.doctor.own_resume import resume_differences
from isoflop.doctor.subject import (
    Choices,
    NotApplicableError,
    RouterLosses,
    RouterSite,
    Shape,
    Step,
    StepReport,
    Subject,
)
from isoflop.model.checkpoint import load_checkpoint, save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.count import forward_flops_per_token, total_params
from isoflop.model.huggingface.weights import mixtral_model
from isoflop.model.moe import ExpertsImplementation, MoE
from isoflop.model.ops import OpsImplementation
from isoflop.model.ops.build import native_available
from isoflop.model.router import RouterStatistics, Routing, balance_loss, z_loss
from isoflop.model.transformer import Output, Transformer
from isoflop.train.config import TrainConfig
from isoflop.train.optim import make_optimizer
from isoflop.train.step import train_step

RouteTokens = Callable[..., tuple[Routing, RouterStatistics]]

NO_CLIPPING = 1e30
"""Gradient norm that no batch reaches, so that gradients are compared as they are."""


EXPERTS_IMPLEMENTATIONS: tuple[ExpertsImplementation, ...] = ("loop", "grouped", "padded")


class OwnSubject:
    """A `Transformer` with the training step that makes one."""

    def __init__(self, model: Transformer, name: str, stands_for: str | None = None):
        self.name = name
        self.stands_for = stands_for
        self.config = model.config
        # Grouped products do not take every width; padded ones do.
        self._decoder = model if _runs(model) else _rebuilt(model, "padded", "auto")
        self.shape = Shape(
            vocabulary_size=self.config.vocabulary_size,
            d_model=self.config.d_model,
            num_layers=self.config.num_layers,
            num_experts=self.config.num_experts,
            top_k=self.config.top_k,
            max_positions=self.config.sequence_length,
            weights_sum_to_one=self.config.router_order == "topk_then_softmax",
        )

    @property
    def model(self) -> nn.Module:
        """The decoder."""
        return self._decoder

    def router_sites(self) -> list[RouterSite]:
        """The experts' layers, whose first argument the router reads."""
        return [RouterSite(moe, moe.router) for moe in self._moes()]

    @torch.no_grad()
    def logits(self, tokens: Tensor, counted: Tensor | None = None) -> Tensor:
        """Padding is a document of its own, so that no token sees it."""
        documents = None if counted is None else self._here(counted).long()
        output: Output = self._decoder(self._here(tokens), documents=documents)
        return output.logits.float().cpu()

    @torch.no_grad()
    def choices(self, tokens: Tensor) -> list[Choices]:
        """What passes between router and experts."""
        with _RouterTape(self._moes()) as tape:
            self._decoder.hidden(self._here(tokens))
        return tape.choices

    def router_losses(self, tokens: Tensor, counted: Tensor | None = None) -> RouterLosses:
        """As `train_step` computes them where one micro-batch is the batch."""
        counted = None if counted is None else self._here(counted)
        documents = None if counted is None else counted.long()
        statistics = self._decoder.hidden(self._here(tokens), documents=documents, counted=counted)[
            1
        ]
        scope = _train_config(len(tokens), tokens.shape[1], Step()).balance_scope
        return RouterLosses(balance_loss(statistics, scope), z_loss(statistics))

    def step(self, tokens: Tensor, how: Step) -> StepReport:
        """By `train_step` at a learning rate of 0, so that weights stay; a rank is a thread."""
        tokens = self._here(tokens)
        self._decoder.recompute = "layers" if how.recompute else "none"
        try:
            config = _train_config(len(tokens), tokens.shape[1] - 1, how)
            if how.ranks > 1:
                result = step_of_ranks(self._decoder, config, tokens, how.ranks)
            else:
                optimizer = make_optimizer(self._decoder, config)
                for group in optimizer.param_groups:
                    group["lr"] = 0.0
                result = train_step(self._decoder, optimizer, config, tokens)
        finally:
            self._decoder.recompute = "none"
        gradients = {
            name: parameter.grad.detach().cpu().clone()
            for name, parameter in self._decoder.named_parameters()
            if parameter.grad is not None
        }
        self._decoder.zero_grad(set_to_none=True)
        return StepReport(gradients, result.train_loss, result.expert_counts.cpu())

    def balance_coefficient(self) -> float:
        """The default of a training run."""
        return _train_config(1, 1, Step(balance_coefficient=None)).balance_coefficient

    def input_gradient(self, tokens: Tensor, position: int, pull: Tensor) -> Tensor:
        """By the embedding's rows, which are one for each position as tokens differ."""
        tokens = self._here(tokens)
        logits = self._decoder(tokens).logits
        wanted = (logits[0, position] * self._here(pull)).sum()
        (gradient,) = torch.autograd.grad(wanted, self._decoder.embedding)
        return gradient[tokens[0]].cpu()

    @torch.no_grad()
    def cached_logits(self, tokens: Tensor, prefill: int) -> Tensor:
        """By `forward_cached`."""
        tokens = self._here(tokens)
        batch, length = tokens.shape
        cache = self._decoder.empty_cache(batch, length)
        ends = [0, prefill, *range(prefill + 1, length + 1)]
        parts = []
        for start, end in itertools.pairwise(ends):
            positions = torch.arange(start, end, device=tokens.device).expand(batch, -1)
            output = self._decoder.forward_cached(tokens[:, start:end], positions, cache)
            parts.append(output.logits.float())
        return torch.cat(parts, dim=1).cpu()

    def experts_implementations(self) -> tuple[str, ...]:
        """Every pair of experts' products and of what stands between them that runs here."""
        between: tuple[OpsImplementation, ...] = ("torch",)
        if native_available() and self._device() == "cpu":
            between = ("torch", "native")
        return tuple(
            f"{experts}/{ops}"
            for experts in EXPERTS_IMPLEMENTATIONS
            for ops in between
            if _runs(_rebuilt(self._decoder, experts, ops))
        )

    @contextmanager
    def experts_as(self, name: str) -> Iterator[None]:
        """By a decoder built anew around the same weights."""
        experts, _, ops = name.partition("/")
        before = self._decoder
        self._decoder = _rebuilt(
            before, cast(ExpertsImplementation, experts), cast(OpsImplementation, ops)
        )
        try:
            yield
        finally:
            self._decoder = before

    def bfloat16_implementations(self) -> tuple[str, ...]:
        """Grouped products take fewer widths in bfloat16, so fewer pairs may run."""
        names = []
        for name in self.experts_implementations():
            with self.bfloat16_as(name, []):
                names += [name] if _runs(self._decoder) else []
        return tuple(names)

    @contextmanager
    def bfloat16_as(self, name: str, choices: list[Choices]) -> Iterator[None]:
        """As a run of precision bfloat16; with no choices the router's own."""
        with self.experts_as(name):
            # Built anew for a while, so nothing needs to be put back.
            self._decoder.compute_dtype = torch.bfloat16
            for moe, layer in zip(self._moes(), choices, strict=False):
                route = _sending(moe.ops.route_tokens, layer.experts)
                moe.ops = dataclasses.replace(moe.ops, route_tokens=route)
            yield

    def bfloat16_choices(self, tokens: Tensor) -> list[Choices]:
        """As a run of precision bfloat16: weights stay float32, products do not."""
        # Padded, since grouped products in bfloat16 take fewer widths; the router is the same.
        with self.bfloat16_as("padded/auto", []):
            return self.choices(tokens)

    def save(self, folder: Path) -> None:
        """By `save_checkpoint`."""
        folder.mkdir(parents=True)
        save_checkpoint(self._decoder, folder)

    def load(self, folder: Path) -> Subject:
        """By `load_checkpoint`."""
        return OwnSubject(load_checkpoint(folder, device=self._device()), self.name)

    @torch.no_grad()
    def converted_logits(self, tokens: Tensor, folder: Path) -> Tensor:
        """As transformers' Mixtral."""
        try:
            with warnings.catch_warnings():
                # transformers warns of its own parts while it is imported.
                warnings.simplefilter("ignore")
                theirs = mixtral_model(self._decoder)
        except UserError as error:
            raise NotApplicableError(str(error)) from None
        logits: Tensor = theirs(self._here(tokens), use_cache=False).logits
        return logits.float().cpu()

    def resume_differences(self, folder: Path, seed: int) -> tuple[int, str]:
        """By `train_run`, killed and started again."""
        return resume_differences(self.config, folder, seed, self._device())

    def counted_parameters(self) -> int:
        """By `isoflop.model.count`."""
        return total_params(self.config)

    def counted_forward_flops(self, batch: int, length: int) -> int:
        """By `isoflop.model.count`, router included."""
        return batch * length * forward_flops_per_token(self.config, length)

    def reduced(self) -> Subject:
        """Two layers of width 64 with at most eight experts."""
        experts = min(self.config.num_experts, 8)
        is_dense = self.config.top_k == self.config.num_experts
        small = dataclasses.replace(
            self.config,
            vocabulary_size=512,
            num_layers=2,
            d_model=64,
            num_heads=4,
            num_key_value_heads=4 if self.config.key_value_heads == self.config.num_heads else 2,
            d_expert=128,
            num_experts=experts,
            top_k=experts if is_dense else min(self.config.top_k, experts - 1),
            sequence_length=min(self.config.sequence_length, 128),
        )
        stands_for = (
            "measured on a model of the same class with 2 layers of width 64, fresh weights"
        )
        return OwnSubject(Transformer(small).to(self._device()), self.name, stands_for)

    def _moes(self) -> list[MoE]:
        return [cast(Any, layer).moe for layer in self._decoder.layers]

    def _device(self) -> str:
        return str(self._decoder.embedding.device)

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device())


def open_own(folder: Path, device: str) -> OwnSubject:
    """The model of a checkpoint folder.

    Raises:
        UserError: no checkpoint, one cut short, or one with weights that are no numbers.
    """
    model = load_checkpoint(folder, device=device)
    check_finite(dict(model.named_parameters()), folder)
    return OwnSubject(model, folder.name)


class _RouterTape:
    """Keeps what every router is given and what it answers."""

    def __init__(self, moes: list[MoE]):
        self.choices: list[Choices] = []
        self._moes = moes
        self._ops = [moe.ops for moe in moes]
        self._given: list[Tensor] = []
        self._handles = [moe.register_forward_pre_hook(self._keep) for moe in moes]
        for moe, ops in zip(moes, self._ops, strict=True):
            moe.ops = dataclasses.replace(ops, route_tokens=self._listen(ops.route_tokens))

    def __enter__(self) -> "_RouterTape":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for moe, ops in zip(self._moes, self._ops, strict=True):
            moe.ops = ops

    def _keep(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self._given.append(given[0].flatten(0, 1))

    def _listen(self, route_tokens: RouteTokens) -> RouteTokens:
        def listening(logits: Tensor, *rest: Any) -> tuple[Routing, RouterStatistics]:
            routing, statistics = route_tokens(logits, *rest)
            # The layer's input came just before.
            self.choices.append(Choices(self._given[-1], logits, routing.weights, routing.experts))
            return routing, statistics

        return listening


def _sending(route_tokens: RouteTokens, experts: Tensor) -> RouteTokens:
    """The same router, whose tokens go to these experts."""

    def sending(*given: Any) -> tuple[Routing, RouterStatistics]:
        # The last says where tokens go; None: where the router chooses.
        return route_tokens(*given[:5], experts)

    return sending


def _runs(model: Transformer) -> bool:
    """Whether the model's shape can be computed in its way."""
    token = torch.zeros(1, 1, dtype=torch.long, device=model.embedding.device)
    try:
        with torch.no_grad():
            model.hidden(token)
    except UserError:
        return False
    return True


def _rebuilt(
    model: Transformer, experts: ExpertsImplementation, ops: OpsImplementation
) -> Transformer:
    """The same weights, shared, in a decoder that computes in another way."""
    config: ModelConfig = model.config
    other = Transformer(config, compute_dtype=model.compute_dtype, experts=experts, ops=ops)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.to(model.embedding.device)


def _train_config(batch: int, positions: int, how: Step) -> TrainConfig:
    """The defaults of a training run, for one step of this batch."""
    config = TrainConfig(
        train_tokens=batch * positions,
        batch_sequences=batch,
        sequence_length=positions,
        micro_batch_sequences=batch // how.micro_batches,
        warmup_steps=0,
        num_checkpoints=1,
        max_gradient_norm=NO_CLIPPING,
        z_coefficient=how.z_coefficient,
    )
    if how.balance_coefficient is None:
        return config
    return dataclasses.replace(config, balance_coefficient=how.balance_coefficient)
