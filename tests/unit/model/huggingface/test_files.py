"""What is written is what safetensors reads; tensors pass one at a time; folders appear whole."""

import weakref
from collections.abc import Iterator

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fakes import names_in
from isoflop.config import UserError
from isoflop.model.huggingface.files import HEADER_ALIGNMENT, whole_folder, write_tensors

SHAPES = {"a": (3, 5), "b": (1,), "c": (2, 3, 4), "longer.name.d": (7,)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_safetensors_reads_what_is_written(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    tensors = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    # Transposed views are written as they read, not as they lie in memory.
    tensors["a"] = torch.randn(5, 3).T
    write_tensors(path, SHAPES, dtype, {"format": "pt"}, iter(tensors.values()))
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor.to(dtype))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    length = int.from_bytes(path.read_bytes()[:HEADER_ALIGNMENT], "little")
    assert length % HEADER_ALIGNMENT == 0


def test_tensors_pass_one_at_a_time(tmp_path):
    """The one that is written and the one that is made: a model need not fit into memory."""
    alive: list[weakref.ref[torch.Tensor]] = []

    def made() -> Iterator[torch.Tensor]:
        for _ in range(9):
            assert sum(one() is not None for one in alive) <= 1
            tensor = torch.zeros(4)
            alive.append(weakref.ref(tensor))
            yield tensor
            del tensor

    shapes = {str(number): (4,) for number in range(9)}
    write_tensors(tmp_path / "x.safetensors", shapes, torch.float32, {}, made())


def test_a_folder_appears_when_its_block_ends_well(tmp_path):
    with whole_folder(tmp_path / "deep" / "new") as part:
        (part / "file").write_text("whole")
        assert names_in(tmp_path / "deep") == ["new.part"]
    assert (tmp_path / "deep" / "new" / "file").read_text() == "whole"
    assert names_in(tmp_path / "deep") == ["new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no"), OSError(28, "full")])
def test_a_folder_that_fails_leaves_nothing(tmp_path, error):
    def fail() -> None:
        with whole_folder(tmp_path / "new") as part:
            (part / "file").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names_in(tmp_path) == []
