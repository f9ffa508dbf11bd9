"""One task on one checkpoint, in a folder that a kill cannot spoil.

    <out>/eval/<task>-<style>-<shots>shot-<digest>/
        config.json, env.json
        parts/items-<number>.jsonl   finished problems, PART_ITEMS a file
        items.jsonl                  a row for each problem
        joins.jsonl                  those of its rows that the reference cuts elsewhere
        set_aside.jsonl              rows of the data that could not be asked
        score.jsonl                  one row
        DONE

Run again, the files hold the same bytes as without the kill: the digest covers the checkpoint, the
problems and the decoding, and what shares a batch does not depend on where the run was stopped.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from isoflop.evaluate.config import ContextStart
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.tasks.ask import Examinee, ask
from isoflop.evaluate.tasks.problem import LoadedTask
from isoflop.evaluate.tasks.results import TaskItemRow, TaskScoreRow
from isoflop.evaluate.tasks.summary import join_audit, summarise
from isoflop.folders import file_digest, stage_folder, working_in
from isoflop.records import read_rows, write_rows

PART_ITEMS = 128
"""Problems between two moments at which work is kept. Chosen."""


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """Everything that a score depends on."""

    task: str
    version: int
    style: str
    num_shots: int
    data_digest: str
    checkpoint: str
    """Digest of the weights."""
    tokenizer: str
    """Digest of the tokenizer's file."""
    sampling: Sampling | None
    """None: only losses."""
    context_start: ContextStart
    batch_items: int


def run_task(
    examinee: Examinee,
    loaded: LoadedTask,
    sampling: Sampling,
    *,
    checkpoint: Path,
    out: Path | None,
    progress: Callable[[int, int], None],
    device: str = "cpu",
) -> tuple[TaskScoreRow, Path | None]:
    """The score, and the folder where the rows lie; nothing is written without `out`.

    `progress` is called with (problems asked, problems).

    Raises:
        UserError: another process works in the folder, or see `ask`.
    """
    if out is None:
        rows = [row for part in _parts(examinee, loaded, sampling, None, progress) for row in part]
        return summarise(loaded, rows), None
    config = TaskRun(
        task=loaded.task.name,
        version=loaded.task.version,
        style=loaded.style,
        num_shots=loaded.num_shots,
        data_digest=loaded.data_digest,
        checkpoint=file_digest(checkpoint / "model.safetensors"),
        tokenizer=file_digest(examinee.tokenizer.path),
        sampling=sampling if examinee.generator is not None else None,
        context_start=examinee.context_start,
        batch_items=examinee.batch_items,
    )
    name = f"{loaded.task.name}-{loaded.style}-{loaded.num_shots}shot"
    folder = stage_folder(out, "eval", name, config)
    if folder.done:
        return next(read_rows(folder.path / "score.jsonl", TaskScoreRow)), folder.path
    with working_in(folder, device=device) as path:
        parts = _parts(examinee, loaded, sampling, path / "parts", progress)
        rows = [row for part in parts for row in part]
        score = summarise(loaded, rows)
        write_rows(path / "items.jsonl", rows)
        write_rows(path / "joins.jsonl", join_audit(rows))
        write_rows(path / "set_aside.jsonl", loaded.set_aside)
        write_rows(path / "score.jsonl", [score])
        folder.finish()
        shutil.rmtree(path / "parts", ignore_errors=True)
    return score, folder.path


def _parts(
    examinee: Examinee,
    loaded: LoadedTask,
    sampling: Sampling,
    folder: Path | None,
    progress: Callable[[int, int], None],
) -> Iterator[list[TaskItemRow]]:
    """Rows of PART_ITEMS problems at a time; those that a part holds already are read."""
    problems = loaded.problems
    for begin in range(0, len(problems), PART_ITEMS):
        progress(begin, len(problems))
        path = None if folder is None else folder / f"items-{begin:08d}.jsonl"
        if path is not None and path.exists():
            yield list(read_rows(path, TaskItemRow))
            continue
        rows = ask(examinee, loaded.task, problems[begin : begin + PART_ITEMS], sampling)
        if path is not None:
            write_rows(path, rows)
        yield rows
    progress(len(problems), len(problems))
