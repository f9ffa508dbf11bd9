"""`isoflop corpus filter` as one call: any corpus in, measured rows out, kept and rejected."""

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from itertools import islice
from pathlib import Path

from isoflop.corpus.filters.config import PYLINT_DISABLED, FilterConfig
from isoflop.corpus.filters.decide import decide
from isoflop.corpus.filters.measure import MeasureJob
from isoflop.corpus.intake import CorpusInput, input_digest, input_kind, open_input
from isoflop.corpus.pool import Changes, Pool
from isoflop.corpus.rows import TextRow
from isoflop.corpus.shards import Counts, OutputConfig, Stage, read_manifest, write_stage

STAGE = "filter"


def filter_corpus(
    source: CorpusInput,
    folder: Path,
    config: FilterConfig | None = None,
    *,
    output: OutputConfig | None = None,
    num_workers: int | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Counts:
    """Measure every text and keep those that pass; goes on where a killed run stopped.

    What an earlier pass measured with pylint is taken from the rows, so that thresholds can be tried
    at little cost: filter once with `config.measuring_only`, then filter its folder.

    Args:
        num_workers: processes that measure; None: one a usable core.
        tell: hears how many texts are done, after each.

    Raises:
        UserError: the input, the folder or an extra is not there or not usable.
    """
    config = config or FilterConfig()
    stage = Stage(
        name=STAGE,
        config=config,
        input_digest=input_digest(source),
        output=output or OutputConfig(),
        tools=measuring_tools(config),
    )
    kept_measures = _has_same_measures(source, config)

    def rows_from(done: int) -> Iterator[TextRow]:
        rows: Iterator[TextRow] = islice(open_input(source), done, None)
        if not kept_measures:
            rows = map(_unmeasured, rows)
        with Pool(MeasureJob(config=config), num_workers or usable_cores(), config.limits) as pool:
            for row, changes in pool.run(rows):
                yield decide(measured(row, changes), config)

    return write_stage(folder, stage, rows_from, tell)


def measured(row: TextRow, changes: Changes) -> TextRow:
    """The row with its measures; pylint's problem is the row's where pylint cost too much."""
    row = replace(row, **changes)
    if row.rejected_by == "lint" and row.lint_score is None:
        return replace(row, lint_problem=row.lint_problem or row.reason)
    return row


def measuring_tools(config: FilterConfig) -> dict[str, str]:
    """Versions on which the measures depend."""
    names = ("pylint", "astroid") if config.lint.measure == "pylint" else ()
    tools = {"python": platform.python_version()}
    for name in names:
        try:
            tools[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # The workers say how to install it.
    return tools


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Not on macOS, where a process cannot be bound to cores.
        return os.cpu_count() or 1


def _has_same_measures(source: CorpusInput, config: FilterConfig) -> bool:
    """Whether the input's rows hold pylint scores as this config would measure them."""
    if input_kind(source) != "rows":
        return False
    manifest = read_manifest(Path(source.path).expanduser())
    if manifest.get("stage") == "rewrite":
        # Measured again with the defaults, or without scores: those of its input are of other texts.
        defaults = config.lint.disabled == PYLINT_DISABLED
        return defaults and manifest["config"].get("lint") == measuring_tools(config)
    if manifest.get("stage") != STAGE:
        return True  # It hands on what a filter measured.
    lint = manifest["config"]["lint"]
    same_messages = tuple(lint["disabled"]) == config.lint.disabled
    return same_messages and manifest["tools"] == measuring_tools(config)


def _unmeasured(row: TextRow) -> TextRow:
    """The row without what pylint found."""
    return replace(row, pylint_score=None, lint_problem=None, lint_score=None)
