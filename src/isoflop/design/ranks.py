"""What each rank of a run spread over processes needs and sends, counted before anything is built.

Letters as in `isoflop.model.count`, and: n ranks over which a group of weights is cut, c bytes of
one number in the matrix products. A group is gathered and let go together: each layer's weights,
its experts apart where they are spread, and embedding, head and last norm.

Bytes are what one rank sends to others in one optimiser step. A collective over n ranks sends, of
a whole of b bytes, b (n-1)/n when it gathers or scatters sums, twice that when it reduces for all
(ring algorithms; Thakur et al. 2005). `isoflop.train.parallel.traffic` counts the same on a run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

from isoflop.design.estimate import (
    ADAMW_MOMENTS,
    COMPUTE_BYTES,
    FLOAT32_BYTES,
    INT64_BYTES,
    ComputePrecision,
    Ops,
    Recompute,
    estimate_memory,
)
from isoflop.design.layout import Layout, cut_dimension
from isoflop.model.config import ModelConfig

GATHERED_LAYERS = 2
"""Layers whole at once: the one that computes and, in the backward pass, the one fetched ahead."""

LOSS_NUMBERS = 3
"""Of a token, summed over parts of the vocabulary: greatest logit, total, logit of the target."""


@dataclass(frozen=True, kw_only=True)
class RankStep:
    """How one rank spends one optimiser step."""

    sequence_length: int
    micro_batch_sequences: int
    micro_batches: int
    """Forward and backward passes of one rank."""
    balance_scope: Literal["micro", "sequence", "global"] = "global"
    precision: ComputePrecision = "float32"
    ops: Ops = "native"
    recompute: Recompute = "none"
    fused_experts: bool = False
    """As in `estimate_memory`."""

    @property
    def counting_passes(self) -> int:
        """Forward passes that only count choices, see `isoflop.train.step.count_choices`."""
        needed = self.balance_scope == "global" and self.micro_batches > 1
        return self.micro_batches if needed else 0


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Bytes that one rank needs at its peak; the rank with the largest parts."""

    weights: int
    gradients: int
    optimiser: int
    gathered: int
    """Weights and gradients that are whole for a while, and the buffers in which they travel."""
    activations: int
    """All else, as `isoflop.design.estimate` has it for this rank's micro-batch."""

    @property
    def states(self) -> int:
        """What lies between steps."""
        return self.weights + self.gradients + self.optimiser

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.gathered + self.activations


@dataclass(frozen=True, kw_only=True)
class RankTraffic:
    """Bytes that one rank sends to others in one optimiser step."""

    all_to_all: int
    """Tokens to experts and back, if experts are used evenly."""
    all_gather: int
    reduce_scatter: int
    all_reduce: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.all_to_all + self.all_gather + self.reduce_scatter + self.all_reduce


@dataclass(frozen=True)
class _Weight:
    """One matrix or vector as a rank has it before it is cut further."""

    shape: tuple[int, ...]
    kept: int | None = None
    """The dimension along which other ranks have the rest."""

    def part_numbers(self, parts: int) -> int:
        """Numbers of the largest part, which decide the buffers: the last part is padded to it."""
        place = cut_dimension(self.shape, parts, self.kept)
        return prod(self.shape) // self.shape[place] * ceil(self.shape[place] / parts)


@dataclass(frozen=True)
class _Group:
    """Weights that are gathered together."""

    weights: tuple[_Weight, ...]
    parts: int
    """Ranks over which they are cut."""
    replicas: int
    copies: int
    """Groups of this kind in the model."""
    is_root: bool = False

    @property
    def part_numbers(self) -> int:
        """Numbers of the largest part."""
        return sum(weight.part_numbers(self.parts) for weight in self.weights)


def _attention(model: ModelConfig, layout: Layout) -> tuple[_Weight, ...]:
    d_model, tensor = model.d_model, layout.tensor_parallel
    if tensor == 1:
        return _Weight((model.query_key_value_width, d_model)), _Weight((d_model, d_model))
    keys = (model.query_key_value_width - d_model) // 2
    rows = (d_model // tensor, keys // tensor, keys // tensor)
    return *(_Weight((n, d_model), 0) for n in rows), _Weight((d_model, d_model // tensor), 1)


def _experts(model: ModelConfig, layout: Layout) -> tuple[_Weight, ...]:
    d_model, tensor = model.d_model, layout.tensor_parallel
    if tensor > 1:
        width = model.d_expert // tensor
        gate = _Weight((model.num_experts, d_model, width), 2)
        return gate, gate, _Weight((model.num_experts, width, d_model), 1)
    own = model.num_experts // layout.expert_parallel
    kept = 0 if layout.expert_parallel > 1 else None
    shapes = (own, d_model, 2 * model.d_expert), (own, model.d_expert, d_model)
    return tuple(_Weight(shape, kept) for shape in shapes)


def _groups(model: ModelConfig, layout: Layout) -> Iterator[_Group]:
    d_model = model.d_model
    norm = _Weight((d_model,))
    router = _Weight((model.num_experts, d_model))
    shared = (norm, norm, *_attention(model, layout), router)
    experts = _experts(model, layout)
    dense = (layout.shard, layout.replicas)
    if layout.expert_parallel > 1:
        spread = (layout.expert_shard, layout.expert_replicas)
        yield _Group(shared, *dense, model.num_layers)
        yield _Group(experts, *spread, model.num_layers)
    else:
        yield _Group(shared + experts, *dense, model.num_layers)
    tensor = layout.tensor_parallel
    head = _Weight((model.vocabulary_size // tensor, d_model), 0 if tensor > 1 else None)
    embedding = _Weight((model.vocabulary_size, d_model))
    yield _Group((embedding, norm, head), *dense, 1, is_root=True)


def estimate_rank_memory(model: ModelConfig, layout: Layout, step: RankStep) -> RankMemory:
    """Peak memory of one rank; weights, gradients and moments are exact, the rest an estimate."""
    layout.check_model(model)
    groups = list(_groups(model, layout))
    numbers = sum(group.part_numbers * group.copies for group in groups)
    whole = [
        (1 if group.is_root else GATHERED_LAYERS, FLOAT32_BYTES * group.part_numbers * group.parts)
        for group in groups
    ]
    one_process = estimate_memory(
        model,
        micro_batch_tokens=step.micro_batch_sequences * step.sequence_length,
        precision=step.precision,
        ops=step.ops,
        recompute=step.recompute,
        fused_experts=step.fused_experts,
    )
    states = one_process.weights + one_process.optimiser + one_process.gradients
    return RankMemory(
        weights=FLOAT32_BYTES * numbers,
        gradients=FLOAT32_BYTES * numbers,
        optimiser=ADAMW_MOMENTS * FLOAT32_BYTES * numbers,
        # Once as weights, once as their gradients.
        gathered=sum(count * num_bytes + num_bytes for count, num_bytes in whole),
        activations=one_process.total - states,
    )


def estimate_rank_traffic(model: ModelConfig, layout: Layout, step: RankStep) -> RankTraffic:
    """Bytes that one rank sends in one step: exact, but for how unevenly experts are used."""
    layout.check_model(model)
    gather = scatter = reduce = 0.0
    for group in _groups(model, layout):
        part = FLOAT32_BYTES * group.part_numbers * group.copies
        # A layer is let go after its forward pass and gathered again; what is outside is kept.
        forward = 0 if group.is_root else step.micro_batches + step.counting_passes
        gather += part * (group.parts - 1) * (forward + step.micro_batches)
        scatter += part * (group.parts - 1) * step.micro_batches
        reduce += _all_reduced(part, group.replicas)
    return RankTraffic(
        all_to_all=round(_all_to_all(model, layout, step)),
        all_gather=round(gather),
        reduce_scatter=round(scatter),
        all_reduce=round(reduce + _told(model, layout, step) + _together(model, layout, step)),
    )


def _all_reduced(num_bytes: int | float, ranks: int) -> float:
    return 2 * num_bytes * (ranks - 1) / ranks


def _all_to_all(model: ModelConfig, layout: Layout, step: RankStep) -> float:
    """Rows out and back, again for their gradients; and how many rows, before them."""
    if layout.expert_parallel == 1:
        return 0.0
    leaving = (layout.expert_parallel - 1) / layout.expert_parallel
    again = step.micro_batches if step.recompute == "layers" else 0
    forward = step.micro_batches + step.counting_passes + again
    tokens = step.micro_batch_sequences * step.sequence_length
    rows = tokens * model.top_k * model.d_model * COMPUTE_BYTES[step.precision]
    counts = model.num_experts * INT64_BYTES
    exchanges = 2 * forward + 2 * step.micro_batches
    return model.num_layers * leaving * (exchanges * rows + forward * counts)


def _together(model: ModelConfig, layout: Layout, step: RankStep) -> float:
    """Sums by which tensor-parallel ranks compute one model together.

    Forward: what attention and experts answer, and three numbers a token of the loss. Backward:
    the gradients of what attention, experts and head read, and of the experts' weights.
    """
    tensor = layout.tensor_parallel
    if tensor == 1:
        return 0.0
    tokens = step.micro_batch_sequences * step.sequence_length
    stream = tokens * model.d_model * COMPUTE_BYTES[step.precision]
    # Recomputing a layer ends at the last tensor that its backward pass needs, before its last sum.
    again = step.micro_batches if step.recompute == "layers" else 0
    sums = 2 * (step.micro_batches + step.counting_passes) + again
    forward = sums * model.num_layers * stream
    chosen = tokens * model.top_k * FLOAT32_BYTES
    backward = model.num_layers * (2 * stream + chosen) + stream
    loss = LOSS_NUMBERS * tokens * FLOAT32_BYTES
    return _all_reduced(forward + step.micro_batches * (backward + loss), tensor)


def _told(model: ModelConfig, layout: Layout, step: RankStep) -> float:
    """Small sums: loss, router losses and expert counts over parts of the batch; gradient norm over all."""
    counts = INT64_BYTES * model.num_layers * model.num_experts
    times = 2 if step.balance_scope == "global" else 1
    floats = FLOAT32_BYTES * (1 + 2 * model.num_layers)
    own = _all_reduced(floats + times * counts, layout.data_parallel)
    return own + _all_reduced(FLOAT32_BYTES, layout.ranks)
