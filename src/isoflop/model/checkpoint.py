"""A checkpoint on disk: weights in safetensors with their config beside them.

    <folder>/config.json        ModelConfig
    <folder>/model.safetensors  weights, float32; its metadata holds the config's digest

safetensors rather than pickle: a checkpoint from elsewhere cannot run code.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from isoflop.config import UserError, digest, from_dict, to_text
from isoflop.model.config import ModelConfig
from isoflop.model.moe import fitting_experts
from isoflop.model.transformer import Transformer
from isoflop.records import atomic_file, read_json, write_text

CHECKPOINTS = "checkpoints"
"""In a training run's folder: its checkpoints, each in a folder named after its step."""

STEP_PREFIX = "step-"
"""A checkpoint's folder is this and its step in eight digits."""


def save_checkpoint(model: Transformer, folder: Path) -> None:
    """Write config and weights; the weights' file appears last and whole."""
    tensors = {name: value.detach().cpu() for name, value in model.named_parameters()}
    save_weights(model.config, tensors, folder)


def save_weights(config: ModelConfig, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """`save_checkpoint` from weights at hand, by their names in a `Transformer`."""
    write_text(folder / "config.json", to_text(config))
    save_tensors(folder / "model.safetensors", tensors, {"config": digest(config)})


def load_checkpoint(
    folder: Path, *, compute_dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Transformer:
    """The model of a checkpoint folder, ready to evaluate.

    Raises:
        UserError: no checkpoint, one cut short, weights of another config, or no such device.
    """
    check_device(device)
    path = folder / "config.json"
    data = read_json(path, missing="no checkpoint here", remedy="copy the checkpoint again")
    config = own_config(data, path)
    tensors, metadata = load_tensors(folder / "model.safetensors")
    # Of the file as it is: a field added to ModelConfig since must not make it another config.
    expected = digest(data)
    if metadata.get("config") != expected:
        raise UserError(
            f"{folder}: model.safetensors was written for another config than config.json "
            f"(digest {metadata.get('config')}, expected {expected}); copy both again, or "
            "delete the run's training folder and run the study again"
        )
    model = Transformer(config, compute_dtype=compute_dtype, experts=fitting_experts(config))
    copy_into(dict(model.named_parameters()), tensors, folder)
    return model.to(device).eval()


def check_device(device: str) -> None:
    """Whether a model can be put there.

    Raises:
        UserError: it is no device, or this machine has none of it.
    """
    try:
        named = torch.device(device)
    except RuntimeError:
        named = torch.device("meta")
    count = torch.cuda.device_count() if named.type == "cuda" else 1
    if named.type not in ("cpu", "cuda") or (named.index or 0) >= count:
        raise UserError(f"device={device!r} is not here; use cpu, or cuda where there is one")


def own_config(data: Any, path: Path) -> ModelConfig:
    """The config that `data` of this file says.

    Raises:
        UserError: no such fields, or values that are no model; names the file.
    """
    try:
        return from_dict(ModelConfig, data, str(path))
    except UserError as error:
        named = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise UserError(named) from None


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and text metadata atomically.

    Raises:
        UserError: no space left, or no permission.
    """
    folder = writing_folder(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        whole = folder / path.name
        save_file({name: value.contiguous() for name, value in tensors.items()}, whole, metadata)
        with atomic_file(path) as part:
            whole.replace(part)
    except SafetensorError as error:
        raise UserError(
            f"{path}: cannot write the weights: {error}; free space and run again"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def writing_folder(path: Path) -> Path:
    """Where a safetensors file is written before it gets its name. A folder of its own, since
    safetensors writes to a file of a random name, which a killed process leaves behind."""
    return path.with_name(f"{path.name}.writing")


def checkpoint_folder(path: Path) -> Path:
    """The folder itself, or of a training run's folder the last checkpoint.

    Raises:
        UserError: neither.
    """
    if (path / "config.json").exists() and (path / "model.safetensors").exists():
        return path
    kept = sorted((path / CHECKPOINTS).glob(f"{STEP_PREFIX}*"))
    if not kept:
        raise UserError(
            f"{path}: no checkpoint here (config.json and model.safetensors), nor a training run's "
            f"folder with {CHECKPOINTS}/{STEP_PREFIX}*; give the path of one"
        )
    return kept[-1]


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file.

    Raises:
        UserError: missing or cut short.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}); copy it again, or delete the run's "
            "training folder and run the study again"
        ) from None


@torch.no_grad()
def copy_into(
    targets: dict[str, torch.Tensor], values: dict[str, torch.Tensor], where: Path
) -> None:
    """Copy `values` into `targets` in place; names and shapes must be the same."""
    if set(targets) != set(values):
        odd = sorted(set(targets) ^ set(values))
        raise UserError(f"{where}: tensors missing or not expected: {', '.join(odd[:3])}")
    for name, target in targets.items():
        if target.shape != values[name].shape:
            raise UserError(
                f"{where}: {name} has shape {tuple(values[name].shape)}, "
                f"expected {tuple(target.shape)}"
            )
        target.copy_(values[name])
