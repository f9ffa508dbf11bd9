"""Weights that one layout has in one piece and another in parts, and states read across.

A whole matrix of several parts (queries, keys and values; gate and up) cannot be cut into even
pieces of each part along its first axis; tensor parallelism has the parts as weights of their own.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

FUSED = {"query_key_value": (("query", "key", "value"), 0), "gate_up": (("gate", "up"), 2)}
"""From a fused weight's last name to its parts' and the dimension along which they lie."""


def fuse(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with all parts put together, under the names of a `Transformer`.

    >>> found = fuse({"moe.gate": torch.zeros(1, 2, 3), "moe.up": torch.ones(1, 2, 3)})
    >>> list(found), found["moe.gate_up"].shape
    (['moe.gate_up'], torch.Size([1, 2, 6]))
    """
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        fused = fused_name(name)
        if fused is None:
            found[name] = weight
        elif fused not in found:
            parts, place = part_names(fused)
            found[fused] = torch.cat([weights[part] for part in parts], dim=place)
    return found


def fused_name(name: str) -> str | None:
    """The name of the whole that a weight is a part of; None: of none."""
    stem, _, last = name.rpartition(".")
    for fused, (parts, _) in FUSED.items():
        if last in parts:
            return f"{stem}.{fused}"
    return None


def part_names(fused: str) -> tuple[list[str], int]:
    """The names of a whole's parts, and their dimension."""
    stem, _, last = fused.rpartition(".")
    parts, place = FUSED[last]
    return [f"{stem}.{part}" for part in parts], place


def read_across(
    wanted: Mapping[str, DTensor],
    sizes: Mapping[str, torch.Size],
    read: Callable[[dict[str, Tensor]], None],
) -> None:
    """Fill tensors that the saved state has otherwise cut; one whole at a time is in memory.

    Args:
        wanted: tensors whose names the state does not have.
        sizes: of the whole tensors that it has.
        read: fills whole tensors by name.
    """
    wholes = {fused_name(name) or name for name in wanted}
    for whole in sorted(wholes):
        parts, place = part_names(whole)
        names = parts if whole in wanted else [whole]
        device = next(iter(wanted.values())).to_local().device
        tensors = {name: torch.empty(sizes[name], device=device) for name in names}
        read(tensors)
        if whole in wanted:
            _fill(wanted[whole], torch.cat([tensors[part] for part in parts], dim=place))
        else:
            lengths = [wanted[part].shape[place] for part in parts]
            for part, piece in zip(parts, tensors[whole].split(lengths, dim=place), strict=True):
                _fill(wanted[part], piece)


def _fill(target: DTensor, whole: Tensor) -> None:
    given = distribute_tensor(
        whole.contiguous(), target.device_mesh, target.placements, src_data_rank=None
    )
    target.to_local().copy_(given.to_local())
