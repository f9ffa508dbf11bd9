"""Run folders: a stage's results under a name made of its config and its inputs.

    runs/<experiment>/<stage>/<name>-<digest>/
        config.json   what was asked
        env.json      with what it was done: versions, device, commit; a list, see working_in
        ...           rows and artefacts
        DONE          written last; a folder without it is unfinished

A finished folder is never written again, so that a stage run twice does nothing
the second time. One process at a time works in a folder: it holds a lock that
the kernel drops when the process dies.
"""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from isoflop.config import UserError, digest, to_text
from isoflop.records import read_json, write_text

LOCK_PATIENCE_SECONDS = 15.0
"""How long to wait for a folder's lock: a killed parent's child needs a moment to end. Chosen."""

VERSIONED_PACKAGES = ("isoflop", "torch", "tokenizers", "safetensors", "numpy", "scipy")
"""Packages whose version can change a result."""


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage run; `digest` covers the config and the inputs' digests."""

    path: Path
    config: Any
    digest: str

    @property
    def done(self) -> bool:
        """Whether the stage finished here."""
        return (self.path / "DONE").exists()

    def finish(self) -> None:
        """Mark the folder as complete. Call last."""
        write_text(self.path / "DONE", self.digest + "\n")


def stage_folder(
    experiment: Path, stage: str, name: str, config: Any, inputs: tuple[str, ...] = ()
) -> StageFolder:
    """Name, without making it, the folder of `stage` under `config` and `inputs`."""
    code = digest(config, stage, *inputs)
    return StageFolder(experiment / stage / f"{name}-{code}", config, code)


@contextmanager
def working_in(folder: StageFolder, *, device: str = "cpu") -> Iterator[Path]:
    """Hold the folder's lock and leave config and environment in it; yields its path.

    An environment that differs from the one the folder was begun in is added to
    it: a run resumed under other versions can be told.

    Raises:
        UserError: another living process works in the folder.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.path):
        write_text(folder.path / "config.json", to_text(folder.config))
        path = folder.path / "env.json"
        known = read_environments(path) if path.exists() else []
        now = environment(device)
        if now not in known:
            write_text(path, json.dumps([*known, now], indent=2) + "\n")
        yield folder.path


def read_environments(path: Path) -> list[dict[str, Any]]:
    """The environments that worked in a folder, the first first."""
    known = read_json(path, missing="run the stage again", remedy="delete it and run again")
    return known if isinstance(known, list) else [known]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of a folder; a dead holder's lock is free at once."""
    with (path / ".lock").open("w") as lock:
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{path}: another process works in this folder; wait for it or stop it"
                    ) from None
                time.sleep(0.1)
        yield


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, machine and commit: what may change a result besides the config."""
    versions: dict[str, str | None] = {}
    for package in VERSIONED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "packages": versions,
        "machine": platform.machine(),
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "device": device,
        "system": platform.platform(),
        "commit": _commit(),
    }


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _processor() -> str | None:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None


def _commit() -> str | None:
    """The commit of the checkout this package runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
