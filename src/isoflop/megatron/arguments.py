"""Megatron-LM's arguments for one cell: names and values of `pretrain_gpt.py`.

Sources: the launch scripts released with the optimal-sparsity study (arXiv:2508.18672), whose
values come out for its cells; Megatron-LM's argument parser (megatron/training/arguments.py as
shipped with megatron-core 0.19.2) knows every name. Written for Megatron-LM of core 0.10 to 0.19.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isoflop.config import UserError
from isoflop.megatron.layout import MegatronLayout
from isoflop.model.config import ModelConfig
from isoflop.train.config import TrainConfig

Arguments = dict[str, tuple[str, ...]]
"""From an argument's name to its values; none for a switch. In the order of the command."""

BALANCING = {"micro": "aux_loss", "sequence": "seq_aux_loss", "global": "global_aux_loss"}
"""Our scopes by Megatron-LM's names. Its global one weighs by the micro-batches seen so far."""

EVALUATION_ITERATIONS = 10
"""Batches of one validation, as in the released scripts."""

SEED_OF_ZERO = 2**31 - 1
"""What Megatron-LM, whose seeds are above 0, is given for our seed 0. All other seeds are themselves,
so that the released scripts' 1234 is 1234, and are below it, so that no two become one."""


@dataclass(frozen=True, kw_only=True)
class MegatronData:
    """Which shards are read, by which weights, and which tokenizer names their vocabulary."""

    train: Mapping[str, float]
    """From a shard's prefix (without .bin and .idx) to its weight."""
    validation: Mapping[str, float] | None = None
    """None: the training shards are split, `split`."""
    split: str = "990,10,0"
    """Train, validation and test, where there are no validation shards."""
    tokenizer_type: str = "NullTokenizer"
    tokenizer_model: str | None = None
    """Its file. None with NullTokenizer: the shards hold tokens already."""
    cache: str = "cache"
    """Folder in which Megatron-LM keeps its orders of documents."""


def model_arguments(model: ModelConfig, sequence_length: int) -> Arguments:
    """Shape and initialisation."""
    arguments: Arguments = {
        "--use-mcore-models": (),
        "--disable-bias-linear": (),
        "--seq-length": (str(sequence_length),),
        "--max-position-embeddings": (str(model.sequence_length),),
        "--num-layers": (str(model.num_layers),),
        "--hidden-size": (str(model.d_model),),
        "--ffn-hidden-size": (str(model.d_expert),),
        "--num-attention-heads": (str(model.num_heads),),
        "--num-query-groups": (str(model.key_value_heads),),
        "--init-method-std": (_number(model.init_std),),
        "--attention-dropout": ("0.0",),
        "--hidden-dropout": ("0.0",),
        "--normalization": ("RMSNorm",),
        "--norm-epsilon": (_number(model.norm_epsilon),),
        "--position-embedding-type": ("rope",),
        "--rotary-base": (str(_whole(model.rope_base, "rope_base")),),
        "--swiglu": (),
        "--untie-embeddings-and-output-weights": (),
        "--no-masked-softmax-fusion": (),
    }
    if model.key_value_heads < model.num_heads:
        arguments["--group-query-attention"] = ()
    return arguments


def expert_arguments(model: ModelConfig, train: TrainConfig) -> Arguments:
    """Router and experts."""
    arguments: Arguments = {
        "--num-experts": (str(model.num_experts),),
        "--moe-router-topk": (str(model.top_k),),
        "--moe-router-load-balancing-type": (BALANCING[train.balance_scope],),
        "--moe-aux-loss-coeff": (_number(train.balance_coefficient),),
        "--moe-z-loss-coeff": (_number(train.z_coefficient),),
        "--moe-token-dispatcher-type": ("alltoall",),
        "--overlap-param-gather": (),
        "--overlap-grad-reduce": (),
    }
    if train.precision == "bfloat16":
        # Megatron-LM of older cores refuses grouped products in another precision.
        arguments["--moe-grouped-gemm"] = ()
    if model.router_order == "softmax_then_topk":
        arguments["--moe-router-pre-softmax"] = ()
    return arguments


def training_arguments(train: TrainConfig, layout: MegatronLayout) -> Arguments:
    """Budget, optimiser, precision."""
    steps = str(train.num_steps)
    arguments: Arguments = {
        "--micro-batch-size": (str(layout.micro_batch_sequences),),
        "--global-batch-size": (str(train.batch_sequences),),
        "--train-iters": (steps,),
        "--lr": (_number(train.peak_learning_rate),),
        "--min-lr": (_number(train.peak_learning_rate * train.final_learning_rate_share),),
        "--lr-decay-style": ("cosine",),
        "--lr-decay-iters": (steps,),
        "--lr-warmup-iters": (str(train.warmup_steps),),
        "--weight-decay": (_number(train.weight_decay),),
        "--clip-grad": (_number(train.max_gradient_norm),),
        "--optimizer": ("adam",),
        "--adam-beta1": (_number(train.beta1),),
        "--adam-beta2": (_number(train.beta2),),
        "--adam-eps": (_number(train.epsilon),),
        "--transformer-impl": ("transformer_engine",),
        "--attention-softmax-in-fp32": (),
        "--accumulate-allreduce-grads-in-fp32": (),
        "--distributed-backend": ("nccl",),
        "--ckpt-format": ("torch",),
    }
    if train.precision == "bfloat16":
        arguments["--bf16"] = ()
        arguments["--use-flash-attn"] = ()
    if train.recompute == "layers":
        arguments["--recompute-granularity"] = ("full",)
        arguments["--recompute-method"] = ("uniform",)
        arguments["--recompute-num-layers"] = ("1",)
    return arguments


def parallel_arguments(layout: MegatronLayout) -> Arguments:
    """How the model is spread over GPUs."""
    return {
        "--tensor-model-parallel-size": ("1",),
        "--pipeline-model-parallel-size": (str(layout.pipeline_parallel),),
        "--expert-model-parallel-size": (str(layout.expert_parallel),),
        "--context-parallel-size": ("1",),
        "--use-distributed-optimizer": (),
        "--sequence-parallel": (),
    }


def data_arguments(model: ModelConfig, data: MegatronData) -> Arguments:
    """Shards with their weights, and the vocabulary."""
    arguments: Arguments = {"--tokenizer-type": (data.tokenizer_type,)}
    if data.tokenizer_model is not None:
        arguments["--tokenizer-model"] = (data.tokenizer_model,)
    else:
        # NullTokenizer adds its end of text to these, in core 0.19 no more; both are padded to ours.
        arguments["--vocab-size"] = (str(model.vocabulary_size - 1),)
        arguments["--make-vocab-size-divisible-by"] = (str(model.vocabulary_size),)
    if data.validation is None:
        arguments["--data-path"] = _blend(data.train)
        arguments["--split"] = (data.split,)
    else:
        arguments["--train-data-path"] = _blend(data.train)
        arguments["--valid-data-path"] = _blend(data.validation)
    arguments["--data-cache-path"] = (data.cache,)
    return arguments


def logging_arguments(train: TrainConfig, checkpoints: str, save_steps: int | None) -> Arguments:
    """What is logged, saved and validated, and how often."""
    every = str(save_steps or max(1, train.num_steps // train.num_checkpoints))
    return {
        "--log-interval": ("1",),
        "--log-throughput": (),
        "--moe-per-layer-logging": (),
        "--save-interval": (every,),
        "--eval-interval": (every,),
        "--eval-iters": (str(EVALUATION_ITERATIONS),),
        "--save": (checkpoints,),
        "--load": (checkpoints,),
    }


def megatron_arguments(
    model: ModelConfig,
    train: TrainConfig,
    layout: MegatronLayout,
    data: MegatronData,
    *,
    seed: int,
    checkpoints: str,
    save_steps: int | None = None,
    cell: str = "model",
) -> Arguments:
    """Everything that `pretrain_gpt.py` is given for one cell.

    Args:
        checkpoints: folder that Megatron-LM saves to and goes on from.
        save_steps: between checkpoints and validations; None: as many checkpoints as `train` keeps.

    Raises:
        UserError: what Megatron-LM cannot do, or would refuse.
    """
    layout.check(model, train.batch_sequences, cell)
    if train.reset_attention:
        # The shards' end of text is not NullTokenizer's, and causal kernels read no mask.
        raise UserError(
            f"{cell}: reset_attention=True is not what Megatron-LM's --reset-attention-mask does "
            "with these shards and attention kernels; set train.reset_attention=False"
        )
    return {
        **model_arguments(model, train.sequence_length),
        **expert_arguments(model, train),
        **data_arguments(model, data),
        **training_arguments(train, layout),
        **parallel_arguments(layout),
        **logging_arguments(train, checkpoints, save_steps),
        "--seed": (str(_seed(seed)),),
    }


def to_words(arguments: Arguments) -> list[str]:
    """The arguments as the words of a command."""
    return [word for name, values in arguments.items() for word in (name, *values)]


def _seed(seed: int) -> int:
    if seed >= SEED_OF_ZERO:
        raise UserError(f"seed {seed} must be below {SEED_OF_ZERO} for Megatron-LM")
    return seed or SEED_OF_ZERO


def _blend(weights: Mapping[str, float]) -> tuple[str, ...]:
    words: Sequence[tuple[str, str]] = [(_number(w), prefix) for prefix, w in weights.items()]
    return tuple(word for pair in words for word in pair)


def _number(value: float) -> str:
    """As scripts write it: 4e-05 also where a product of floats is 4.0000000000000003e-05."""
    return f"{value:.12g}"


def _whole(value: float, name: str) -> int:
    if value != int(value):
        raise UserError(f"{name}={value} must be a whole number for Megatron-LM")
    return int(value)
