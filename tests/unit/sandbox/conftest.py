"""A sandbox for the tests, where the machine allows one."""

from collections.abc import Iterator

import pytest

from isoflop.sandbox import Limits, Sandbox

LIMITS = Limits(
    cpu_seconds=1.0,
    wall_seconds=3.0,
    memory_bytes=256 * 2**20,
    processes=8,
    file_bytes=2**20,
    output_bytes=2**16,
)
"""Small, so that programs that use all they may end soon."""


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """One sandbox with two workers; skips where the machine refuses the namespaces."""
    with Sandbox(limits=LIMITS, workers=2) as sandbox:
        missing = [layer for layer in sandbox.layers() if layer.required and not layer.active]
        # A machine may refuse namespaces; a worker that cannot even start is our own fault.
        assert not missing or any("unshare" in one.reason for one in missing), missing
        if missing:
            pytest.skip(f"no sandbox on this machine: {missing[0].name} {missing[0].reason}")
        yield sandbox
