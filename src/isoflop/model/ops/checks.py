"""What kernels take on trust, looked at before they are called."""

import torch
from torch import Tensor

from isoflop.model.ops.build import NUMBERS


def fits(*tensors: Tensor | None) -> bool:
    """Whether the kernels take these."""
    given = [tensor for tensor in tensors if tensor is not None]
    return all(tensor.device.type == "cpu" and tensor.dtype in NUMBERS for tensor in given)


def checked(numbers: Tensor, count: int, kind: str) -> Tensor:
    """Numbers below `count`: C would read beyond it without a word."""
    if numbers.numel():
        least, most = (int(end) for end in torch.aminmax(numbers))
        if least < 0 or most >= count:
            wrong = least if least < 0 else most
            raise IndexError(f"{kind} {wrong} is not within 0 to {count - 1}")
    return numbers.long().contiguous()
