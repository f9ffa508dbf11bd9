"""Write a checkpoint as a Mixtral directory that transformers opens.

    config.json, generation_config.json        what the model is, and how it answers
    model.safetensors, or shards and an index  weights under the classic names
    tokenizer.json and its two companions      where a tokenizer is known
    README.md                                  the model card, with lineage

Streaming: one matrix is in memory at a time. The directory appears whole, or not at all.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from isoflop.config import UserError, digest
from isoflop.model.checkpoint import own_config
from isoflop.model.config import ModelConfig
from isoflop.model.huggingface.card import Lineage, model_card, opening_words
from isoflop.model.huggingface.fields import (
    ARCHITECTURE,
    check_mixtral,
    mixtral_config_fields,
    order_fields,
)
from isoflop.model.huggingface.files import (
    INDEX_FILE,
    SINGLE_FILE,
    TensorFiles,
    num_bytes,
    open_tensors,
    whole_folder,
    write_tensors,
)
from isoflop.model.huggingface.tokenizer import TokenizerFiles
from isoflop.model.huggingface.weights import Piece, parameter_shapes, pieces
from isoflop.model.transformer import DTYPES
from isoflop.records import read_json

WeightType = Literal["float32", "bfloat16"]

MAX_SHARD_BYTES = 5_000_000_000
"""Of one weights file; what transformers 4 splits at."""

BALANCE_COEFFICIENT = 0.01
"""Where the run is not known: the study's (arXiv:2508.18672, launch scripts)."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    dtype: WeightType
    parameters: int
    shards: int
    weight_bytes: int
    tokenizer: str | None
    """Where the tokenizer came from."""
    opening: str | None
    """How it must be opened where transformers' default cannot compute it; None: as it is."""

    def line(self) -> str:
        """One line for the user, and another where the model cannot be opened as it is."""
        files = "1 file" if self.shards == 1 else f"{self.shards} shards"
        text = (
            f"{ARCHITECTURE}, {self.parameters:,} parameters in {self.dtype}, {files}, "
            f"{self.weight_bytes:,} bytes; tokenizer: {self.tokenizer or 'none'}"
        )
        return text if self.opening is None else f"{text}\nopen it with {self.opening}"


def checkpoint_config(checkpoint: Path) -> tuple[ModelConfig, str]:
    """The config of a checkpoint folder, and the digest of the file as it stands.

    A file of an older version lacks the fields that came later, and its weights know it so.

    Raises:
        UserError: no checkpoint there.
    """
    path = checkpoint / "config.json"
    data = read_json(path, missing="no checkpoint here", remedy="copy the checkpoint again")
    return own_config(data, path), digest(data)


def export_checkpoint(
    checkpoint: Path,
    target: Path,
    *,
    tokenizer: TokenizerFiles | None,
    lineage: Lineage | None = None,
    dtype: WeightType = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Exported:
    """Write the checkpoint's model to the new folder `target`.

    Raises:
        UserError: no checkpoint, a router that Mixtral has not, a tokenizer that does not fit,
            or a target in use. Nothing is left then, nor after a full disk or an interrupt.
    """
    config, expected = checkpoint_config(checkpoint)
    try:
        check_mixtral(config)
    except UserError as error:
        raise UserError(f"{checkpoint / 'config.json'}: {error}") from None
    if tokenizer is not None:
        tokenizer.check(config.vocabulary_size)
    with open_tensors(checkpoint) as ours:
        written = ours.metadata().get("config")
        if written != expected:
            raise UserError(
                f"{ours.path}: was written for another config than config.json beside it (digest "
                f"{written}, expected {expected}); copy the checkpoint again"
            )
        ours.check(parameter_shapes(config), "copy the checkpoint again")
        shards = split_shards(pieces(config, "classic"), DTYPES[dtype], max_shard_bytes)
        with whole_folder(target) as part:
            _write_texts(part, config, dtype, lineage, tokenizer)
            _write_card(part, config, expected, dtype, lineage, tokenizer)
            _write_weights(part, ours, shards, DTYPES[dtype])
    every = [piece for shard in shards for piece in shard]
    weight_bytes = sum(num_bytes(piece.shape, DTYPES[dtype]) for piece in every)
    return Exported(
        folder=target,
        dtype=dtype,
        parameters=weight_bytes // DTYPES[dtype].itemsize,
        shards=len(shards),
        weight_bytes=weight_bytes,
        tokenizer=None if tokenizer is None else tokenizer.origin,
        opening=opening_words(config),
    )


def split_shards(found: list[Piece], dtype: torch.dtype, max_shard_bytes: int) -> list[list[Piece]]:
    """The tensors in order, cut so that no shard of several tensors is larger than asked.

    Raises:
        UserError: less than one byte is asked.
    """
    if max_shard_bytes < 1:
        raise UserError(f"max_shard_bytes={max_shard_bytes} must be at least 1")
    shards: list[list[Piece]] = []
    filled = 0
    for piece in found:
        size = num_bytes(piece.shape, dtype)
        if not shards or filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(piece)
        filled += size
    return shards


def _write_weights(
    folder: Path, ours: TensorFiles, shards: list[list[Piece]], dtype: torch.dtype
) -> None:
    names = [SINGLE_FILE]
    if len(shards) > 1:
        total = len(shards)
        names = [f"model-{place:05d}-of-{total:05d}.safetensors" for place in range(1, total + 1)]
        size = sum(num_bytes(piece.shape, dtype) for shard in shards for piece in shard)
        index = {
            "metadata": {"total_size": size},
            "weight_map": {
                piece.theirs: name
                for name, shard in zip(names, shards, strict=True)
                for piece in shard
            },
        }
        _write_json(folder / INDEX_FILE, index)
    for name, shard in zip(names, shards, strict=True):
        shapes = {piece.theirs: piece.shape for piece in shard}
        # transformers asks for this metadata to know whose tensors they are.
        write_tensors(folder / name, shapes, dtype, {"format": "pt"}, _read(ours, shard))


def _read(ours: TensorFiles, shard: list[Piece]) -> Iterator[Tensor]:
    for piece in shard:
        yield piece.take(ours.slice(piece.ours))


def _write_texts(
    folder: Path,
    config: ModelConfig,
    dtype: WeightType,
    lineage: Lineage | None,
    tokenizer: TokenizerFiles | None,
) -> None:
    """Everything but the weights."""
    balance = BALANCE_COEFFICIENT if lineage is None else lineage.balance_coefficient
    bos, eos, pad = (
        (None, None, None)
        if tokenizer is None
        else (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    )
    fields = {
        "architectures": [ARCHITECTURE],
        "model_type": "mixtral",
        **mixtral_config_fields(config),
        **order_fields(config),
        # Theirs is one loss over all layers, k at even use; ours is 1 a layer, summed.
        "router_aux_loss_coef": balance * config.num_layers / config.top_k,
        "bos_token_id": bos,
        "eos_token_id": eos,
        # pad_token_id stays null: transformers gives its row of the embedding no gradient, and
        # here that token is the end of text. generation_config.json names it for batches.
        "use_cache": True,
        # transformers 4 reads the first, 5 the second.
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    _write_json(folder / "config.json", fields)
    generation = {
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "do_sample": False,
    }
    _write_json(folder / "generation_config.json", generation)
    for name, content in ({} if tokenizer is None else tokenizer.files).items():
        (folder / name).write_bytes(content)


def _write_card(
    folder: Path,
    config: ModelConfig,
    config_digest: str,
    dtype: WeightType,
    lineage: Lineage | None,
    tokenizer: TokenizerFiles | None,
) -> None:
    origin = None if tokenizer is None else Path(tokenizer.origin).name
    card = model_card(config, config_digest, dtype=dtype, lineage=lineage, tokenizer=origin)
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
