"""The launch command has the values of the scripts released with the optimal-sparsity study."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fakes_megatron
from isoflop.config import UserError
from isoflop.experiments.demo import demo
from isoflop.experiments.paper import CORPUS_WEIGHTS, paper
from isoflop.megatron.arguments import Arguments, MegatronData, megatron_arguments, to_words
from isoflop.megatron.layout import MegatronLayout, choose_layout, gpu_bytes
from isoflop.model.config import ModelConfig
from isoflop.train.config import TrainConfig

# Read from the five scripts: nodes of 8 GPUs, pipeline, expert parallel, micro-batch; then width,
# hidden width, heads, E, k. Everything else is the same in all five.
SCRIPTS = {
    "d512-E8-k2-320M-A170M": ((4, 1, 1, 16), (512, 1024, 4, 8, 2)),
    "d512-E256-k8-6.6B-A320M": ((8, 1, 1, 8), (512, 1024, 4, 256, 8)),
    "d1024-E32-k4-3.5B-A670M": ((8, 1, 1, 8), (1024, 2048, 8, 32, 4)),
    "d2048-E8-k2-3.9B-A1.5B": ((8, 1, 1, 8), (2048, 4096, 16, 8, 2)),
    "d2048-E128-k16-52.2B-A7.1B": ((16, 4, 8, 1), (2048, 4096, 16, 128, 16)),
}
SAME = {
    "--use-mcore-models": None,
    "--disable-bias-linear": None,
    "--seq-length": 4096,
    "--max-position-embeddings": 4096,
    "--num-layers": 16,
    "--init-method-std": 0.02,
    "--attention-dropout": 0.0,
    "--hidden-dropout": 0.0,
    "--normalization": "RMSNorm",
    "--norm-epsilon": 1e-5,
    "--position-embedding-type": "rope",
    "--swiglu": None,
    "--untie-embeddings-and-output-weights": None,
    "--no-masked-softmax-fusion": None,
    "--rotary-base": 10_000,
    "--moe-z-loss-coeff": 1e-3,
    "--moe-router-load-balancing-type": "aux_loss",
    "--moe-aux-loss-coeff": 1e-2,
    "--moe-grouped-gemm": None,
    "--moe-token-dispatcher-type": "alltoall",
    "--overlap-param-gather": None,
    "--overlap-grad-reduce": None,
    "--tokenizer-type": "Llama2Tokenizer",
    "--split": "990,10,0",
    "--global-batch-size": 1024,
    "--lr": 4e-4,
    "--train-iters": 29_803,
    "--lr-decay-iters": 29_803,
    "--lr-decay-style": "cosine",
    "--min-lr": 4e-5,
    "--weight-decay": 0.1,
    "--lr-warmup-iters": 2000,
    "--clip-grad": 1.0,
    "--optimizer": "adam",
    "--adam-beta1": 0.9,
    "--adam-beta2": 0.95,
    "--adam-eps": 1e-8,
    "--bf16": None,
    "--use-flash-attn": None,
    "--transformer-impl": "transformer_engine",
    "--attention-softmax-in-fp32": None,
    "--accumulate-allreduce-grads-in-fp32": None,
    "--distributed-backend": "nccl",
    "--ckpt-format": "torch",
    "--tensor-model-parallel-size": 1,
    "--context-parallel-size": 1,
    "--use-distributed-optimizer": None,
    "--sequence-parallel": None,
    "--log-interval": 1,
    "--log-throughput": None,
    "--moe-per-layer-logging": None,
    "--save-interval": 500,
    "--eval-interval": 500,
    "--eval-iters": 10,
}
OURS = {"--data-path", "--data-cache-path", "--tokenizer-model", "--save", "--load", "--seed"}
"""Paths and the seed, which the scripts leave at Megatron-LM's default of 1234."""
DATA = MegatronData(
    train={f"corpus/{name}": weight for name, weight in CORPUS_WEIGHTS.items()},
    tokenizer_type="Llama2Tokenizer",
    tokenizer_model="llm-jp-tokenizer-100k.ver3.0b1.model",
)


def arguments_of(name: str, data: MegatronData = DATA):
    experiment = paper()
    nodes, pipeline, expert, micro = SCRIPTS[name][0]
    layout = MegatronLayout(
        nodes=nodes,
        pipeline_parallel=pipeline,
        expert_parallel=expert,
        micro_batch_sequences=micro,
    )
    (cell,) = (cell for cell in experiment.cells if cell.name == name)
    return megatron_arguments(
        cell.model,
        experiment.train,
        layout,
        data,
        seed=experiment.seeds[0],
        checkpoints=f"checkpoints/{name}",
        save_steps=500,
    )


def value(words: tuple[str, ...]) -> object:
    """A switch is None, a number a number."""
    if not words:
        return None
    try:
        return float(words[0])
    except ValueError:
        return words[0]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_released_scripts_values_come_out(name):
    (_, pipeline, expert, micro), (width, hidden, heads, experts, top_k) = SCRIPTS[name]
    wanted = {
        **SAME,
        "--hidden-size": width,
        "--ffn-hidden-size": hidden,
        "--num-attention-heads": heads,
        "--num-query-groups": heads,
        "--num-experts": experts,
        "--moe-router-topk": top_k,
        "--micro-batch-size": micro,
        "--pipeline-model-parallel-size": pipeline,
        "--expert-model-parallel-size": expert,
    }
    found = arguments_of(name)
    assert {key: value(found[key]) for key in found if key not in OURS} == wanted
    weights = [float(weight) for weight in found["--data-path"][::2]]
    assert sum(weights) == pytest.approx(252_525.25, rel=1e-5)
    assert found["--seed"] == ("1234",)


def test_other_recipes_have_other_arguments():
    experiment = paper()
    model = replace(
        experiment.cells[0].model, num_key_value_heads=2, router_order="softmax_then_topk"
    )
    train = replace(
        experiment.train, balance_scope="global", precision="float32", recompute="layers"
    )
    layout = MegatronLayout(nodes=1)
    data = MegatronData(train={"a": 1.0}, validation={"b": 1.0})
    found = megatron_arguments(model, train, layout, data, seed=1, checkpoints="c")
    assert found["--moe-router-load-balancing-type"] == ("global_aux_loss",)
    assert found["--num-query-groups"] == ("2",)
    assert found["--valid-data-path"] == ("1", "b")
    assert found["--vocab-size"] == ("99583",)
    assert found["--recompute-granularity"] == ("full",)
    assert {"--group-query-attention", "--moe-router-pre-softmax"} <= set(found)
    assert not {"--bf16", "--split", "--data-path"} & set(found)


def arguments_for(train: TrainConfig, *, model: ModelConfig | None = None, seed: int = 1):
    """Of a study without a tokenizer's file, on two GPUs."""
    return megatron_arguments(
        model or paper().cells[0].model,
        train,
        MegatronLayout(nodes=1, gpus_per_node=2),
        MegatronData(train={"a": 1.0}, validation={"b": 1.0}),
        seed=seed,
        checkpoints="c",
    )


def test_every_seed_is_one_that_megatron_takes_and_no_two_are_one():
    train = paper().train
    found = [int(arguments_for(train, seed=seed)["--seed"][0]) for seed in (0, 1, 2, 1234)]
    # Its _set_random_seed refuses 0; NumPy, which it seeds with the pipeline's rank added, 2^32.
    assert all(0 < seed < 2**31 for seed in found)
    assert len(set(found)) == 4
    assert found[3] == 1234
    with pytest.raises(UserError, match="seed 2147483647 must be below 2147483647"):
        arguments_for(train, seed=2**31 - 1)


@pytest.mark.parametrize(("precision", "there"), [("bfloat16", True), ("float32", False)])
def test_what_needs_16_bits_is_not_asked_of_float32(precision, there):
    found = arguments_for(replace(paper().train, precision=precision))
    for name in ("--bf16", "--moe-grouped-gemm", "--use-flash-attn"):
        assert (name in found) == there, name


def test_the_vocabulary_is_ours_whether_or_not_the_tokenizer_adds_its_end_of_text():
    model = paper().cells[0].model
    found = arguments_for(paper().train, model=model)
    given, multiple = (
        int(found[name][0]) for name in ("--vocab-size", "--make-vocab-size-divisible-by")
    )
    # NullTokenizer of core 0.16 and of core 0.19.
    for size in (given + 1, given):
        assert multiple * -(-size // multiple) == model.vocabulary_size


def test_attention_within_documents_is_refused():
    train = replace(paper().train, reset_attention=True)
    with pytest.raises(UserError, match=r"reset_attention=True is not what .* set train.reset"):
        arguments_for(train)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"nodes": 1, "pipeline_parallel": 3}, "pipeline_parallel=3 must divide the 8 GPUs"),
        ({"nodes": 4, "pipeline_parallel": 32}, "pipeline_parallel=32 must divide num_layers=16"),
        ({"nodes": 2, "expert_parallel": 16}, "expert_parallel=16 must divide num_experts=8"),
        ({"nodes": 1, "micro_batch_sequences": 3}, "must be a multiple of micro-batch 3 x 8"),
    ],
)
def test_what_megatron_would_refuse_is_told_before(fields, told):
    experiment = paper()
    with pytest.raises(UserError, match=told):
        megatron_arguments(
            experiment.cells[0].model,
            experiment.train,
            MegatronLayout(**fields),
            DATA,
            seed=0,
            checkpoints="c",
        )


def test_a_layout_is_chosen_that_fits():
    cells = {cell.name: cell.model for cell in paper().cells}
    for name, nodes in (("d512-E8-k2-320M-A170M", 4), ("d2048-E128-k16-52.2B-A7.1B", 16)):
        layout = choose_layout(
            cells[name],
            nodes=nodes,
            gpus_per_node=8,
            gpu_memory_bytes=141e9,
            batch_sequences=1024,
            sequence_length=4096,
        )
        assert gpu_bytes(cells[name], layout, 4096) < 141e9
    assert layout.expert_parallel * layout.pipeline_parallel > 1
    with pytest.raises(UserError, match="no layout on 1 nodes x 8 GPUs of 24 GB fits"):
        choose_layout(
            cells["d2048-E128-k16-52.2B-A7.1B"],
            nodes=1,
            gpus_per_node=8,
            gpu_memory_bytes=24e9,
            batch_sequences=1024,
            sequence_length=4096,
        )


RECEIVED = os.environ.get("MEGATRON_CORE")
"""A folder with megatron-core 0.17 or later, for any Python; its wheels are for Python 3.12 and later."""
needs_parser = pytest.mark.skipif(
    RECEIVED is None,
    reason="needs Megatron-LM's parser: pip download --no-deps --python-version 3.12 "
    "--only-binary=:all: megatron-core==0.19.2, unzip the wheel, and set MEGATRON_CORE=its folder",
)


def understood(arguments: Arguments, gpus: int) -> dict:
    """What Megatron-LM's own parser and validation make of the arguments."""
    program = str(Path(fakes_megatron.__file__))
    command = [sys.executable, "-W", "ignore", program, str(gpus), *to_words(arguments)]
    environment = {**os.environ, "PYTHONPATH": RECEIVED or ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_parser
@pytest.mark.parametrize("name", SCRIPTS)
def test_megatrons_own_parser_and_validation_take_every_argument(name):
    found = understood(arguments_of(name), gpus=8 * SCRIPTS[name][0][0])
    (*_, experts, top_k) = SCRIPTS[name][1]
    assert (found["num_experts"], found["moe_router_topk"]) == (experts, top_k)
    assert (found["train_iters"], found["min_lr"], found["seed"]) == (29_803, 4e-5, 1234)
    assert found["bf16"]
    assert found["moe_grouped_gemm"]


@needs_parser
def test_megatrons_own_validation_takes_the_default_recipe():
    experiment = demo()
    model = experiment.cells[0].model
    found = understood(arguments_for(experiment.train, model=model, seed=0), gpus=2)
    assert found["seed"] > 0
    assert not found["bf16"]
    assert found["padded_vocab_size"] == model.vocabulary_size
