"""One mapping of weights between this package's decoder and Mixtral, read in both directions.

Two styles of names exist for the experts of a layer:
    classic  on disk, one matrix an expert: ``block_sparse_moe.experts.3.w1.weight``; written by
             every transformers release, read by vLLM and Megatron-Bridge too
    fused    in memory since transformers 5, all experts in one tensor: ``mlp.experts.gate_up_proj``

Both hold gate (w1) and up (w3) as [hidden, d_model] and down (w2) as [d_model, hidden]: the
transpose of ours. Sources: `MixtralForCausalLM` and its conversion mapping, transformers 5.23.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from isoflop.model.config import ModelConfig
from isoflop.model.huggingface.fields import check_mixtral, mixtral_config_fields
from isoflop.model.huggingface.package import import_transformers
from isoflop.model.transformer import Transformer

NameStyle = Literal["classic", "fused"]

OUTER_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head": "lm_head.weight",
}
"""Ours to theirs, outside the layers."""

LAYER_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.output": "self_attn.o_proj.weight",
    "moe_norm.weight": "post_attention_layernorm.weight",
}
"""Ours to theirs in every layer, where one tensor is one tensor."""

EVERYTHING = slice(None)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One tensor of theirs, and which part of a tensor of ours it is."""

    theirs: str
    ours: str
    shape: tuple[int, ...]
    """Of theirs."""
    place: tuple[int | slice, ...] = (EVERYTHING,)
    """The part of ours."""
    transposed: bool = False
    """Whether theirs has the last two axes of ours exchanged."""

    def take(self, ours: Any) -> Tensor:
        """Their tensor out of ours: a view, or the part read from a file's slice."""
        return self.turn(ours[self.place])

    def turn(self, part: Tensor) -> Tensor:
        """From one side's layout to the other's; its own inverse."""
        return part.mT if self.transposed else part


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters of our decoder, without building it."""
    d_model, hidden, experts = config.d_model, config.d_expert, config.num_experts
    projected = (config.num_heads + 2 * config.key_value_heads) * config.head_width
    shapes: dict[str, tuple[int, ...]] = {"embedding": (config.vocabulary_size, d_model)}
    for number in range(config.num_layers):
        shapes |= {
            f"layers.{number}.{name}": shape
            for name, shape in {
                "attention_norm.weight": (d_model,),
                "attention.query_key_value": (projected, d_model),
                "attention.output": (d_model, d_model),
                "moe_norm.weight": (d_model,),
                "moe.router": (experts, d_model),
                "moe.gate_up": (experts, d_model, 2 * hidden),
                "moe.down": (experts, hidden, d_model),
            }.items()
        }
    return shapes | {"norm.weight": (d_model,), "head": (config.vocabulary_size, d_model)}


def pieces(config: ModelConfig, style: NameStyle) -> list[Piece]:
    """All tensors of the Mixtral of this shape: embedding, layer by layer, norm and head."""
    shapes = parameter_shapes(config)
    outer = [
        Piece(theirs=theirs, ours=ours, shape=shapes[ours]) for ours, theirs in OUTER_NAMES.items()
    ]
    found = outer[:1]
    for number in range(config.num_layers):
        ours, theirs = f"layers.{number}", f"model.layers.{number}"
        found += [
            Piece(theirs=f"{theirs}.{name}", ours=f"{ours}.{own}", shape=shapes[f"{ours}.{own}"])
            for own, name in LAYER_NAMES.items()
        ]
        found += _projections(config, ours, theirs)
        found += (_classic_experts if style == "classic" else _fused_experts)(config, ours, theirs)
    return found + outer[1:]


def _projections(config: ModelConfig, ours: str, theirs: str) -> list[Piece]:
    """Query, key and value: rows of one matrix of ours, in this order."""
    keys = config.key_value_heads * config.head_width
    found, start = [], 0
    for name, rows in (("q_proj", config.d_model), ("k_proj", keys), ("v_proj", keys)):
        found.append(
            Piece(
                theirs=f"{theirs}.self_attn.{name}.weight",
                ours=f"{ours}.attention.query_key_value",
                shape=(rows, config.d_model),
                place=(slice(start, start + rows),),
            )
        )
        start += rows
    return found


def _classic_experts(config: ModelConfig, ours: str, theirs: str) -> list[Piece]:
    d_model, hidden = config.d_model, config.d_expert
    parts: dict[str, tuple[str, tuple[int, int], tuple[slice, ...]]] = {
        "w1": ("moe.gate_up", (hidden, d_model), (EVERYTHING, slice(0, hidden))),
        "w2": ("moe.down", (d_model, hidden), (EVERYTHING, EVERYTHING)),
        "w3": ("moe.gate_up", (hidden, d_model), (EVERYTHING, slice(hidden, 2 * hidden))),
    }
    return [
        _router(config, ours, f"{theirs}.block_sparse_moe.gate.weight"),
        *(
            Piece(
                theirs=f"{theirs}.block_sparse_moe.experts.{expert}.{name}.weight",
                ours=f"{ours}.{own}",
                shape=shape,
                place=(expert, *place),
                transposed=True,
            )
            for expert in range(config.num_experts)
            for name, (own, shape, place) in parts.items()
        ),
    ]


def _fused_experts(config: ModelConfig, ours: str, theirs: str) -> list[Piece]:
    experts, d_model, hidden = config.num_experts, config.d_model, config.d_expert
    return [
        _router(config, ours, f"{theirs}.mlp.gate.weight"),
        Piece(
            theirs=f"{theirs}.mlp.experts.gate_up_proj",
            ours=f"{ours}.moe.gate_up",
            shape=(experts, 2 * hidden, d_model),
            transposed=True,
        ),
        Piece(
            theirs=f"{theirs}.mlp.experts.down_proj",
            ours=f"{ours}.moe.down",
            shape=(experts, d_model, hidden),
            transposed=True,
        ),
    ]


def _router(config: ModelConfig, ours: str, theirs: str) -> Piece:
    shape = (config.num_experts, config.d_model)
    return Piece(theirs=theirs, ours=f"{ours}.moe.router", shape=shape)


def mixtral_state(model: Transformer) -> dict[str, Tensor]:
    """Our weights under the names and in the layouts that transformers holds in memory.

    Views of the parameters, with their gradients' history: copy them to keep them.
    """
    parameters = dict(model.named_parameters())
    return {
        piece.theirs: piece.take(parameters[piece.ours]) for piece in pieces(model.config, "fused")
    }


def mixtral_model(
    model: Transformer,
    experts_implementation: str = "eager",
    attention_implementation: str = "sdpa",
) -> Any:
    """transformers' `MixtralForCausalLM` with a copy of our weights, in float32, ready to evaluate.

    Args:
        experts_implementation: transformers' own: "eager", "grouped_mm" or "batched_mm".
        attention_implementation: transformers' own: "eager" or "sdpa".

    Raises:
        UserError: a router that Mixtral does not have, or transformers is not installed.
    """
    check_mixtral(model.config)
    transformers = import_transformers()
    theirs = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            **mixtral_config_fields(model.config),
            attn_implementation=attention_implementation,
            experts_implementation=experts_implementation,
        )
    )
    theirs.load_state_dict({name: tensor.detach() for name, tensor in mixtral_state(model).items()})
    return theirs.to(model.embedding.device).eval()
