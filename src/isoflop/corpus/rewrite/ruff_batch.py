"""Ruff on many sources with two processes: one that fixes, one that formats.

Ruff reads one source from its standard input, so a process a file would be needed; a folder of files
is one process for all, which also uses every core. A file that makes ruff fail or hang is
found by halving the batch.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from isoflop.config import UserError

SECONDS = 120.0
"""Of real time for one batch, which takes one or two. Chosen for a machine under load."""

_FAILED = re.compile(r"(?:Failed to \w+|error: .*?)\s.*?(\d{6})\.py")


@dataclass(frozen=True, kw_only=True)
class RuffOptions:
    """What ruff is asked to do."""

    select: tuple[str, ...]
    """Rules whose safe fixes are applied."""
    line_length: int
    target_version: str
    """Oldest Python that the result must run on, as ruff names it: "py311"."""


def ruff_version() -> str:
    """The installed version.

    Raises:
        UserError: ruff is not installed.
    """
    if importlib.util.find_spec("ruff") is None:
        raise UserError("rewriting code by rules needs ruff; run: pip install 'isoflop[corpus]'")
    return metadata.version("ruff")


def tidy_sources(sources: list[str], options: RuffOptions) -> list[str | None]:
    """Each source fixed and formatted; None where ruff could not."""
    if not sources:
        return []
    with tempfile.TemporaryDirectory(prefix="isoflop-ruff-") as name:
        folder = Path(name)
        for number, source in enumerate(sources):
            # As bytes: line ends inside strings must stay as they are.
            (folder / f"{number:06d}.py").write_bytes(source.encode("utf-8"))
        failed = _run(folder, options)
        if failed is not None:
            return [
                None if number in failed else _read(folder, number)
                for number in range(len(sources))
            ]
    if len(sources) == 1:
        return [None]
    middle = len(sources) // 2
    return tidy_sources(sources[:middle], options) + tidy_sources(sources[middle:], options)


def _run(folder: Path, options: RuffOptions) -> set[int] | None:
    """Numbers of the files that ruff could not read; None: it ended badly or not at all."""
    common = ["--isolated", "--no-cache", "--target-version", options.target_version]
    check = ["check", "--fix", "--exit-zero", "--quiet", "--output-format", "concise"]
    width = ["--line-length", str(options.line_length)]
    commands = (
        [*check, *common, *width, "--select", ",".join(options.select)],
        ["format", "--quiet", *common, *width, "--config", "format.line-ending='lf'"],
    )
    failed: set[int] = set()
    for command in commands:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *command, str(folder)],
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
        errors = done.stderr.decode("utf-8", "replace")
        named = {int(number) for number in _FAILED.findall(errors)}
        if done.returncode and not named:
            return None
        failed |= named
    return failed


def _read(folder: Path, number: int) -> str | None:
    try:
        return (folder / f"{number:06d}.py").read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
