"""What several ranks go on from: a distributed checkpoint that any number of ranks can read.

    <folder>/resume-ranks/step-00000100/
        __0_0.distcp, .metadata   PyTorch distributed checkpoint: each rank wrote its own part
        state.json                written last: step, run's digest, layout, every file's length and checksum

The newest whole state counts; what a kill left unfinished is deleted at the next save. The rows
are treated as in `isoflop.train.state`, by rank 0.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from isoflop.config import UserError, from_dict, to_dict
from isoflop.folders import file_digest
from isoflop.model.checkpoint import STEP_PREFIX
from isoflop.records import flush_to_disk, read_json, write_text
from isoflop.train.parallel.fused import read_across
from isoflop.train.parallel.mesh import OverRanks
from isoflop.train.parallel.model import ShardedGradients
from isoflop.train.state import RANKS_STATE, ROW_FILES, STATE_FILE, drop_later_rows

MANIFEST = "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
CUT_SHORT = "unexpected pos"
"""In what PyTorch says of a write that ended early; it does not say why."""
REMEDY = "delete it to go on from the state before it, or from the start"


@dataclass(frozen=True, kw_only=True)
class StateManifest:
    """What `state.json` says of the state beside it."""

    step: int
    run: str
    """Digest of the run."""
    layout: str
    """That wrote it; any other can read it."""
    files: dict[str, int]
    """Bytes of every file."""
    sha256: dict[str, str] | None = None
    """Checksum of every file. None: written before there were any, and not checked."""


def save_ranks_state(
    folder: Path,
    step: int,
    gradients: ShardedGradients,
    optimizer: torch.optim.Optimizer,
    ranks: OverRanks,
    run_digest: str,
) -> None:
    """Replace the folder's state by that after `step`; every rank calls this.

    Raises:
        UserError: a rank could not write; which one, and why.
    """
    place = folder / RANKS_STATE / _name(step)
    if ranks.rank == 0:
        # Rows first: after a power cut a state must not be later than its rows.
        for name in ROW_FILES:
            if (folder / name).exists():
                flush_to_disk(folder / name)
        for unfinished in _states(folder, whole=False):
            shutil.rmtree(unfinished)
    ranks.wait()
    try:
        state_dict_saver.save(_tensors(gradients, optimizer), checkpoint_id=place)
    except CheckpointException as error:
        raise _told(error, place, "written; free space and run again") from None
    # Each rank of its own files, which are still in its memory.
    checksums = ranks.together(
        {file.name: file_digest(file) for file in _written(place, ranks.rank)}
    )
    if ranks.rank == 0:
        manifest = StateManifest(
            step=step,
            run=run_digest,
            layout=ranks.layout.text(),
            files={file.name: file.stat().st_size for file in _files(place)},
            sha256=checksums,
        )
        write_text(place / MANIFEST, json.dumps(to_dict(manifest), indent=2) + "\n")
        for earlier in _states(folder, whole=True):
            if earlier != place:
                shutil.rmtree(earlier)


def load_ranks_state(
    folder: Path,
    gradients: ShardedGradients,
    optimizer: torch.optim.Optimizer,
    ranks: OverRanks,
    run_digest: str,
) -> int:
    """Go back to the newest whole state, whatever layout wrote it; its step, 0 for a fresh run.

    Raises:
        UserError: a state of another run, one of whose files is missing, cut short or changed, or
            one that a process alone left.
    """
    if (folder / STATE_FILE).exists():
        raise UserError(
            f"{folder / STATE_FILE}: this run was begun by one process; go on without --ranks, or "
            "delete the file to begin again"
        )
    states = _states(folder, whole=True)
    step = 0
    if states:
        step = _checked(states[-1], ranks, run_digest)
        # A rank that finds damage ends the others here, before they read it.
        ranks.wait()
        _read(states[-1], step, gradients, optimizer)
    # No rank may look for the newest state while rank 0 writes.
    ranks.wait()
    if ranks.rank == 0:
        drop_later_rows(folder, step, ROW_FILES, RANKS_STATE)
    ranks.wait()
    return step


def _checked(place: Path, ranks: OverRanks, run_digest: str) -> int:
    """The step of a state whose files are as they were written; each rank reads a share of them."""
    data = read_json(place / MANIFEST, missing="no state here", remedy=REMEDY)
    try:
        manifest = from_dict(StateManifest, data, str(place / MANIFEST))
    except UserError as error:
        raise UserError(f"{error}; {REMEDY}") from None
    if manifest.run != run_digest:
        raise UserError(
            f"{place}: state of run {manifest.run}, expected {run_digest}; delete it to "
            "train from the start"
        )
    if place.name != _name(manifest.step):
        raise UserError(f"{place / MANIFEST}: step={manifest.step} is not the folder's; {REMEDY}")
    for name, num_bytes in manifest.files.items():
        found = (place / name).stat().st_size if (place / name).exists() else None
        if found != num_bytes:
            what = "is missing" if found is None else f"has {found} bytes instead of {num_bytes}"
            raise UserError(f"{place / name}: {what}; the state is damaged: {REMEDY}")
    share = sorted(manifest.files)[ranks.rank :: ranks.layout.ranks]
    for name in share if manifest.sha256 is not None else ():
        if file_digest(place / name) != (manifest.sha256 or {}).get(name):
            raise UserError(
                f"{place / name}: is not as it was written; the state is damaged: {REMEDY}"
            )
    return manifest.step


def _files(place: Path) -> list[Path]:
    return sorted(file for file in place.iterdir() if file.name != MANIFEST)


def _written(place: Path, rank: int) -> list[Path]:
    """The files of a new state that a rank wrote; what belongs to no rank is of rank 0."""
    own = [file for file in _files(place) if file.name.startswith(f"__{rank}_")]
    return own + [file for file in _files(place) if rank == 0 and not file.name.startswith("__")]


def _name(step: int) -> str:
    return f"{STEP_PREFIX}{step:08d}"


def _read(
    place: Path, step: int, gradients: ShardedGradients, optimizer: torch.optim.Optimizer
) -> None:
    make_moments(gradients, optimizer, step)
    tensors = _tensors(gradients, optimizer)
    saved = FileSystemReader(place).read_metadata().state_dict_metadata
    sizes = {
        name: one.size for name, one in saved.items() if isinstance(one, TensorStorageMetadata)
    }
    other = {name: tensor for name, tensor in tensors.items() if name not in sizes}
    try:
        same = {name: tensor for name, tensor in tensors.items() if name in sizes}
        state_dict_loader.load(same, checkpoint_id=place)
        read_across(
            other, sizes, lambda wholes: state_dict_loader.load(wholes, checkpoint_id=place)
        )
    except CheckpointException as error:
        raise _told(error, place, f"read; {REMEDY}") from None


def make_moments(
    gradients: ShardedGradients, optimizer: torch.optim.Optimizer, step: int = 0
) -> None:
    """Moments of zero, as AdamW makes them at its first step."""
    for local in gradients.local.values():
        optimizer.state[local] = {
            # On a GPU the fused optimiser reads it there.
            "step": torch.tensor(float(step), device=local.device),
            **{moment: torch.zeros_like(local.detach()) for moment in MOMENTS},
        }


def _states(folder: Path, *, whole: bool) -> list[Path]:
    """States in the order of their steps: the whole ones, or those that a kill cut short."""
    found = sorted((folder / RANKS_STATE).glob(f"{STEP_PREFIX}*"))
    return [state for state in found if (state / MANIFEST).exists() == whole]


def _tensors(gradients: ShardedGradients, optimizer: torch.optim.Optimizer) -> dict[str, DTensor]:
    """Weights and moments under stable names, each as the part of a whole that it is."""
    tensors: dict[str, DTensor] = {}
    for name, weight in gradients.model.weights().items():
        tensors[f"weight.{name}"] = _like(weight, weight.to_local().detach())
        state: dict[str, Any] = optimizer.state[gradients.local[name]]
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = _like(weight, state[moment])
    return tensors


def _like(weight: DTensor, part: Tensor) -> DTensor:
    return DTensor.from_local(
        part,
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )


def _told(error: CheckpointException, place: Path, what: str) -> UserError:
    rank, (cause, _) = next(iter(error.failures.items()))
    told = str(cause)
    if CUT_SHORT in told:
        told = "no space left, or a limit on the length of files: what was written is cut short"
    return UserError(f"{place}: rank {rank}: {told}; the state could not be {what}")
