"""Keeping freed memory in the process.

glibc gives large blocks back to the system at once; a small model's step then spends its time on page
faults. Keeping them: 42,100 instead of 34,000 tokens/s (d32, 2 layers, one core).
"""

import ctypes

_BLOCKS = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
"""In bytes."""

KEEP_MEMORY = {**_BLOCKS, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""In the environment of a process that is yet to start. The last asks for pages of 2 MiB where the
system gives them on request: a step spends 4 to 25% less time (docs/log.md, 2026-11-26)."""

_OPTIONS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3}
"""Their numbers for mallopt(3)."""


def keep_freed_memory() -> bool:
    """The same for this process; whether its C library knows how."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(_OPTIONS[name], int(size)) == 1 for name, size in _BLOCKS.items())
