"""Memory and bytes sent of each rank: what `isoflop plan --ranks` predicts against what is counted.

    python benchmarks/ranks_memory_and_traffic.py [--d-model 256] [--steps 3]

Each layout's ranks are processes on this machine's CPU (gloo), trained on random tokens. States
(weights, gradients, moments) and bytes sent in a step are counted on the tensors. Memory is the
greatest resident set during the steps over that before the model was built; it is the process's,
so buffers of gloo and pages that the allocator keeps are in it, and in no prediction.
"""

import argparse
import ctypes
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import multiprocessing

from isoflop.design.layout import Layout
from isoflop.design.ranks import RankStep, estimate_rank_memory, estimate_rank_traffic
from isoflop.model.config import ModelConfig
from isoflop.train.config import TrainConfig
from isoflop.train.parallel.compute import ManyProcesses
from isoflop.train.parallel.mesh import joined
from isoflop.train.parallel.traffic import CountedTraffic

LAYOUTS = (
    Layout(ranks=1),
    Layout(ranks=2),
    Layout(ranks=2, shard=2),
    Layout(ranks=2, expert_parallel=2),
    Layout(ranks=2, tensor_parallel=2),
    Layout(ranks=4),
    Layout(ranks=4, shard=4),
    Layout(ranks=4, expert_parallel=4),
    Layout(ranks=4, shard=2, expert_parallel=2),
    Layout(ranks=4, tensor_parallel=2),
    Layout(ranks=4, shard=2, tensor_parallel=2),
    Layout(ranks=4, tensor_parallel=4),
)
KINDS = ("all_to_all", "all_gather", "reduce_scatter", "all_reduce")
MIB = 1 << 20

RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""So that the resident set has no freed blocks in it: glibc maps and unmaps each of this size."""


def status(name: str) -> int:
    """Bytes of one line of this process's status: VmRSS, VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def forget_peak() -> None:
    """Give freed memory back, and let VmHWM begin again."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def train(
    rank: int, layout: Layout, model: ModelConfig, config: TrainConfig, steps: int, folder: Path
) -> None:
    """One rank's steps; leaves what it counted."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(layout.ranks))
    with joined(layout, torch.device("cpu"), meeting=f"file://{folder}/meeting") as ranks:
        forget_peak()
        before = status("VmRSS")
        computation = ManyProcesses(model, config, 0, ranks, folder)
        forget_peak()
        own = config.batch_sequences // layout.data_parallel
        sent = {}
        for step in range(steps):
            generator = np.random.default_rng((step, ranks.part))
            size = (own, config.sequence_length + 1)
            tokens = generator.integers(0, model.vocabulary_size, size)
            with CountedTraffic() as counted:
                computation.step(tokens, None)
            sent = dict(counted.sent)
        found = {
            "sent": sent,
            "states": computation.state_bytes(),
            "peak": status("VmHWM") - before,
        }
        (folder / f"rank-{rank}.json").write_text(json.dumps(found))


def main() -> None:
    """Every layout in turn, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    os.environ.update(RETURN_MEMORY)
    model = ModelConfig(
        vocabulary_size=4096,
        num_layers=4,
        d_model=given.d_model,
        num_heads=4,
        d_expert=given.d_model,
        num_experts=16,
        top_k=2,
        sequence_length=128,
    )
    config = TrainConfig(
        train_tokens=given.steps * 16 * 128,
        batch_sequences=16,
        sequence_length=128,
        warmup_steps=0,
        num_checkpoints=1,
    )
    print(
        "| layout | MB of states: predicted, counted | MB in all: predicted, peak of ranks |",
        end="",
    )
    print(" MB sent, predicted and counted: all-to-all | all-gather, reduce-scatter | all-reduce |")
    print("| --- " * 6 + "|")
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            given_all = (layout, model, config, given.steps, folder)
            multiprocessing.spawn(train, given_all, nprocs=layout.ranks)
            found = [
                json.loads((folder / f"rank-{rank}.json").read_text())
                for rank in range(layout.ranks)
            ]
        print(line(layout, model, config, found), flush=True)


def line(layout: Layout, model: ModelConfig, config: TrainConfig, found: list[dict]) -> str:
    """One row of the table: the fullest rank's memory, the ranks' mean of bytes sent."""
    step = RankStep(
        sequence_length=config.sequence_length,
        micro_batch_sequences=config.batch_sequences // layout.data_parallel,
        micro_batches=1,
    )
    memory = estimate_rank_memory(model, layout, step)
    traffic = estimate_rank_traffic(model, layout, step)
    sent = {kind: sum(one["sent"].get(kind, 0) for one in found) / len(found) for kind in KINDS}
    peaks = [one["peak"] for one in found]
    states = max(one["states"] for one in found)
    gathered = traffic.all_gather + traffic.reduce_scatter
    pairs = (
        (memory.states, states),
        (traffic.all_to_all, sent["all_to_all"]),
        (gathered, sent["all_gather"] + sent["reduce_scatter"]),
        (traffic.all_reduce, sent["all_reduce"]),
    )
    cells = [f"{a / MIB:.2f}, {b / MIB:.2f}" for a, b in pairs]
    peak = f"{memory.total / MIB:.0f}, {min(peaks) / MIB:.0f} to {max(peaks) / MIB:.0f}"
    return f"| {layout.text()} | {cells[0]} | {peak} | {' | '.join(cells[1:])} |"


if __name__ == "__main__":
    main()
