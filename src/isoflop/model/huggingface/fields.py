"""A Mixtral's config.json: written from our config, and read back with every field checked.

What our decoder does not have is refused by name and value; what makes no
difference to the logits (dropout, the router's training noise) is noted.

Sources: `MixtralConfig`, transformers 4.36 to 5.23; its defaults where a file is silent.
"""

import math
from pathlib import Path
from typing import Any, get_args

from isoflop.config import UserError
from isoflop.model.config import MAX_SEQUENCE_LENGTH, ModelConfig, RouterOrder

ARCHITECTURE = "MixtralForCausalLM"

LARGEST_NUMBER = 1e30
"""What a float32, in which these are computed, still holds."""

ORDER_FIELD = "isoflop_router_order"
"""Of our exports alone, which transformers keeps and does not read: with k = E both orders give one
answer, and the checkpoint should come back with its own."""


def check_mixtral(config: ModelConfig) -> None:
    """Refuse a router that Mixtral does not have.

    Raises:
        UserError: weights that do not sum to 1 over the chosen experts.
    """
    # Over all experts nothing is left out, so both orders give the same weights.
    if config.router_order == "softmax_then_topk" and config.top_k < config.num_experts:
        raise UserError(
            "router_order='softmax_then_topk' cannot be said in a Mixtral, whose router makes the "
            f"weights of the chosen experts sum to 1; with top_k={config.top_k} of "
            f"{config.num_experts} experts its answers would differ without a word. Export a model "
            "trained with router_order='topk_then_softmax' and top_k of 2 or more"
        )


def order_fields(config: ModelConfig) -> dict[str, str]:
    """What an export says of the router's order; nothing where it is Mixtral's."""
    mixtral = config.router_order == "topk_then_softmax"
    return {} if mixtral else {ORDER_FIELD: config.router_order}


def mixtral_config_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields of transformers' `MixtralConfig` that say this shape.

    Every field that decides the logits is named, so that no release's default does. The
    rotary base stands in both forms: transformers 4 reads `rope_theta`, 5 `rope_parameters`.
    """
    return {
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_expert,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_width,
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.top_k,
        "max_position_embeddings": config.sequence_length,
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "rms_norm_eps": config.norm_epsilon,
        "initializer_range": config.init_std,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "router_jitter_noise": 0.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "output_router_logits": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


SIZES = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "d_model",
    "intermediate_size": "d_expert",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "top_k",
    "max_position_embeddings": "sequence_length",
}
"""Theirs to ours. A file must say them all: a default would be another model without a word."""

DEFAULT_KEY_VALUE_HEADS = 8
DEFAULT_ROPE_BASE = 1e6
DEFAULT_NORM_EPSILON = 1e-5
DEFAULT_INITIALIZER_RANGE = 0.02
"""What transformers' `MixtralConfig` takes where a file is silent."""

OTHER_MODELS = {
    "llama": "it has no experts: a dense decoder",
    "mistral": "it has no experts: a dense decoder",
    "qwen2": "it has no experts: a dense decoder",
    "qwen3": "it has no experts: a dense decoder",
    "gpt2": "it has no experts: a dense decoder",
    "qwen2_moe": "it has shared experts and biases in attention",
    "qwen3_moe": "it normalises queries and keys, and its top-k weights need not sum to 1",
    "olmoe": "it normalises queries and keys, and its top-k weights need not sum to 1",
    "deepseek_v2": "it has shared experts and latent attention",
    "deepseek_v3": "it has shared experts, a sigmoid router and latent attention",
    "phimoe": "its router is sparsemixer's, its norms are LayerNorm",
    "minimax_m2": "it has a sigmoid router",
}
"""What sets other models apart, by model_type."""

FOREIGN_FIELDS = {
    "n_shared_experts": "shared experts",
    "num_shared_experts": "shared experts",
    "shared_expert_intermediate_size": "a shared expert",
    "attention_bias": "biases in attention",
    "mlp_bias": "biases in the experts",
    "qk_layernorm": "norms of queries and keys",
    "use_qk_norm": "norms of queries and keys",
    "clip_qkv": "queries, keys and values are clipped",
    "quantization_config": "quantised weights",
}
"""Fields that, where set, say a model which our decoder is not."""

USE_ANOTHER = "only a plain Mixtral can be imported"


def model_config(data: Any, path: Path) -> tuple[ModelConfig, tuple[str, ...]]:
    """Our config out of a Mixtral's config.json, and notes on what has no effect here.

    Raises:
        UserError: another kind of model, or a field that our decoder cannot say; it is named.
    """
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold an object of fields, not {data!r:.40}")
    _check_kind(data, path)
    sizes: dict[str, Any] = {own: _size(data, name, path) for name, own in SIZES.items()}
    if sizes["sequence_length"] > MAX_SEQUENCE_LENGTH:
        raise UserError(
            f"{path}: max_position_embeddings={sizes['sequence_length']} must be at most "
            f"{MAX_SEQUENCE_LENGTH}: float32 does not tell later positions apart"
        )
    heads = _key_value_heads(data, sizes["num_heads"], path)
    _check_widths(data, sizes, path)
    _check_router(data, sizes, path)
    # Outside the try: these errors name the file already.
    numbers: dict[str, Any] = {
        "rope_base": _rope_base(data, path),
        "norm_epsilon": _number(data, "rms_norm_eps", DEFAULT_NORM_EPSILON, path),
        "init_std": _number(data, "initializer_range", DEFAULT_INITIALIZER_RANGE, path),
    }
    order = _router_order(data, sizes, path)
    own_heads = None if heads == sizes["num_heads"] else heads
    try:
        config = ModelConfig(**sizes, **numbers, num_key_value_heads=own_heads, router_order=order)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return config, _notes(data)


def _check_kind(data: dict[str, Any], path: Path) -> None:
    kind = data.get("model_type")
    if kind != "mixtral":
        told = [f"{words} ({name})" for name, words in FOREIGN_FIELDS.items() if data.get(name)]
        reason = OTHER_MODELS.get(str(kind), " and ".join(told) or "it is another model")
        raise UserError(f"{path}: model_type={kind!r} is no Mixtral: {reason}; {USE_ANOTHER}")
    architectures = data.get("architectures") or [ARCHITECTURE]
    if architectures != [ARCHITECTURE]:
        raise UserError(
            f"{path}: architectures={architectures!r} must be [{ARCHITECTURE!r}]: another head "
            f"than the one over the vocabulary; {USE_ANOTHER}"
        )
    for name, words in FOREIGN_FIELDS.items():
        if data.get(name):
            raise UserError(f"{path}: {name}={data[name]!r:.60}: {words}; {USE_ANOTHER}")
    activation = data.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UserError(f"{path}: hidden_act={activation!r} must be 'silu'; {USE_ANOTHER}")


def _check_router(data: dict[str, Any], sizes: dict[str, int], path: Path) -> None:
    scores = data.get("scoring_func", "softmax")
    if scores != "softmax":
        raise UserError(
            f"{path}: scoring_func={scores!r}: the router must be a softmax; {USE_ANOTHER}"
        )
    if data.get("norm_topk_prob", True) is not True:
        raise UserError(
            f"{path}: norm_topk_prob={data['norm_topk_prob']!r}: the weights of the chosen experts "
            f"must sum to 1; {USE_ANOTHER}"
        )
    if sizes["top_k"] == 1 and sizes["num_experts"] > 1:
        raise UserError(
            f"{path}: num_experts_per_tok=1 of {sizes['num_experts']}: a Mixtral then gives every "
            "token the weight 1, so its router learns nothing; our decoder has no such router. "
            "Import a model with num_experts_per_tok of 2 or more"
        )


def _router_order(data: dict[str, Any], sizes: dict[str, int], path: Path) -> Any:
    """Mixtral's, unless an export of ours says the other where it gives the same answer."""
    order = data.get(ORDER_FIELD, "topk_then_softmax")
    if order not in get_args(RouterOrder):
        raise UserError(
            f"{path}: {ORDER_FIELD}={order!r} must be one of {', '.join(get_args(RouterOrder))}"
        )
    if order != "topk_then_softmax" and sizes["top_k"] < sizes["num_experts"]:
        raise UserError(
            f"{path}: {ORDER_FIELD}={order!r} is no Mixtral's where num_experts_per_tok="
            f"{sizes['top_k']} is below num_local_experts={sizes['num_experts']}; {USE_ANOTHER}"
        )
    return order


def _check_widths(data: dict[str, Any], sizes: dict[str, int], path: Path) -> None:
    width = data.get("head_dim")
    if width is not None and (
        type(width) is not int or width * sizes["num_heads"] != sizes["d_model"]
    ):
        raise UserError(
            f"{path}: head_dim={width!r}: heads of another width than hidden_size="
            f"{sizes['d_model']} / num_attention_heads={sizes['num_heads']} cannot be said here; "
            + USE_ANOTHER
        )
    window = data.get("sliding_window")
    if window is not None and (type(window) is not int or window < sizes["sequence_length"]):
        raise UserError(
            f"{path}: sliding_window={window!r} is shorter than max_position_embeddings="
            f"{sizes['sequence_length']}: our attention sees every earlier position. Lower "
            "max_position_embeddings to the window: up to there the two are the same"
        )


def _key_value_heads(data: dict[str, Any], num_heads: int, path: Path) -> int:
    """Silent is Mixtral's default; null is as many as there are heads."""
    if data.get("num_key_value_heads", 0) is None:
        return num_heads
    if "num_key_value_heads" not in data:
        return DEFAULT_KEY_VALUE_HEADS
    return _size(data, "num_key_value_heads", path)


def _rope_base(data: dict[str, Any], path: Path) -> float:
    """From transformers 5's `rope_parameters` or the older `rope_theta`; scaled ones are refused."""
    base = _number(data, "rope_theta", DEFAULT_ROPE_BASE, path)
    for name in ("rope_scaling", "rope_parameters"):
        rope = data.get(name) or {}
        if not isinstance(rope, dict) or not _is_plain(rope):
            raise UserError(
                f"{path}: {name}={rope!r:.80}: only plain rotary positions are known here, rope_type "
                f"'default'; {USE_ANOTHER}"
            )
        share = rope.get("partial_rotary_factor", data.get("partial_rotary_factor"))
        if share not in (None, 1, 1.0):
            raise UserError(
                f"{path}: partial_rotary_factor={share!r} must be 1: every pair of a head turns; "
                + USE_ANOTHER
            )
        base = _number(rope, "rope_theta", base, path)
    return base


def _is_plain(rope: dict[str, Any]) -> bool:
    """Whether positions are neither scaled nor different from layer to layer."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    return kind == "default" and not any(isinstance(value, dict) for value in rope.values())


def _size(data: dict[str, Any], name: str, path: Path) -> int:
    if name not in data:
        raise UserError(f"{path}: lacks the field {name!r}; add it from the model's own source")
    value = data[name]
    if type(value) is not int or value < 1:
        raise UserError(f"{path}: {name}={value!r} must be a whole number of at least 1")
    return value


def _number(data: dict[str, Any], name: str, default: float, path: Path) -> float:
    value = data.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or abs(value) > LARGEST_NUMBER or math.isnan(value):
        raise UserError(f"{path}: {name}={value!r:.40} must be a finite number")
    return float(value)


def _notes(data: dict[str, Any]) -> tuple[str, ...]:
    """What the file says and our decoder leaves out without a change to any logit."""
    found = []
    for name in ("attention_dropout", "router_jitter_noise"):
        if data.get(name):
            found.append(f"{name}={data[name]} acts in training alone and is left out")
    return tuple(found)
