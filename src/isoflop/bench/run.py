"""All shapes, one after the other; what is loaded once is loaded first."""

import importlib

from isoflop.allocator import KEEP_MEMORY
from isoflop.bench.contestants import check_peers
from isoflop.bench.machine import Machine, describe, require_device
from isoflop.bench.memory import MemoryRow, chosen_cases, measure_case
from isoflop.bench.report import gigabytes
from isoflop.bench.results import Options, ShapeResult
from isoflop.bench.shapes import chosen_shapes
from isoflop.bench.speed import Tell, bench_shape
from isoflop.model.huggingface.package import import_transformers


def bench_train(
    shapes: list[str] | None, options: Options, tell: Tell
) -> tuple[Machine, list[ShapeResult]]:
    """Speed at the shapes of these names; None: all of the device.

    Raises:
        UserError: an unknown shape or peer, a device that is not here, or no transformers.
    """
    require_device(options.device)
    chosen = chosen_shapes(shapes, options.device)
    check_peers(options.peers)
    _load(peers=options.peers != [])
    machine = describe(options.device, options.threads, tuple(KEEP_MEMORY))
    return machine, [bench_shape(shape, options, tell) for shape in chosen]


def bench_memory(
    shapes: list[str] | None, threads: int, tell: Tell
) -> tuple[Machine, list[MemoryRow]]:
    """Peak memory of the cases of these shapes; None: all.

    Raises:
        UserError: an unknown shape.
    """
    cases = chosen_cases(shapes)
    _load(peers=False)
    machine = describe("cpu", threads, tuple(KEEP_MEMORY))
    rows = []
    for case in cases:
        row = measure_case(case, threads)
        # A large case takes minutes, so what is known is told at once.
        tell(f"{case.name}: {gigabytes(row.measured) or row.reason}")
        rows.append(row)
    return machine, rows


def _load(*, peers: bool) -> None:
    """Load here what every contestant's process would load again."""
    # The first optimiser step of a process imports this; it takes a second.
    importlib.import_module("torch._dynamo")
    if peers:
        # The package loads its models when they are asked for.
        assert import_transformers().MixtralForCausalLM
