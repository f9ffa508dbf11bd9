"""Small checkpoints, Mixtral directories and tokenizers for tests."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.transformer import Transformer
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import train_tokenizer

LARGEST_DIFFERENCE = 1e-5
"""Of float32 logits between two programs: rounding alone."""

TEXTS = [
    f"{name} owns {number} sheep, {number * 7} goats." for number in range(60) for name in "AB"
]


def shape(**changes: object) -> ModelConfig:
    """Two layers, four experts, weights large enough that a misplaced one shows."""
    fields: dict[str, object] = {
        "vocabulary_size": 96,
        "num_layers": 2,
        "d_model": 32,
        "num_heads": 4,
        "d_expert": 64,
        "num_experts": 4,
        "top_k": 2,
        "sequence_length": 48,
        "init_std": 0.1,
    }
    return ModelConfig(**{**fields, **changes})  # type: ignore[arg-type]


def random_model(config: ModelConfig, seed: int = 7) -> Transformer:
    """Random weights, the norms' too: norms of 1 would hide a misplaced one."""
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def checkpoint(folder: Path, **changes: object) -> Transformer:
    """A checkpoint of random weights written to `folder`, and its model."""
    model = random_model(shape(**changes))
    save_checkpoint(model, folder)
    return model


def some_tokens(config: ModelConfig) -> torch.Tensor:
    """Three sequences of the model's full length."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(config.vocabulary_size, (3, config.sequence_length), generator=generator)


def tokenizer_file(folder: Path, vocabulary_size: int = 300) -> Path:
    """A byte-level BPE trained on a few lines."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    train_tokenizer(TokenizerConfig(vocabulary_size=vocabulary_size), TEXTS, path)
    return path


def edit_json(path: Path, **changes: Any) -> None:
    """Set fields of a JSON object in a file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(path: Path, change: Any) -> None:
    """Let `change` work on the tensors of a safetensors file."""
    tensors = load_file(path)
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
