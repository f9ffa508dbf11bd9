"""A few steps of AdamW on a Hugging Face model, in one go and through files: are the bits the same?"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoflop.doctor.compare import differing

LEARNING_RATE = 1e-3
STEPS = 3
"""Of training before and after the stop; chosen small, AdamW's moments are there after one."""


def resume_differences(model: nn.Module, folder: Path, seed: int) -> tuple[int, str]:
    """Weights and moments that differ at the end, and what was compared."""
    whole = _Training(copy.deepcopy(model))
    whole.run(seed, range(2 * STEPS))
    first = _Training(copy.deepcopy(model))
    first.run(seed, range(STEPS))
    first.save(folder)
    # Other weights, so that nothing but the files can bring back the right ones.
    second = _Training(_redrawn(model))
    second.load(folder)
    second.run(seed, range(STEPS, 2 * STEPS))
    changed = differing(whole.tensors(), second.tensors())
    what = (
        f"{len(whole.tensors())} weights and moments of AdamW by state_dict; transformers' "
        "Trainer, data position and random state are not part of the model"
    )
    return len(changed), what


class _Training:
    """A plain loop with AdamW: step n of a seed always has the same batch."""

    def __init__(self, model: Any):
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def run(self, seed: int, steps: range) -> None:
        device = next(self.model.parameters()).device
        for step in steps:
            generator = torch.Generator().manual_seed(seed * 1000 + step)
            tokens = torch.randint(0, self.model.config.vocab_size, (4, 8), generator=generator)
            tokens = tokens.to(device)
            self.optimizer.zero_grad()
            self.model(tokens, labels=tokens, use_cache=False).loss.backward()
            self.optimizer.step()

    def save(self, folder: Path) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, folder / "state.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def tensors(self) -> dict[str, Tensor]:
        kept = dict(self.model.state_dict())
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                kept[f"{key}.{name}"] = value
        return kept


def _redrawn(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    return other
