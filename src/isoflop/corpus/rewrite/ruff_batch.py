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

FORMATTED = "formatted"
"""Begins the name of a folder whose files are formatted."""

_FAILED = re.compile(r"(?:Failed to \w+|error: .*?)\s.*?(\d{6})\.py")


@dataclass(frozen=True, kw_only=True)
class RuffOptions:
    """What ruff is asked to do."""

    select: tuple[str, ...]
    """Rules whose safe fixes are applied."""
    line_length: int
    target_version: str
    """Oldest Python that the result must run on, as ruff names it: "py311"."""
    ignore: tuple[str, ...] = ()
    """Rules of those selected that are left out."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file, and what is not to be done to it."""

    text: str
    leave: tuple[str, ...] = ()
    """Rules whose fixes are not made."""
    formatted: bool = True


def ruff_version() -> str:
    """The installed version.

    Raises:
        UserError: ruff is not installed.
    """
    if importlib.util.find_spec("ruff") is None:
        raise UserError("rewriting code by rules needs ruff; run: pip install 'isoflop[corpus]'")
    return metadata.version("ruff")


def tidy_sources(sources: list[Source], options: RuffOptions) -> list[str | None]:
    """Each source fixed and formatted; None where ruff could not."""
    if not sources:
        return []
    with tempfile.TemporaryDirectory(prefix="isoflop-ruff-") as name:
        paths = _written(Path(name), sources)
        failed = _run(Path(name), options)
        if failed is not None:
            return [None if number in failed else _read(path) for number, path in enumerate(paths)]
    if len(sources) == 1:
        return [None]
    middle = len(sources) // 2
    return tidy_sources(sources[:middle], options) + tidy_sources(sources[middle:], options)


def _written(folder: Path, sources: list[Source]) -> list[Path]:
    """The files, those that are treated alike in one folder, whose name is how."""
    paths = []
    for number, source in enumerate(sources):
        group = folder / "-".join((FORMATTED if source.formatted else "fixed", *source.leave))
        group.mkdir(exist_ok=True)
        paths.append(group / f"{number:06d}.py")
        # As bytes: line ends inside strings must stay as they are.
        paths[-1].write_bytes(source.text.encode("utf-8"))
    return paths


def _commands(folder: Path, options: RuffOptions) -> list[list[str]]:
    """Arguments of the process that fixes, and of the one that formats where there is something to format."""
    groups = sorted(folder.iterdir())
    common = ["--isolated", "--no-cache", "--target-version", options.target_version]
    common += ["--line-length", str(options.line_length)]
    fix = ["check", "--fix", "--exit-zero", "--quiet", "--output-format", "concise", *common]
    fix += ["--select", ",".join(options.select)]
    if options.ignore:
        fix += ["--ignore", ",".join(options.ignore)]
    left = [f"{group}/*:{code}" for group in groups for code in group.name.split("-")[1:]]
    if left:
        fix += ["--per-file-ignores", ",".join(left)]
    layout = ["format", "--quiet", *common, "--config", "format.line-ending='lf'"]
    formatted = [str(group) for group in groups if group.name.startswith(FORMATTED)]
    commands = [[*fix, str(folder)]]
    return [*commands, [*layout, *formatted]] if formatted else commands


def _run(folder: Path, options: RuffOptions) -> set[int] | None:
    """Numbers of the files that ruff could not read; None: it ended badly or not at all."""
    failed: set[int] = set()
    for command in _commands(folder, options):
        try:
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *command],
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


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
