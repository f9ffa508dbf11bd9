"""Over how many GPUs Megatron-LM trains a cell, and whether that fits into their memory.

Source: Megatron-LM's arguments; bytes a parameter, its distributed optimiser's documentation:
bfloat16 weight 2, float32 gradient 4, and float32 weight and two moments, 12, cut over the
data-parallel GPUs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from isoflop.config import UserError
from isoflop.design.estimate import layer_bytes_per_token
from isoflop.model.config import ModelConfig
from isoflop.model.count import EXPERT_MATRICES, total_params

RESIDENT_BYTES = 6
OPTIMISER_BYTES = 12
FREE_SHARE = 0.85
"""Of a GPU's memory that may be planned for; chosen: fragments, libraries and uneven experts."""

MICRO_BATCHES = (16, 8, 4, 2, 1)
"""Sequences of one forward pass that are tried, the largest first; those of the released scripts."""


@dataclass(frozen=True, kw_only=True)
class MegatronLayout:
    """Nodes and Megatron-LM's parallel sizes; tensor and context parallelism are 1, as the study's."""

    nodes: int
    gpus_per_node: int = 8
    pipeline_parallel: int = 1
    expert_parallel: int = 1
    micro_batch_sequences: int = 1

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus_per_node", "micro_batch_sequences"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("pipeline_parallel", "expert_parallel"):
            if getattr(self, name) < 1 or self.gpus % getattr(self, name):
                raise UserError(
                    f"{name}={getattr(self, name)} must divide the {self.gpus} GPUs of "
                    f"{self.nodes} nodes"
                )
        if self.data_parallel % self.expert_parallel:
            raise UserError(
                f"expert_parallel={self.expert_parallel} must divide the {self.data_parallel} "
                "data-parallel GPUs, over which experts are spread"
            )

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return self.nodes * self.gpus_per_node

    @property
    def data_parallel(self) -> int:
        """Copies of the dense weights, each of which reads its own part of a batch."""
        return self.gpus // self.pipeline_parallel

    def text(self) -> str:
        """For people."""
        return (
            f"{self.nodes} x {self.gpus_per_node} GPUs, pipeline {self.pipeline_parallel}, expert "
            f"parallel {self.expert_parallel}, micro-batch {self.micro_batch_sequences}"
        )

    def check(self, model: ModelConfig, batch_sequences: int, cell: str) -> None:
        """Refuse what Megatron-LM would refuse after the GPUs were waited for.

        Raises:
            UserError: names the cell and the numbers.
        """
        if model.num_layers % self.pipeline_parallel:
            raise UserError(
                f"{cell}: pipeline_parallel={self.pipeline_parallel} must divide "
                f"num_layers={model.num_layers}"
            )
        if model.num_experts % self.expert_parallel:
            raise UserError(
                f"{cell}: expert_parallel={self.expert_parallel} must divide "
                f"num_experts={model.num_experts}"
            )
        at_once = self.micro_batch_sequences * self.data_parallel
        if batch_sequences % at_once:
            raise UserError(
                f"{cell}: batch_sequences={batch_sequences} must be a multiple of micro-batch "
                f"{self.micro_batch_sequences} x {self.data_parallel} data-parallel GPUs"
            )


def gpu_bytes(model: ModelConfig, layout: MegatronLayout, sequence_length: int) -> int:
    """Estimated peak memory of the fullest GPU, bfloat16 products, no recomputation.

    Activations of a pipeline's first stage: as many micro-batches as there are stages are under way.
    """
    experts = (
        model.num_layers * EXPERT_MATRICES * model.d_model * model.d_expert * model.num_experts
    )
    dense = total_params(model) - experts
    stages = layout.pipeline_parallel
    own_dense, own_experts = dense / stages, experts / stages / layout.expert_parallel
    resident = RESIDENT_BYTES * (own_dense + own_experts)
    copies = layout.data_parallel / layout.expert_parallel
    optimiser = OPTIMISER_BYTES * (own_dense / layout.data_parallel + own_experts / copies)
    tokens = layout.micro_batch_sequences * sequence_length
    layers = model.num_layers / stages * min(stages, model.num_layers)
    activations = tokens * layers * layer_bytes_per_token(model, "bfloat16", "torch")
    # Logits in float32 and their gradient, on the last stage.
    logits = tokens * model.vocabulary_size * (4 + 2) / (1 if stages == 1 else stages)
    return round(resident + optimiser + activations + logits)


def choose_layout(
    model: ModelConfig,
    *,
    nodes: int,
    gpus_per_node: int,
    gpu_memory_bytes: float,
    batch_sequences: int,
    sequence_length: int,
    cell: str = "model",
) -> MegatronLayout:
    """The layout with the least parallelism, then the largest micro-batch, that fits.

    Raises:
        UserError: none fits; the smallest need is told.
    """
    smallest = None
    for expert in _powers(gpus_per_node):
        for pipeline in _powers(model.num_layers):
            for micro in MICRO_BATCHES:
                try:
                    layout = MegatronLayout(
                        nodes=nodes,
                        gpus_per_node=gpus_per_node,
                        pipeline_parallel=pipeline,
                        expert_parallel=expert,
                        micro_batch_sequences=micro,
                    )
                    layout.check(model, batch_sequences, cell)
                except UserError:
                    continue
                needed = gpu_bytes(model, layout, sequence_length)
                if needed <= FREE_SHARE * gpu_memory_bytes:
                    return layout
                smallest = needed if smallest is None else min(smallest, needed)
    raise UserError(
        f"{cell}: no layout on {nodes} nodes x {gpus_per_node} GPUs of {gpu_memory_bytes / 1e9:.0f} GB "
        + (
            f"fits; the smallest needs {smallest / 1e9:.0f} GB a GPU: add nodes"
            if smallest
            else f"can share a batch of {batch_sequences} sequences: change nodes"
        )
    )


def fewest_nodes(
    choose: Callable[..., MegatronLayout], *, least_nodes: int, most_nodes: int
) -> MegatronLayout:
    """What `choose(nodes=n)` gives, `choose_layout` with all else given, for the first n that fits:
    `least_nodes`, then twice as many, and so on.

    Raises:
        UserError: nothing fits on `most_nodes` either.
    """
    nodes = least_nodes
    while True:
        try:
            return choose(nodes=nodes)
        except UserError:
            nodes *= 2
            if nodes > most_nodes:
                raise


def _powers(limit: int) -> list[int]:
    return [2**n for n in range(limit.bit_length()) if 2**n <= limit]
