"""What stands between the matrix products, in two ways: plain PyTorch, and fused for the CPU.

`reference` defines every function and runs everywhere. `native` computes the
same on a CPU in fewer passes over memory, from C compiled on first use.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, Literal

from torch import Tensor

from isoflop.model.ops import native, reference
from isoflop.model.ops.build import native_available, require_native
from isoflop.model.ops.dispatch import Dispatch
from isoflop.model.router import RouterStatistics, Routing

OpsImplementation = Literal["auto", "native", "torch"]


@dataclass(frozen=True)
class Ops:
    """One way to compute what stands between the products; `reference` describes each function."""

    name: str
    add_norm: Callable[..., tuple[Tensor, Tensor]]
    rotate_heads: Callable[..., tuple[Tensor, Tensor, Tensor]]
    attention: Callable[..., Tensor]
    attend_cached: Callable[..., Tensor]
    attend_packed: Callable[..., Tensor]
    route_tokens: Callable[..., tuple[Routing, RouterStatistics]]
    linear: Callable[..., Tensor]
    product_into: Callable[..., Tensor]
    add_outer: Callable[..., None]
    expert_product: Callable[..., Tensor]
    fused_experts: Callable[..., Tensor | None]
    make_dispatch: Callable[..., Dispatch]
    gather_rows: Callable[..., Tensor]
    take_rows: Callable[..., Tensor]
    swiglu: Callable[..., Tensor]
    combine: Callable[..., Tensor]
    row_losses: Callable[..., tuple[Tensor, Tensor, Tensor]]
    row_losses_slope_: Callable[..., Tensor]


def _functions(name: str, module: ModuleType) -> Ops:
    functions: dict[str, Any] = {
        field.name: getattr(module, field.name) for field in fields(Ops) if field.name != "name"
    }
    return Ops(name, **functions)


TORCH_OPS = _functions("torch", reference)
NATIVE_OPS = _functions("native", native)


def select_ops(implementation: OpsImplementation) -> Ops:
    """The functions to use; "auto" is native where a C compiler is found.

    Raises:
        UserError: "native" without a C compiler.
    """
    if implementation == "native":
        require_native()
    wanted = implementation != "torch" and native_available()
    return NATIVE_OPS if wanted else TORCH_OPS
