"""What a worker measured of its isolation, in words."""

import dataclasses
import json

from isoflop.sandbox.config import Layer

_NAMESPACES = {
    "user namespace": "programs hold no rights of the caller's outside their own namespaces",
    "process namespace": "programs see and signal only their own processes; all end together",
    "mount namespace and private root": "only the standard library and shared libraries,"
    " read-only, and an empty scratch folder in memory",
    "network namespace": "no network, the host's own addresses included",
    "message namespace": "no shared memory or queues of others",
    "host-name namespace": "the host's name is not seen",
}
"""Layers that stand or fall together when a worker starts; the first four are required."""

_REQUIRED_NAMESPACES = 4

_MEASURED = {
    "no new privileges": "no set-user-id file gives rights",
    "capabilities dropped": "no right of the administrator, not even inside",
    "system call filter": "system calls outside a list are refused: sockets, ptrace, mounts,"
    " namespaces, executing files",
    "process limit": "a fork bomb ends at the limit",
}

_ALWAYS = {
    "resource limits": "processor time, address space, file size, open files, no core dumps",
    "descriptors and environment": "no inherited files, an empty environment",
}


def as_layers(refused: str, measured: dict[str, str]) -> list[Layer]:
    """Layers from a worker's first message: `refused`, and reasons by name, "" for "it holds"."""
    absent = refused or measured.get("namespaces", "not measured")
    rows = [
        _layer(name, why, absent, required=number < _REQUIRED_NAMESPACES)
        for number, (name, why) in enumerate(_NAMESPACES.items())
    ]
    not_measured = measured.get("measuring", absent or "not measured")
    for name, why in _MEASURED.items():
        rows.append(_layer(name, why, measured.get(name, not_measured), required=False))
    for name, why in _ALWAYS.items():
        rows.append(_layer(name, why, "" if measured else absent, required=False))
    rows.append(
        Layer(
            name="control group",
            active=False,
            reason="not used: memory is bounded by address space times processes, and moving"
            " processes between control groups would take them from whoever put them there",
            required=False,
        )
    )
    return rows


def _layer(name: str, why: str, absent: str, *, required: bool) -> Layer:
    reason = f"absent: {absent}" if absent else why
    return Layer(name=name, active=not absent, reason=reason, required=required)


def layers_to_json(layers: list[Layer]) -> str:
    """A list of objects with the fields of `Layer`."""
    return json.dumps([dataclasses.asdict(layer) for layer in layers], indent=2)


def layers_to_text(layers: list[Layer]) -> str:
    """A line for each layer, and whether programs are run at all."""
    width = max(len(layer.name) for layer in layers)
    lines = [
        f"{'active' if layer.active else 'ABSENT'}  {layer.name:<{width}}  {layer.reason}"
        for layer in layers
    ]
    runs = all(layer.active for layer in layers if layer.required)
    last = "programs are run" if runs else "programs are REFUSED: a required layer is absent"
    return "\n".join([*lines, last])
