"""Find the routers of any model by their structure, not by their names.

A layer with experts is a module with a child whose weights are stacked over the E
experts (three axes, the first of length E); its router is the one matrix E x d below
the other children.
"""

import torch
from torch import Tensor, nn

from isoflop.config import UserError
from isoflop.doctor.subject import Choices, RouterSite

EXPERT_AXES = 3
"""Of a weight stacked over experts."""

ROUTER_OUTPUTS = 3
"""What a router of transformers 5 returns: logits, weights of the chosen, chosen experts."""


def find_sites(model: nn.Module, num_experts: int, d_model: int) -> list[RouterSite]:
    """One router for each layer that has experts, in order of the layers.

    Raises:
        UserError: no router is found, or more than one in a layer.
    """
    sites = []
    for name, module in model.named_modules():
        experts = [child for child in module.children() if _is_experts(child, num_experts)]
        if not experts:
            continue
        routers = [
            (below, weight)
            for child in module.children()
            if child not in experts
            for below in child.modules()
            for weight in below.parameters(recurse=False)
            if tuple(weight.shape) == (num_experts, d_model)
        ]
        if len(routers) != 1:
            raise UserError(
                f"{type(model).__name__}: {name} holds experts and {len(routers)} matrices of "
                f"{num_experts} x {d_model}; a router is one, so this variant is not supported"
            )
        sites.append(_site(*routers[0]))
    if not sites:
        raise UserError(
            f"{type(model).__name__}: no layer holds {num_experts} experts with a router of "
            f"{num_experts} x {d_model}; this variant is not supported"
        )
    return sites


def _is_experts(module: nn.Module, num_experts: int) -> bool:
    """Whether its weights are stacked over the experts."""
    return any(
        weight.ndim == EXPERT_AXES and weight.shape[0] == num_experts
        for weight in module.parameters(recurse=False)
    )


def _site(router: nn.Module, weight: nn.Parameter) -> RouterSite:
    """The router, if all it holds is a weight and perhaps a bias.

    Raises:
        UserError: it holds more, such as the correction of a sigmoid router.
    """
    others = {n: t for n, t in router.state_dict(keep_vars=True).items() if t is not weight}
    bias = others.pop("bias", None)
    if others:
        raise UserError(
            f"{type(router).__name__} holds {', '.join(others)} beside its weight; only routers "
            "that take a softmax of a linear map are supported"
        )
    return RouterSite(router, weight, bias)


class RouterTape:
    """Forward hooks that keep what every router is given and returns."""

    def __init__(self, sites: list[RouterSite]):
        self.inputs: list[Tensor] = []
        self.outputs: list[tuple[Tensor, ...]] = []
        self._handles = [site.module.register_forward_hook(self._keep) for site in sites]

    def __enter__(self) -> "RouterTape":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...], output: object) -> None:
        if not isinstance(output, tuple) or len(output) != ROUTER_OUTPUTS:
            raise UserError(
                f"{type(module).__name__} does not return logits, weights and experts; this "
                "router is not supported"
            )
        self.inputs.append(given[0].detach())
        self.outputs.append(tuple(part.detach() for part in output))

    def choices(self) -> list[Choices]:
        """What was kept, layer by layer."""
        return [
            Choices(
                given.reshape(-1, given.shape[-1]),
                logits.reshape(-1, logits.shape[-1]),
                weights.reshape(-1, weights.shape[-1]),
                experts.reshape(-1, experts.shape[-1]).to(torch.int64),
            )
            for given, (logits, weights, experts) in zip(self.inputs, self.outputs, strict=True)
        ]
