"""Calling a kernel with its gradient, or without one where none will be asked for."""

from typing import Any

import torch


class _NoGradients:
    """Stands for autograd's context: keeps nothing."""

    def save_for_backward(self, *_: Any) -> None:
        """Nothing goes backward."""

    mark_non_differentiable = save_for_backward
    set_materialize_grads = save_for_backward


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply`, but its forward pass alone where gradients are switched off.

    Autograd's own bookkeeping takes 20 to 30 microseconds a call, as long as a decoding step's
    kernels (docs/log.md, 2026-11-25).
    """
    if torch.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(_NoGradients(), *arguments)
