"""Tensors in and out of safetensors files, one at a time, and folders that appear whole or not at all.

A model may be larger than memory: the header of a file is computed from shapes, then each tensor
is written as it comes. Only safetensors is read, never pickle: a directory from elsewhere cannot
run code.

Source: the safetensors format: 8 bytes of header length, JSON header, tensors without gap.
"""

import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from isoflop.config import UserError
from isoflop.records import flush_to_disk, read_json

DTYPE_CODES = {torch.float32: "F32", torch.bfloat16: "BF16"}
"""What is written, by the format's name for it."""

READ_CODES = ("F32", "BF16", "F16")
"""What is read: each of these is a float32 exactly."""

HEADER_ALIGNMENT = 8
"""Bytes of the length before the header, and what the header's own length is a multiple of."""

LAYER_NAME = re.compile(r"model\.layers\.(\d{1,9})\.")
EXPERT_NAME = re.compile(r"(.*\.experts\.)(\d{1,9})(\..+)")

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
COPY_AGAIN = "copy the directory again"


def num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of one tensor in a file."""
    return math.prod(shape) * dtype.itemsize


def write_tensors(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
    metadata: dict[str, str],
    tensors: Iterable[Tensor],
) -> None:
    """Write a safetensors file; `tensors` come in the order of `shapes` and become `dtype`."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + num_bytes(shape, dtype)
        code = DTYPE_CODES[dtype]
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(HEADER_ALIGNMENT, "little") + text)
        for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
            assert tuple(tensor.shape) == shape, (name, tensor.shape, shape)
            file.write(tensor.to(dtype).contiguous().view(torch.uint8).numpy().data)


class TensorFiles:
    """The tensors of one safetensors file or of an index's shards, read when asked for."""

    def __init__(self, path: Path, files: dict[str, Path], opened: dict[Path, Any]):
        self.path = path
        """The file or index, for messages."""
        self._files = files
        self._opened = opened

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._files)

    def file(self, name: str) -> Path:
        """Where a tensor lies."""
        return self._files[name]

    def metadata(self) -> dict[str, str]:
        """The text beside the tensors, of all files together."""
        return {k: v for file in self._opened.values() for k, v in (file.metadata() or {}).items()}

    def slice(self, name: str) -> Any:
        """A tensor's place in its file: indexed, it reads that part alone."""
        return self._opened[self._files[name]].get_slice(name)

    def check_layers(self, num_layers: int, config: Path, remedy: str) -> None:
        """Refuse more layers than the files hold, before anything of that size is made.

        Raises:
            UserError: `num_hidden_layers` of the file `config` is too large.
        """
        numbers = [int(found[1]) for found in map(LAYER_NAME.match, self.names) if found]
        held = max(numbers, default=-1) + 1
        if num_layers > held > 0:
            raise UserError(
                f"{config}: num_hidden_layers={num_layers}, but {self.path} lacks model.layers.{held} "
                f"and all after it; {remedy}"
            )

    def check_experts(self, num_experts: int, config: Path, remedy: str) -> None:
        """Refuse files that lack a tensor of an expert, where each expert has tensors of its own.

        Raises:
            UserError: the first that is missing is named.
        """
        found = sorted(match.groups() for match in map(EXPERT_NAME.match, self.names) if match)
        for layer, kind in sorted({(layer, kind) for layer, _, kind in found}):
            for number in range(num_experts):
                name = f"{layer}{number}{kind}"
                if name not in self._files:
                    raise UserError(
                        f"{self.path}: lacks {name}, though {config} says {num_experts} experts; "
                        f"{remedy}"
                    )

    def check(self, shapes: dict[str, tuple[int, ...]], remedy: str) -> None:
        """Refuse other names, shapes or types than expected.

        Raises:
            UserError: the first odd tensors are named.
        """
        for odd, word in ((set(shapes) - self.names, "lacks"), (self.names - set(shapes), "has")):
            if odd:
                rest = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
                why = "" if word == "lacks" else ", which a Mixtral of this config does not have"
                raise UserError(
                    f"{self.path}: {word} {', '.join(sorted(odd)[:3])}{rest}{why}; {remedy}"
                )
        for name, shape in shapes.items():
            found = self.slice(name)
            if tuple(found.get_shape()) != shape:
                raise UserError(
                    f"{self.file(name)}: {name} has shape {tuple(found.get_shape())}, its config "
                    f"says {shape}; {remedy}"
                )
            if found.get_dtype() not in READ_CODES:
                raise UserError(
                    f"{self.file(name)}: {name} is of type {found.get_dtype()}; only "
                    f"{', '.join(READ_CODES)} are read, so save it again unquantised in one of them"
                )


@contextmanager
def open_tensors(folder: Path) -> Iterator[TensorFiles]:
    """The tensors of a directory, from model.safetensors or, where there is none, from its index.

    Raises:
        UserError: neither is there, a shard is missing or cut short, or index and shards disagree.
    """
    index = folder / INDEX_FILE
    with ExitStack() as stack:
        if (folder / SINGLE_FILE).exists() or not index.exists():
            path = folder / SINGLE_FILE
            _check_present(folder)
            opened = {path: stack.enter_context(_open(path))}
            yield TensorFiles(path, dict.fromkeys(opened[path].keys(), path), opened)
            return
        files = _read_index(index)
        opened = {path: stack.enter_context(_open(path)) for path in sorted(set(files.values()))}
        held = {name: path for path, file in opened.items() for name in file.keys()}  # noqa: SIM118
        for name in sorted(set(files) | set(held)):
            if files.get(name) != held.get(name):
                raise UserError(
                    f"{index}: {name} should be in {files.get(name, 'no shard')}, but is in "
                    f"{held.get(name, 'none of the shards')}; {COPY_AGAIN}"
                )
        yield TensorFiles(index, files, opened)


def _check_present(folder: Path) -> None:
    """Say what is there instead of safetensors."""
    if (folder / SINGLE_FILE).exists():
        return
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled:
        raise UserError(
            f"{folder}: holds {pickled[0]} but no safetensors; pickled weights can run code and are "
            "never read. Where you trust them, load them with transformers and save_pretrained"
        )
    raise UserError(f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there; {COPY_AGAIN}")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, but {INDEX_FILE} names it; {COPY_AGAIN}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); {COPY_AGAIN}") from None


def _read_index(path: Path) -> dict[str, Path]:
    """Which file holds which tensor."""
    data = read_json(path, missing="no index", remedy=COPY_AGAIN)
    files = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(files, dict) or not files:
        raise UserError(f"{path}: weight_map must name the file of each tensor; {COPY_AGAIN}")
    for name, file in files.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(
                f"{path}: weight_map names {file!r} for {name}; it must be a file beside the index"
            )
    return {name: path.with_name(file) for name, file in files.items()}


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """``with whole_folder(target) as part``: fill `part`; `target` appears when the block ends well.

    All bytes are on disk before the name is. After an error or an interrupt nothing is left.

    Raises:
        UserError: `target` is there and not an empty folder, or a killed process left its part.
    """
    part = target.with_name(target.name + ".part")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target}: is there and not empty; give a new folder or delete it")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.mkdir()
    except FileExistsError:
        raise UserError(
            f"{part}: is there: another process is writing it, or a killed one left it; "
            "wait, or delete it and run again"
        ) from None
    try:
        yield part
        for file in part.iterdir():
            flush_to_disk(file)
        flush_to_disk(part)
        part.replace(target)
    except BaseException as error:
        # Also on an interrupt: a half-written model must not be found by anyone.
        if isinstance(error, OSError) and error.filename is None:
            # A full disk does not say where; the user needs to know.
            error.filename = str(target)
        shutil.rmtree(part, ignore_errors=True)
        raise
    flush_to_disk(target.parent)
