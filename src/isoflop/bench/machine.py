"""The machine under the ruler: its speed limit, its name, its memory, and equal terms on it."""

import datetime
import gc
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from isoflop.bench.shapes import Device
from isoflop.config import UserError
from isoflop.model.transformer import DTYPES

T = TypeVar("T")

PEAK_SIZES: dict[Device, tuple[int, ...]] = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
"""Sides of the square products whose best speed is the machine's limit. Chosen: larger ones were
not faster here, smaller ones do not fill a GPU."""

PEAK_REPEATS = 3
"""Products of one size, after one that is not timed."""

CONTESTANT_ERRORS = (
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a contestant's own code raises when it cannot train a shape."""


class ContestantError(Exception):
    """A contestant could not be run; says why in one line."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and with what was measured."""

    processor: str
    device: str
    threads: int
    allocator: dict[str, str]
    """glibc's settings, the same for every contestant."""
    python: str
    torch: str
    transformers: str | None
    """None: not installed."""
    date: str
    """UTC."""


def describe(device: Device, threads: int, allocator: tuple[str, ...]) -> Machine:
    """Processor, versions and date, as they are now."""
    try:
        import transformers

        version = str(transformers.__version__)
    except ModuleNotFoundError:
        version = None
    return Machine(
        processor=_processor(),
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        threads=threads,
        allocator={name: os.environ.get(name, "") for name in allocator},
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=version,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def require_device(device: str) -> None:
    """
    Raises:
        UserError: the device is not here.
    """
    if device not in ("cpu", "cuda"):
        raise UserError(f"device={device!r} must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device='cuda': PyTorch sees no CUDA device here; use --device cpu")


def matrix_peak(products: Literal["float32", "bfloat16"], device: Device) -> float:
    """FLOP/s of PyTorch's square matrix product in one precision: the best size's median."""
    dtype = DTYPES[products]
    speeds = []
    for side in PEAK_SIZES[device]:
        left, right = torch.randn(2, side, side, device=device).to(dtype)
        times = []
        for _ in range(1 + PEAK_REPEATS):
            begun = _now(device)
            torch.mm(left, right)
            times.append(_now(device) - begun)
        speeds.append(2 * side**3 / statistics.median(times[1:]))
    return max(speeds)


def _now(device: Device) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(step: Callable[[], T], device: Device) -> tuple[T, float]:
    """What `step` returns, and its seconds, all work of the device included."""
    begun = _now(device)
    result = step()
    return result, _now(device) - begun


def free_memory(device: Device) -> int | None:
    """Bytes that can be had; None: not known."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return _status(Path("/proc/meminfo"), "MemAvailable")


class PeakMemory:
    """The most memory held since this was made, above what was held then, in bytes.

    On Linux the resident set's high-water mark (VmHWM, set back at the start), with the pages of
    libraries that are first read meanwhile (4 to 12 MB of PyTorch's); on CUDA what PyTorch's
    allocator gave out.
    """

    def __init__(self, device: Device):
        self._device = device
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before: int | None = torch.cuda.memory_allocated()
            return
        try:
            # "5" sets VmHWM back to what is resident now, see proc(5).
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._before = None
            return
        self._before = _status(Path("/proc/self/status"), "VmRSS")

    def read(self) -> int | None:
        """None: this system does not tell."""
        if self._before is None:
            return None
        if self._device == "cuda":
            return torch.cuda.max_memory_allocated() - self._before
        peak = _status(Path("/proc/self/status"), "VmHWM")
        return None if peak is None else peak - self._before


def _status(path: Path, field: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def run_apart(work: Callable[..., T], *arguments: Any, device: Device, threads: int) -> T:
    """`work(*arguments)` in a process of its own, which leaves no memory behind.

    A fork: nothing is imported again. The parent never computes, because OpenMP's threads do
    not live through a fork. On CUDA, which does not either, the work is done here.

    Raises:
        ContestantError: the work raised, or its process was killed.
        UserError: as the work raised it.
    """
    if device == "cuda":
        return _answer(work, arguments, threads)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, work, arguments, threads))
    sys.stdout.flush()
    sys.stderr.flush()
    process.start()
    sender.close()
    try:
        kind, value = receiver.recv()
    except EOFError:
        process.join()
        raise ContestantError(_ended(process.exitcode or 0)) from None
    finally:
        receiver.close()
    process.join()
    if kind == "done":
        return value  # type: ignore[no-any-return]
    raise UserError(value) if kind == "user" else ContestantError(value)


def _ended(status: int) -> str:
    if status < 0:
        return f"killed by signal {-status}" + (" (out of memory?)" if status == -9 else "")
    return f"its process ended with status {status}"


def _child(sender: Connection, work: Callable[..., Any], arguments: Any, threads: int) -> None:
    try:
        sender.send(("done", _answer(work, arguments, threads)))
    except UserError as error:
        sender.send(("user", str(error)))
    except ContestantError as error:
        sender.send(("failed", str(error)))
    sender.close()


def _answer(work: Callable[..., T], arguments: Any, threads: int) -> T:
    torch.set_num_threads(threads)
    try:
        return work(*arguments)
    except UserError:
        raise
    except (MemoryError, *CONTESTANT_ERRORS) as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise ContestantError(f"{type(error).__name__}: {lines[0]}") from error
