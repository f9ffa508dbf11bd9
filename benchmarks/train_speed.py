"""Training speed of ours against transformers' Mixtral, in alternation on one thread.

    python benchmarks/train_speed.py [--json] [--rounds 7]

Same shape (the demo's largest cell), weights, batch, float32, optimiser (fused
AdamW) and clipping, no router losses; each with its own cross-entropy. The
losses of the first step must agree before any speed is told.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn
from torch.nn import functional
from transformers import MixtralConfig, MixtralForCausalLM

from isoflop.experiments import load_experiment
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer, next_token_loss
from isoflop.train.config import TrainConfig
from isoflop.train.optim import make_optimizer

SECONDS_PER_ROUND = 1.5
"""Of each model in each round; chosen long against a step and short against the machine's drift."""

PEERS = ("eager", "grouped_mm", "batched_mm")
"""transformers' implementations of the experts that run on a CPU."""


def mixtral(ours: Transformer, implementation: str) -> MixtralForCausalLM:
    """transformers' Mixtral with the weights of ours."""
    shape = ours.config
    config = MixtralConfig(
        vocab_size=shape.vocabulary_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_expert,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        num_local_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
        max_position_embeddings=shape.sequence_length,
        rope_theta=shape.rope_base,
        rms_norm_eps=shape.norm_epsilon,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        experts_implementation=implementation,
    )
    model = MixtralForCausalLM(config)
    state = {"model.embed_tokens.weight": ours.embedding, "lm_head.weight": ours.head}
    state["model.norm.weight"] = ours.norm.weight
    for number, layer in enumerate(ours.layers):
        place = f"model.layers.{number}"
        query, key, value = layer.attention.query_key_value.chunk(3)
        state |= {
            f"{place}.self_attn.q_proj.weight": query,
            f"{place}.self_attn.k_proj.weight": key,
            f"{place}.self_attn.v_proj.weight": value,
            f"{place}.self_attn.o_proj.weight": layer.attention.output,
            f"{place}.input_layernorm.weight": layer.attention_norm.weight,
            f"{place}.post_attention_layernorm.weight": layer.moe_norm.weight,
            f"{place}.mlp.gate.weight": layer.moe.router,
            f"{place}.mlp.experts.gate_up_proj": layer.moe.gate_up.transpose(1, 2),
            f"{place}.mlp.experts.down_proj": layer.moe.down.transpose(1, 2),
        }
    model.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()})
    return model.train()


def stepper(
    model: nn.Module,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    train: TrainConfig,
) -> Callable[[torch.Tensor], float]:
    """One training step as a function of a batch (batch, position + 1); returns the loss."""
    optimizer = make_optimizer(model, train)

    def step(tokens: torch.Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), train.max_gradient_norm)
        optimizer.step()
        return loss.item()

    return step


def peer_loss(peer: nn.Module, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Next-token loss as transformers' users compute it."""
    return functional.cross_entropy(peer(tokens).logits.flatten(0, 1), targets.flatten())


def steps_per_second(step: Callable[[torch.Tensor], float], batch: torch.Tensor) -> float:
    """Speed over at least SECONDS_PER_ROUND and one step."""
    begun = time.perf_counter()
    steps, seconds = 0, 0.0
    while seconds < SECONDS_PER_ROUND:
        step(batch)
        steps += 1
        seconds = time.perf_counter() - begun
    return steps / seconds


def measure(shape: ModelConfig, train: TrainConfig, rounds: int) -> dict[str, object]:
    """Tokens per second of each in alternation, and the ratios round by round."""
    ours = Transformer(shape)
    steps = {"ours": stepper(ours, lambda x, y: next_token_loss(ours(x).logits, y).mean(), train)}
    for name in PEERS:
        peer = mixtral(ours, name)
        steps[name] = stepper(peer, lambda x, y, peer=peer: peer_loss(peer, x, y), train)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(
        shape.vocabulary_size,
        (train.batch_sequences, train.sequence_length + 1),
        generator=generator,
    )
    first = {name: step(batch) for name, step in steps.items()}
    if max(first.values()) - min(first.values()) > 1e-4:
        raise SystemExit(f"first losses differ, no speed is told: {first}")
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            speeds[name].append(train.batch_tokens * steps_per_second(step, batch))
    best = max(PEERS, key=lambda name: statistics.median(speeds[name]))
    ratios = [a / b for a, b in zip(speeds["ours"], speeds[best], strict=True)]
    return {
        "tokens_per_second": {name: statistics.median(s) for name, s in speeds.items()},
        "best_peer": best,
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": rounds,
        "first_loss": first,
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    demo = load_experiment("demo")
    largest = max(demo.cells, key=lambda cell: cell.model.num_experts)
    result = measure(largest.model, demo.train, arguments.rounds)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{largest.name}, batch {demo.train.batch_sequences} x {demo.train.sequence_length}")
    for name, speed in result["tokens_per_second"].items():
        print(f"  {name:12} {speed:10,.0f} tokens/s")
    print(
        f"  ours / {result['best_peer']}: median {result['ratio_median']:.2f} "
        f"({result['ratio_min']:.2f} to {result['ratio_max']:.2f}, {result['rounds']} rounds)"
    )


if __name__ == "__main__":
    main()
