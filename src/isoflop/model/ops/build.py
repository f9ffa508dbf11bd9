"""Compile the C sources for this processor on first use, and load it.

    <cache>/isoflop/<digest>/float32.so, bfloat16.so    digest of source, flags, compiler, processor

A few seconds of compiling once a machine; plain C through ctypes rather than PyTorch's C++
extensions, which take most of a minute and need headers of the same version.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from isoflop.config import UserError
from isoflop.records import flush_to_disk

_HERE = Path(__file__).parent

SOURCES = tuple(
    _HERE / f"{name}.c"
    for name in (
        "kernels",
        "loss",
        "products",
        "products_float32",
        "experts_float32",
        "attention",
        "attention_float32",
        "decode",
    )
)

HEADERS = tuple(_HERE / name for name in ("number.h", "tile.h", "octet.h", "panels.h"))

FLAGS = (
    "-std=c11",
    "-O3",
    # Compilers for ARM know "native" by the other name.
    "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",
    # Allow vector forms of sqrt and of comparisons; NaN and infinity keep their meaning.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    # Fused multiply-add in sums of products: twice as fast, one rounding fewer.
    "-ffp-contract=fast",
    # Packed numbers are read two at a time through wider pointers.
    "-fno-strict-aliasing",
    "-shared",
    "-fPIC",
)

COMPILERS = ("cc", "gcc", "clang")

NUMBERS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

COMPILE_SECONDS = 120
"""A compiler that takes longer is given up. Chosen."""


def native_available() -> bool:
    """Whether the kernels can be compiled, or have been."""
    return _libraries()[0] is not None


def require_native() -> None:
    """
    Raises:
        UserError: the kernels cannot be compiled; says why.
    """
    libraries, reason = _libraries()
    if libraries is None:
        raise UserError(f"ops='native': {reason}; use ops='torch'")


def library(dtype: torch.dtype) -> ctypes.CDLL:
    """The kernels for values stored as `dtype`."""
    libraries, reason = _libraries()
    assert libraries is not None, reason
    return libraries[dtype]


def room(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Memory for a kernel, whatever PyTorch's default type and device are."""
    return torch.empty(*shape, dtype=dtype, device="cpu")


def call(dtype: torch.dtype, name: str, *arguments: torch.Tensor | float | int | None) -> None:
    """Call a kernel: tensors go as pointers, whole numbers as int64, others as float, None as null.

    Raises:
        TypeError: a tensor that is not on the CPU or has strides, of which kernels know nothing.
    """
    getattr(library(dtype), name)(*_converted(name, arguments))


def prepare(
    dtype: torch.dtype, name: str, *arguments: torch.Tensor | float | int | None
) -> Callable[[], None]:
    """The same call, to be made again and again on the same memory. Raises as `call`."""
    function, converted = getattr(library(dtype), name), _converted(name, arguments)

    def again(*_kept: object) -> None:
        function(*converted)

    # Bound to the call: the tensors' memory must live as long as it.
    return functools.partial(again, arguments)


def _converted(name: str, arguments: Sequence[torch.Tensor | float | int | None]) -> list[Any]:
    converted: list[Any] = []
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            if argument.device.type != "cpu" or not argument.is_contiguous():
                raise TypeError(f"{name}: a tensor must be contiguous and on the CPU")
            converted.append(ctypes.c_void_p(argument.data_ptr()))
        elif isinstance(argument, int):
            converted.append(ctypes.c_int64(argument))
        elif isinstance(argument, float):
            converted.append(ctypes.c_float(argument))
        elif argument is None:
            converted.append(ctypes.c_void_p(None))
        else:
            raise TypeError(f"{name}: {argument!r} is no tensor, number or None")
    return converted


def kernels_digest() -> str | None:
    """Names source, flags, compiler and processor of the kernels; None: there are none."""
    compiler = _compiler()
    return _digest(compiler) if compiler is not None and native_available() else None


@functools.cache
def _libraries() -> tuple[dict[torch.dtype, ctypes.CDLL] | None, str]:
    """The kernels of both kinds, or why there are none."""
    compiler = _compiler()
    if compiler is None:
        return None, f"no C compiler ({', '.join(COMPILERS)}, or the environment's CC) was found"
    try:
        folder = _folder(_digest(compiler))
        if folder is not None:
            return {kind: _load(compiler, folder, name) for kind, name in NUMBERS.items()}, ""
        # A loaded library stays in memory without its file.
        with tempfile.TemporaryDirectory(prefix="isoflop-") as text:
            own = Path(text)
            return {kind: _load(compiler, own, name) for kind, name in NUMBERS.items()}, ""
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        return None, f"{compiler} cannot compile: {lines[0]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{compiler}: {error}"


def _compiler() -> str | None:
    for name in (os.environ.get("CC"), *COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


def _digest(compiler: str) -> str:
    """Another source, compiler or processor has another."""
    version = _run([compiler, "--version"])
    sources = (source.read_text(encoding="utf-8") for source in (*SOURCES, *HEADERS))
    parts = (*sources, *FLAGS, compiler, version, _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
        timeout=COMPILE_SECONDS,
    )
    return done.stdout


def _folder(digest: str) -> Path | None:
    """Where the kernels are kept; None where that is not safe or not possible.

    A home that cannot be written to is common on clusters; a folder that others may write to
    would have us run what they put there.
    """
    try:
        # The XDG standard has relative paths ignored.
        given = Path(os.environ.get("XDG_CACHE_HOME") or "")
        root = given if given.is_absolute() else Path.home() / ".cache"
        folder = root / "isoflop" / digest
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not all(_is_ours(place) for place in (folder.parent, folder)):
            return None
        if not all((folder / f"{name}.so").exists() for name in NUMBERS.values()):
            with tempfile.TemporaryFile(dir=folder):
                pass
        return folder
    except (OSError, RuntimeError):  # RuntimeError: a user without a home.
        return None


def _is_ours(path: Path) -> bool:
    status = path.stat()
    return status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022


def _processor() -> str:
    """Kind and features, so that a shared home does not hand code to a processor that lacks them."""
    description = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "\0".join(description)
    kinds = ("model name", "flags", "Features")
    return "\0".join([*description, *sorted({line for line in lines if line.startswith(kinds)})])


def _load(compiler: str, folder: Path, name: str) -> ctypes.CDLL:
    path = folder / f"{name}.so"
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        # Not there yet, or cut short by a power failure.
        _compile(compiler, path)
        return ctypes.CDLL(str(path))


def _compile(compiler: str, path: Path) -> None:
    # Several workers may compile at once: each its own file, the last rename wins.
    with tempfile.TemporaryDirectory(dir=path.parent) as text:
        part = Path(text) / path.name
        define = f"-DCOMPUTE_BFLOAT16={int(path.stem == 'bfloat16')}"
        _run([compiler, *FLAGS, define, *map(str, SOURCES), "-o", str(part), "-lm"])
        flush_to_disk(part)
        part.replace(path)
