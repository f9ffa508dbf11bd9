"""The frozen model from which the divergence is taken, and what tells one model from another."""

import dataclasses
from pathlib import Path

from isoflop.config import UserError, digest, to_dict
from isoflop.folders import file_digest
from isoflop.model.checkpoint import load_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.huggingface.export import checkpoint_config
from isoflop.model.transformer import Transformer

NOT_COMPUTED_WITH = ("init_std",)
"""Fields of a model's config that a loaded checkpoint's numbers do not depend on."""


def model_digest(folder: Path) -> str:
    """Names everything that a checkpoint's numbers depend on: its weights, and how its config computes
    with them.

    Raises:
        UserError: no checkpoint there.
    """
    fields = to_dict(checkpoint_config(folder)[0])
    computed = {name: value for name, value in fields.items() if name not in NOT_COMPUTED_WITH}
    return digest(computed, file_digest(folder / "model.safetensors"))


def load_reference(folder: Path, policy: ModelConfig, device: str) -> Transformer:
    """The checkpoint, frozen.

    Raises:
        UserError: no checkpoint, or one of another shape or vocabulary than the policy's. Log-probabilities
            over other tokens cannot be compared, and experts are replayed layer by layer.
    """
    reference = load_checkpoint(folder, device=device)
    differing = [
        f"{field.name}={getattr(reference.config, field.name)} instead of "
        f"{getattr(policy, field.name)}"
        for field in dataclasses.fields(policy)
        if field.name not in NOT_COMPUTED_WITH
        and getattr(reference.config, field.name) != getattr(policy, field.name)
    ]
    if differing:
        raise UserError(
            f"{folder}: the reference has {', '.join(differing)} of the model that is trained; "
            "give a checkpoint of the same shape and vocabulary"
        )
    return reference.requires_grad_(False)
