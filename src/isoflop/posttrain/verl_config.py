"""GRPO's settings as verl's configuration: which key each becomes, and what verl cannot do.

Keys and their meanings: verl 0.9.1, the YAML files of `verl/trainer/config` and
`verl/trainer/ppo/core_algos.py`. No torch here.
"""

import json
import math
from typing import Any

from isoflop.config import UserError
from isoflop.posttrain.config import GrpoConfig
from isoflop.posttrain.settings import Aggregation, Divergence

VERL_VERSION = "0.9.1"
"""Whose keys these are."""

CONFIG_NAME = "grpo"
"""Of the YAML file, without its ending."""

AGGREGATION: dict[Aggregation, str] = {
    "token_mean": "token-mean",
    "sequence_mean": "seq-mean-token-mean",
    "constant": "seq-mean-token-sum-norm",
}
DIVERGENCE: dict[Divergence, str] = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}

NO_DUAL_CLIP = 1e9
"""verl also bounds the loss of a token with a negative advantage, at 3 ratios by default; it clamps
ratios to e^20 = 4.9e8 before, so that this bound is never met: the objective is then ours."""

LEAST_GPU_TOKENS = 24_000
"""Tokens of a dynamic micro-batch on one GPU. arXiv:2508.18672, released train script."""

GPU_MEMORY_SHARE = 0.4
"""Of the sampling engine. The same script."""

NUM_GPUS = 8
"""Of one node. The same script; run.sh takes another number as trainer.n_gpus_per_node=N."""


def verl_config(config: GrpoConfig, *, num_problems: int, context: int) -> dict[str, Any]:
    """What is laid over verl's own `ppo_trainer` configuration, the paths apart.

    Args:
        num_problems: training problems whose prompts fit.
        context: tokens that the model reads at most.

    Raises:
        UserError: a setting that verl has not, or prompts and answers beyond the context.
    """
    check_verl(config, context)
    if num_problems < config.prompts_per_step:
        raise UserError(
            f"{num_problems} problems are fewer than prompts_per_step={config.prompts_per_step}"
        )
    epochs = math.ceil(config.num_steps / (num_problems // config.prompts_per_step))
    validated = bool(config.validation)
    return {
        "hydra": {"searchpath": ["pkg://verl.trainer.config"]},
        "defaults": ["ppo_trainer", "_self_"],
        "data": {
            "train_batch_size": config.prompts_per_step,
            "max_prompt_length": config.max_prompt_tokens,
            "max_response_length": config.max_response_tokens,
            "filter_overlong_prompts": True,
            "truncation": "error",
            "shuffle": True,
            "seed": config.seed,
        },
        "algorithm": {
            "adv_estimator": "grpo",
            "norm_adv_by_std_in_grpo": config.advantage_scale == "group_std",
            "use_kl_in_reward": False,
            "rollout_correction": {"bypass_mode": config.old_log_probs == "sampler"},
        },
        "actor_rollout_ref": {
            "model": {"custom_chat_template": None},
            "actor": _actor(config),
            "rollout": _rollout(config),
        },
        "reward": {
            "reward_manager": {"name": "naive"},
            "custom_reward_function": {"name": "compute_score"},
        },
        "trainer": {
            "total_training_steps": config.num_steps,
            "total_epochs": epochs,
            "val_before_train": validated,
            "test_freq": config.validation_steps if validated else -1,
            "save_freq": config.checkpoint_steps or config.num_steps,
            "n_gpus_per_node": NUM_GPUS,
            "nnodes": 1,
            "logger": ["console"],
            "project_name": "isoflop",
            "experiment_name": config.train.label,
        },
    }


def _actor(config: GrpoConfig) -> dict[str, Any]:
    """The objective and its optimiser."""
    longest = config.max_prompt_tokens + config.max_response_tokens
    return {
        "ppo_mini_batch_size": config.mini_batch_prompts,
        "ppo_epochs": 1,
        "use_dynamic_bsz": True,
        "ppo_max_token_len_per_gpu": max(LEAST_GPU_TOKENS, longest),
        "clip_ratio_low": config.clip_low,
        "clip_ratio_high": config.clip_high,
        "clip_ratio_c": NO_DUAL_CLIP,
        "loss_agg_mode": AGGREGATION[config.aggregation],
        "loss_scale_factor": config.max_response_tokens,
        "entropy_coeff": config.entropy_coefficient,
        "use_kl_loss": config.divergence_coefficient > 0,
        "kl_loss_coef": config.divergence_coefficient,
        "kl_loss_type": DIVERGENCE[config.divergence],
        "data_loader_seed": config.seed,
        "optim": {
            "lr": config.learning_rate,
            "lr_scheduler_type": "constant",
            "lr_warmup_steps": 0,
            "betas": [config.beta1, config.beta2],
            "weight_decay": config.weight_decay,
            "clip_grad": config.max_gradient_norm,
            "override_optimizer_config": {"eps": config.epsilon},
        },
    }


def _rollout(config: GrpoConfig) -> dict[str, Any]:
    """How answers are sampled, in training and in validation."""
    return {
        "name": "vllm",
        "n": config.samples_per_prompt,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": -1,
        "seed": config.seed,
        "calculate_log_probs": True,
        "tensor_model_parallel_size": 1,
        "gpu_memory_utilization": GPU_MEMORY_SHARE,
        "val_kwargs": {"do_sample": False, "temperature": 0, "top_p": 1.0, "top_k": -1, "n": 1},
    }


def check_verl(config: GrpoConfig, context: int) -> None:
    """Refuse what would silently be something else in verl.

    Raises:
        UserError: the field, its value, and why.
    """
    refused = {
        "max_gradient_l1_norm": (config.max_gradient_l1_norm is not None, "one norm is clipped"),
        "divergence_by_ratio": (config.divergence_by_ratio, "its divergence loss has no ratio"),
        "balance_coefficient": (config.balance_coefficient > 0, "it adds no router loss"),
        "z_coefficient": (config.z_coefficient > 0, "it adds no router loss"),
        "replay_routing": (config.replay_routing, "FSDP training does not replay routing"),
        "router_drift": (config.router_drift > 0, "its engines drift by themselves"),
        "probe_steps": (config.probe_steps is not None, "it has no second-moment probes"),
    }
    for name, (is_set, why) in refused.items():
        if is_set:
            raise UserError(
                f"{name}={getattr(config, name)} has no place in verl {VERL_VERSION}: {why}; leave "
                "it out to export"
            )
    longest = config.max_prompt_tokens + config.max_response_tokens
    if longest > context:
        raise UserError(
            f"max_prompt_tokens={config.max_prompt_tokens} and "
            f"max_response_tokens={config.max_response_tokens} are {longest} tokens together, more "
            f"than the model's {context}; vLLM refuses that: lower one of them"
        )


def to_yaml(value: Any, depth: int = 0) -> str:
    """Nested dictionaries as YAML, leaves as JSON.

    >>> print(to_yaml({"a": {"rate": 5e-06}, "b": [1, None]}), end="")
    a:
      rate: 5.0e-06
    b: [1, null]
    """
    lines = []
    for key, held in value.items():
        # YAML 1.1 has n for false.
        name = f"{'  ' * depth}{json.dumps(key) if key == 'n' else key}:"
        if isinstance(held, dict) and held:
            lines.append(f"{name}\n{to_yaml(held, depth + 1)}")
        else:
            lines.append(f"{name} {_leaf(held)}\n")
    return "".join(lines)


def _leaf(value: Any) -> str:
    text = json.dumps(value)
    # YAML 1.1 reads 5e-06 as text: a number with an exponent needs a point.
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e", 1)
    return text
