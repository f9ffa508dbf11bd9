"""Small models to examine: ours in several shapes, and transformers' with random weights."""

from pathlib import Path
from typing import Any

import torch
from torch import distributed

from isoflop.doctor.own import OwnSubject
from isoflop.model.config import ModelConfig
from isoflop.model.router import balance_loss
from isoflop.model.transformer import Transformer


def small_config(**changes: object) -> ModelConfig:
    """Two layers, eight experts."""
    fields: dict[str, object] = {
        "vocabulary_size": 128,
        "num_layers": 2,
        "d_model": 32,
        "num_heads": 4,
        "d_expert": 64,
        "num_experts": 8,
        "top_k": 2,
        "sequence_length": 64,
        "init_std": 0.1,
    }
    return ModelConfig(**{**fields, **changes})  # type: ignore[arg-type]


def ours(**changes: object) -> OwnSubject:
    """Our decoder with fresh weights."""
    return OwnSubject(Transformer(small_config(**changes), seed=1).eval(), "ours")


SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2}
QWEN = EXPERTS | {"moe_intermediate_size": 48}
CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        {"num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        QWEN | {"shared_expert_intermediate_size": 40},
    ),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", QWEN | {"head_dim": 12}),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", EXPERTS | {"num_key_value_heads": 4}),
    "granitemoe": (
        "GraniteMoeForCausalLM",
        "GraniteMoeConfig",
        {"num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 32},
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {}),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
        },
    ),
}


def save_theirs(kind: str, folder: Path, **changes: object) -> Path:
    """Write a small model of transformers' with random weights."""
    import transformers

    model_class, config_class, fields = CLASSES[kind]
    config = getattr(transformers, config_class)(**{**SHAPE, **fields, **changes})
    torch.manual_seed(0)
    getattr(transformers, model_class)(config).save_pretrained(folder)
    return folder


def balance_of_rank(rank: int, num_ranks: int, store: str, out: str) -> None:
    """One real process of a data-parallel batch: its gradient, averaged over all, saved by rank 0."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=num_ranks
    )
    model = Transformer(small_config(), seed=1)
    tokens = probing_batch()
    statistics = model.hidden(tokens.chunk(num_ranks)[rank])[1]
    counts = statistics.expert_counts.clone()
    distributed.all_reduce(counts)
    balance_loss(statistics, "global", counts).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for gradient in gradients.values():
        distributed.all_reduce(gradient)
        gradient /= num_ranks
    if rank == 0:
        torch.save(gradients, out)
    distributed.destroy_process_group()


def probing_batch() -> torch.Tensor:
    """Eight sequences."""
    return torch.randint(0, 128, (8, 16), generator=torch.Generator().manual_seed(5))
