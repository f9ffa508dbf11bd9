"""Our weights under Megatron-LM's names and in its layout, and back: pure functions, without a loss.

The layout is that of one tensor-, pipeline- and expert-parallel rank. Megatron-LM fuses queries,
keys and values group by group (the queries of one group of heads, its key, its value), ours are
all queries, all keys, all values; its experts' matrices are the transposes of ours.

    "local"               plain modules, one module an expert
    "transformer_engine"  the norm before attention lies in the fused projection, experts in one
                          module: what `isoflop export --to megatron` asks for

Source: megatron-core 0.16.1, whose own modules' names, shapes and logits the tests compare; names
of the second kind as its Transformer Engine layers register them.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from isoflop.config import UserError
from isoflop.model.config import ModelConfig

Kind = Literal["local", "transformer_engine"]

OUTSIDE = {
    "embedding": "embedding.word_embeddings.weight",
    "norm.weight": "decoder.final_layernorm.weight",
    "head": "output_layer.weight",
}
"""Weights that are no layer's, by our names."""

EXTRA = "._extra_state"
"""End of the names of what is no weight: Transformer Engine's scales."""


def to_megatron(
    weights: Mapping[str, Tensor], config: ModelConfig, kind: Kind = "transformer_engine"
) -> dict[str, Tensor]:
    """A `Transformer`'s weights as Megatron-LM's GPT model has them."""
    found = {theirs: weights[ours] for ours, theirs in OUTSIDE.items()}
    for layer in range(config.num_layers):
        own = f"layers.{layer}."
        for ours, theirs in _same(layer, kind).items():
            found[theirs] = weights[ours]
        found[_fused(layer)] = _by_group(weights[own + "attention.query_key_value"], config)
        for expert, (first, second) in enumerate(_expert_names(layer, config, kind)):
            found[first] = weights[own + "moe.gate_up"][expert].t().contiguous()
            found[second] = weights[own + "moe.down"][expert].t().contiguous()
    return found


def from_megatron(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The weights under our names; either kind is known by its names.

    Raises:
        UserError: a weight is missing, one too many, or of another shape than the config's.
    """
    given = {name: one for name, one in weights.items() if not name.endswith(EXTRA)}
    kind: Kind = "local" if _same_names("local", config) <= set(given) else "transformer_engine"
    found = {ours: _take(given, theirs) for ours, theirs in OUTSIDE.items()}
    for layer in range(config.num_layers):
        own = f"layers.{layer}."
        for ours, theirs in _same(layer, kind).items():
            found[ours] = _take(given, theirs)
        fused = _take(given, _fused(layer))
        _check(_fused(layer), fused, (config.query_key_value_width, config.d_model))
        found[own + "attention.query_key_value"] = _by_kind(fused, config)
        pairs = list(_expert_names(layer, config, kind))
        for place, (name, shape) in enumerate(
            (
                ("moe.gate_up", (2 * config.d_expert, config.d_model)),
                ("moe.down", (config.d_model, config.d_expert)),
            )
        ):
            parts = [(pair[place], _take(given, pair[place])) for pair in pairs]
            for theirs, part in parts:
                _check(theirs, part, shape)
            found[own + name] = torch.stack([part.t() for _, part in parts]).contiguous()
    if given:
        raise UserError(f"{sorted(given)[0]}: a weight that no {config.num_layers}-layer model has")
    return found


def _same(layer: int, kind: Kind) -> dict[str, str]:
    """Weights of a layer that are alike, from our name to Megatron-LM's."""
    own, theirs = f"layers.{layer}.", f"decoder.layers.{layer}."
    norm = {
        "local": "input_layernorm.weight",
        "transformer_engine": "self_attention.linear_qkv.layer_norm_weight",
    }
    return {
        own + "attention_norm.weight": theirs + norm[kind],
        own + "attention.output": theirs + "self_attention.linear_proj.weight",
        own + "moe_norm.weight": theirs + "pre_mlp_layernorm.weight",
        own + "moe.router": theirs + "mlp.router.weight",
    }


def _same_names(kind: Kind, config: ModelConfig) -> set[str]:
    return {name for layer in range(config.num_layers) for name in _same(layer, kind).values()}


def _fused(layer: int) -> str:
    return f"decoder.layers.{layer}.self_attention.linear_qkv.weight"


def _expert_names(layer: int, config: ModelConfig, kind: Kind) -> Iterator[tuple[str, str]]:
    """Of each expert: the name of gate and up in one, and of down."""
    stem = f"decoder.layers.{layer}.mlp.experts."
    for expert in range(config.num_experts):
        if kind == "local":
            one = f"{stem}local_experts.{expert}."
            yield one + "linear_fc1.weight", one + "linear_fc2.weight"
        else:
            yield f"{stem}linear_fc1.weight{expert}", f"{stem}linear_fc2.weight{expert}"


def _by_group(fused: Float[Tensor, "rows d_model"], config: ModelConfig) -> Tensor:
    """All queries, keys, values -> queries, key and value of each group of heads."""
    groups, width = config.key_value_heads, config.head_width
    sizes = [config.num_heads * width, groups * width, groups * width]
    parts = [part.view(groups, -1, part.shape[1]) for part in fused.split(sizes)]
    return torch.cat(parts, dim=1).reshape(fused.shape)


def _by_kind(fused: Float[Tensor, "rows d_model"], config: ModelConfig) -> Tensor:
    """The way back of `_by_group`."""
    groups, width = config.key_value_heads, config.head_width
    own = config.num_heads // groups * width
    parts = fused.reshape(groups, -1, fused.shape[1]).split([own, width, width], dim=1)
    return torch.cat([part.reshape(-1, fused.shape[1]) for part in parts])


def _take(given: dict[str, Tensor], name: str) -> Tensor:
    if name not in given:
        raise UserError(
            f"{name}: missing; a whole model of one tensor-, pipeline- and expert-parallel rank is "
            "needed, converted by Megatron-LM's own tools if it was saved by several"
        )
    return given.pop(name)


def _check(name: str, weight: Tensor, shape: tuple[int, int]) -> None:
    if tuple(weight.shape) != shape:
        raise UserError(f"{name}: shape {tuple(weight.shape)}, expected {shape}")
