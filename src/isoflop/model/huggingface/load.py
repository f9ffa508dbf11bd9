"""Read a Mixtral directory of anyone's into a checkpoint folder of ours.

    <checkpoint>/config.json, model.safetensors   as model.checkpoint reads them, float32
    <checkpoint>/tokenizer.json and companions    the directory's tokenizer, byte for byte

Streaming: one tensor of ours is in memory at a time. Everything is checked by header
before a byte is written, and the folder appears whole, or not at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from isoflop.config import UserError, digest, to_text
from isoflop.model.config import ModelConfig
from isoflop.model.count import total_params
from isoflop.model.huggingface.fields import model_config
from isoflop.model.huggingface.files import (
    SINGLE_FILE,
    TensorFiles,
    open_tensors,
    whole_folder,
    write_tensors,
)
from isoflop.model.huggingface.tokenizer import carried_tokenizer
from isoflop.model.huggingface.weights import OUTER_NAMES, Piece, parameter_shapes, pieces
from isoflop.records import read_json

EMBEDDING = OUTER_NAMES["embedding"]
HEAD = OUTER_NAMES["head"]
REMEDY = "copy the directory again, or save it again with transformers"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was read and written."""

    folder: Path
    config: ModelConfig
    tokenizer: str | None
    """Where the tokenizer came from."""
    notes: tuple[str, ...]
    """What the directory says and the checkpoint holds otherwise."""

    def line(self) -> str:
        """One line for the user."""
        shape = self.config
        return (
            f"{total_params(shape):,} parameters in float32: {shape.num_layers} layers, d_model "
            f"{shape.d_model}, {shape.num_experts} experts of {shape.d_expert}, top_k "
            f"{shape.top_k}; tokenizer: {self.tokenizer or 'none'}"
        )


def import_checkpoint(directory: Path, checkpoint: Path) -> Imported:
    """Write the model of a Mixtral directory to the new checkpoint folder.

    Weights in bfloat16 and float16 become float32 exactly. Tied embeddings become two tensors.

    Raises:
        UserError: not a Mixtral, one that our decoder cannot say, damaged files, or a checkpoint
            folder in use. File, field and value are named, and nothing is left.
    """
    path = directory / "config.json"
    data = read_json(path, missing="no model here", remedy="copy the directory again")
    config, notes = model_config(data, path)
    tokenizer = carried_tokenizer(directory)
    if tokenizer is not None:
        tokenizer.check(config.vocabulary_size)
    with open_tensors(directory) as theirs:
        theirs.check_layers(config.num_layers, path, REMEDY)
        theirs.check_experts(config.num_experts, path, REMEDY)
        fused = any(name.endswith(".mlp.experts.gate_up_proj") for name in theirs.names)
        expected = pieces(config, "fused" if fused else "classic")
        if data.get("tie_word_embeddings"):
            expected = _tie(theirs, expected)
            notes += ("tie_word_embeddings: the head is written as a copy of the embedding",)
        theirs.check({piece.theirs: piece.shape for piece in expected}, REMEDY)
        with whole_folder(checkpoint) as part:
            (part / "config.json").write_text(to_text(config), encoding="utf-8", newline="\n")
            for name, content in (tokenizer.files if tokenizer else {}).items():
                (part / name).write_bytes(content)
            shapes = parameter_shapes(config)
            write_tensors(
                part / SINGLE_FILE,
                shapes,
                torch.float32,
                {"config": digest(config)},
                _ours(theirs, expected, shapes),
            )
    return Imported(
        folder=checkpoint,
        config=config,
        tokenizer=None if tokenizer is None else tokenizer.origin,
        notes=notes,
    )


def _tie(theirs: TensorFiles, expected: list[Piece]) -> list[Piece]:
    """Let the head be read from the embedding, unless the file holds the same weights as a head.

    Raises:
        UserError: the head is there and differs; it is not known which one is meant.
    """
    if HEAD in theirs.names and EMBEDDING in theirs.names:
        if not torch.equal(theirs.slice(HEAD)[:], theirs.slice(EMBEDDING)[:]):
            raise UserError(
                f"{theirs.path}: {HEAD} differs from {EMBEDDING}, but config.json says "
                "tie_word_embeddings=true, so transformers would not read it; delete the one or "
                "the other"
            )
        return expected
    return [
        replace(piece, theirs=EMBEDDING) if piece.theirs == HEAD else piece for piece in expected
    ]


def _ours(
    theirs: TensorFiles, found: list[Piece], shapes: dict[str, tuple[int, ...]]
) -> Iterator[Tensor]:
    """Our tensors in the order of `shapes`, each put together from its pieces.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    by_name: dict[str, list[Piece]] = {name: [] for name in shapes}
    for piece in found:
        by_name[piece.ours].append(piece)
    for name, shape in shapes.items():
        tensor = torch.empty(shape)
        for piece in by_name[name]:
            part = theirs.slice(piece.theirs)[:].float()
            if not part.isfinite().all():
                raise UserError(
                    f"{theirs.file(piece.theirs)}: {piece.theirs} holds NaN or infinity, and so would "
                    "every answer; import a checkpoint from before training broke, or copy it again"
                )
            tensor[piece.place] = piece.turn(part)
        yield tensor
