"""A local Hugging Face Mixture of Experts as the doctor sees it.

A training step is what transformers' `Trainer` makes of the model (its
`compute_loss` and `training_step`, transformers 5.23): the cross-entropy of each
micro-batch is summed and divided by the targets of the whole batch; the loss of
the model, balance loss included, is then used as it is, and over several
processes multiplied by their number before gradients are averaged.
"""

import copy
import inspect
import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoflop.config import UserError
from isoflop.doctor.hugging_face_counts import forward_flops, parameters
from isoflop.doctor.hugging_face_files import (
    NUM_EXPERTS_FIELDS,
    TOP_K_FIELDS,
    config_number,
    open_model,
    quiet_transformers,
)
from isoflop.doctor.hugging_face_resume import resume_differences
from isoflop.doctor.hugging_face_sites import RouterTape, find_sites
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
from isoflop.model.checkpoint import load_checkpoint
from isoflop.model.huggingface.load import import_checkpoint
from isoflop.model.huggingface.package import import_transformers
from isoflop.model.transformer import Output

NORMALISED = ("mixtral", "gpt_oss", "granitemoe", "minimax", "ernie4_5_moe")
"""Classes without a field norm_topk_prob that always divide a token's weights by their sum."""

SMALL: dict[str, Any] = {
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "num_local_experts": 8,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "layer_types": None,
    "mlp_only_layers": [],
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
"""What a large model is reduced to; a field that its config lacks is left out."""


class HuggingFaceSubject:
    """A causal language model of transformers 5 with softmax routers."""

    def __init__(self, model: Any, name: str, stands_for: str | None = None):
        """Look for the routers and see that they answer as expected.

        Raises:
            UserError: a variant that is not supported.
        """
        self.model: nn.Module = model
        # transformers leaves its models without types.
        self._model: Any = model
        self.name = name
        self.stands_for = stands_for
        self.config = model.config
        num_experts = config_number(self.config, NUM_EXPERTS_FIELDS)
        top_k = config_number(self.config, TOP_K_FIELDS)
        assert num_experts is not None
        assert top_k is not None
        _switch_off_noise(model)
        self._sites = find_sites(model, num_experts, self.config.hidden_size)
        self.shape = Shape(
            vocabulary_size=self.config.vocab_size,
            d_model=self.config.hidden_size,
            num_layers=len(self._sites),
            num_experts=num_experts,
            top_k=top_k,
            max_positions=self.config.max_position_embeddings,
            window=getattr(self.config, "sliding_window", None) or None,
            weights_sum_to_one=_declared_order(self.config),
        )
        self.choices(torch.zeros(1, 1, dtype=torch.long))

    def router_sites(self) -> list[RouterSite]:
        """Found by structure, see `hugging_face_sites`."""
        return self._sites

    @torch.no_grad()
    def logits(self, tokens: Tensor, counted: Tensor | None = None) -> Tensor:
        """Without cache; padding by `attention_mask`, positions as the model counts them."""
        mask = None if counted is None else self._here(counted).long()
        output = self._model(self._here(tokens), attention_mask=mask, use_cache=False)
        logits: Tensor = output.logits
        return logits.float().cpu()

    @torch.no_grad()
    def choices(self, tokens: Tensor) -> list[Choices]:
        """What hooks on the routers saw."""
        with RouterTape(self._sites) as tape:
            self._model(self._here(tokens), use_cache=False)
        return tape.choices()

    def router_losses(self, tokens: Tensor, counted: Tensor | None = None) -> RouterLosses:
        """`aux_loss` of the model's output: one number for all layers."""
        mask = None if counted is None else self._here(counted).long()
        output = self._model(
            self._here(tokens), attention_mask=mask, use_cache=False, output_router_logits=True
        )
        aux_loss = getattr(output, "aux_loss", None)
        if not isinstance(aux_loss, Tensor):
            raise NotApplicableError(f"{type(self.model).__name__} returns no balance loss")
        return RouterLosses(aux_loss.reshape(1), None)

    def step(self, tokens: Tensor, how: Step) -> StepReport:
        """As transformers' Trainer would; see the module's docstring."""
        tokens = self._here(tokens)
        targets = tokens[:, 1:]
        counts = torch.zeros(self.shape.num_layers, self.shape.num_experts, dtype=torch.long)
        train_loss = 0.0
        self.model.zero_grad(set_to_none=True)
        parts = how.micro_batches * how.ranks
        with self._set_up(how):
            for rows in torch.arange(len(tokens)).chunk(parts):
                output = self._model(
                    tokens[rows, :-1],
                    labels=targets[rows],
                    shift_labels=targets[rows].contiguous(),
                    num_items_in_batch=targets.numel(),
                    use_cache=False,
                    output_router_logits=None if how.balance_coefficient is None else True,
                )
                # Over ranks: times their number, then the mean of their gradients.
                output.loss.backward()
                train_loss += output.loss.item()
                counts += self._counts(output)
        gradients = {
            name: parameter.grad.detach().cpu().clone()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        self.model.zero_grad(set_to_none=True)
        return StepReport(gradients, train_loss, counts)

    def balance_coefficient(self) -> float:
        """`router_aux_loss_coef` of the config."""
        coefficient = getattr(self.config, "router_aux_loss_coef", None)
        if not coefficient:
            raise NotApplicableError("the config has no balance coefficient (router_aux_loss_coef)")
        return float(coefficient)

    def input_gradient(self, tokens: Tensor, position: int, pull: Tensor) -> Tensor:
        """By the model's own inputs_embeds."""
        embedded = self._model.get_input_embeddings()(self._here(tokens)).detach()
        embedded.requires_grad_(True)
        logits = self._model(inputs_embeds=embedded, use_cache=False).logits
        wanted = (logits[0, position] * self._here(pull)).sum()
        (gradient,) = torch.autograd.grad(wanted, embedded)
        by_position: Tensor = gradient[0]
        return by_position.cpu()

    @torch.no_grad()
    def cached_logits(self, tokens: Tensor, prefill: int) -> Tensor:
        """With the model's own default cache."""
        tokens = self._here(tokens)
        ends = [prefill, *range(prefill + 1, tokens.shape[1] + 1)]
        # transformers 5.24 renamed past_key_values and warns of the old name.
        renamed = "cache" in inspect.signature(self._model.forward).parameters
        name = "cache" if renamed else "past_key_values"
        parts, cache = [], None
        for start, end in itertools.pairwise([0, *ends]):
            output = self._model(tokens[:, start:end], use_cache=True, **{name: cache})
            cache = getattr(output, name)
            parts.append(output.logits.float())
        return torch.cat(parts, dim=1).cpu()

    def experts_implementations(self) -> tuple[str, ...]:
        """The loop in the model's file, and what transformers can put in its place on a CPU."""
        return ("eager", "grouped_mm", "batched_mm") if self._switches_experts() else ("eager",)

    @contextmanager
    def experts_as(self, name: str) -> Iterator[None]:
        """By `set_experts_implementation`."""
        if not self._switches_experts():
            yield
            return
        before = self.config._experts_implementation
        self._model.set_experts_implementation(name)
        try:
            yield
        finally:
            self._model.set_experts_implementation(before)

    def bfloat16_implementations(self) -> tuple[str, ...]:
        """None: in bfloat16 their weights are rounded too, and that is another model."""
        raise NotApplicableError("transformers rounds the weights themselves to bfloat16")

    def bfloat16_as(self, name: str, choices: list[Choices]) -> AbstractContextManager[None]:
        """See `bfloat16_implementations`."""
        raise NotApplicableError("transformers rounds the weights themselves to bfloat16")

    @torch.no_grad()
    def bfloat16_choices(self, tokens: Tensor) -> list[Choices]:
        """Of a copy whose weights are bfloat16."""
        half = copy.deepcopy(self.model).to(torch.bfloat16)
        sites = find_sites(half, self.shape.num_experts, self.shape.d_model)
        with RouterTape(sites) as tape:
            half(self._here(tokens), use_cache=False)
        return tape.choices()

    def save(self, folder: Path) -> None:
        """By `save_pretrained`."""
        with quiet_transformers():
            self._model.save_pretrained(folder)

    def load(self, folder: Path) -> Subject:
        """By `from_pretrained`."""
        return HuggingFaceSubject(open_model(folder, self._device()), self.name)

    def converted_logits(self, tokens: Tensor, folder: Path) -> Tensor:
        """By `isoflop import`, as our decoder."""
        self.save(folder / "theirs")
        try:
            import_checkpoint(folder / "theirs", folder / "ours")
        except UserError as error:
            reason = str(error).replace(f"{folder / 'theirs'}/", "")
            raise NotApplicableError(f"our decoder does not have it: {reason}") from None
        ours = load_checkpoint(folder / "ours", device=self._device())
        with torch.no_grad():
            output: Output = ours(self._here(tokens))
        return output.logits.float().cpu()

    def resume_differences(self, folder: Path, seed: int) -> tuple[int, str]:
        """Weights and AdamW's moments after six steps, with and without files in between."""
        return resume_differences(self.model, folder, seed)

    def counted_parameters(self) -> int:
        """See `hugging_face_counts`."""
        return parameters(self.config)

    def counted_forward_flops(self, batch: int, length: int) -> int:
        """See `hugging_face_counts`."""
        return forward_flops(self.config, batch, length)

    def reduced(self) -> Subject:
        """The same class and config with SMALL in it, and fresh weights."""
        transformers = import_transformers()
        fields = self.config.to_dict()
        fields |= {name: value for name, value in SMALL.items() if name in fields}
        if self.shape.top_k == self.shape.num_experts:
            fields |= {name: fields[other] for name, other in _pairs(fields)}
        config = type(self.config).from_dict(fields)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        shape = f"{config.num_hidden_layers} layers of width {config.hidden_size}"
        stands_for = f"measured on a model of the same class with {shape} and fresh weights"
        return HuggingFaceSubject(model.to(self._device()).eval(), self.name, stands_for)

    def _counts(self, output: Any) -> Tensor:
        """Choices of each expert by the router logits that the model's balance loss is given."""
        layers = getattr(output, "router_logits", None)
        if not layers:
            return torch.zeros(self.shape.num_layers, self.shape.num_experts, dtype=torch.long)
        rows = []
        for logits in layers:
            chosen = logits.detach().topk(self.shape.top_k, dim=-1).indices.flatten().cpu()
            rows.append(torch.bincount(chosen, minlength=self.shape.num_experts))
        return torch.stack(rows)

    @contextmanager
    def _set_up(self, how: Step) -> Iterator[None]:
        """Coefficient and recomputation for a while; recomputation needs training mode."""
        model: Any = self.model
        before = getattr(model, "router_aux_loss_coef", None)
        if how.balance_coefficient is not None:
            if before is None:
                raise NotApplicableError(f"{type(model).__name__} has no router_aux_loss_coef")
            model.router_aux_loss_coef = how.balance_coefficient
        model.train()
        if how.recompute:
            model.activation_checkpointing_enable()
        try:
            yield
        finally:
            if how.recompute:
                model.activation_checkpointing_disable()
            model.eval()
            if before is not None:
                model.router_aux_loss_coef = before

    def _switches_experts(self) -> bool:
        return getattr(self.config, "_experts_implementation", None) is not None

    def _device(self) -> str:
        return str(next(self.model.parameters()).device)

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device())


def open_hugging_face(folder: Path, device: str) -> HuggingFaceSubject:
    """The model of a local directory.

    Raises:
        UserError: no model, not a Mixture of Experts, an unsupported variant, or broken files.
    """
    with quiet_transformers():
        return HuggingFaceSubject(open_model(folder, device), folder.name)


def _pairs(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """The config's names of k, each with its name of E."""
    (experts,) = [name for name in NUM_EXPERTS_FIELDS if name in fields][:1]
    return [(name, experts) for name in TOP_K_FIELDS if name in fields]


def _declared_order(config: Any) -> bool | None:
    """Whether the k weights are divided by their sum, by the config or by the class."""
    declared = getattr(config, "norm_topk_prob", None)
    if declared is not None:
        return bool(declared)
    return True if config.model_type in NORMALISED else None


def _switch_off_noise(model: nn.Module) -> None:
    """Dropout and router jitter to zero: laws compare passes that must not draw random numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "jitter_noise", "router_jitter_noise"):
            if isinstance(module.__dict__.get(name), float):
                module.__dict__[name] = 0.0
