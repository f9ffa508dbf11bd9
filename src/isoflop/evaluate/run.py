"""Every kept checkpoint of a training run scored, one at a time, resumable.

    <train folder>/checkpoints/step-<8 digits>/   read
    <out>/parts/{answers,scores}-<8 digits>.jsonl one pair a checkpoint; scores last
    <out>/benchmarks/step-<8 digits>/eval/        a folder for each benchmark, see tasks.run
    <out>/samples/, <out>/sampled.jsonl           of the last checkpoint, see evaluate.sampled
    <out>/answers.jsonl, <out>/scores.jsonl       all of them, in the order of steps; scores last

A kill loses the checkpoint at work and nothing else; run again, the files hold
the same bytes as without the kill. `out` belongs to one config and one set of
inputs: the caller names it by their digest.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from isoflop.config import UserError
from isoflop.evaluate.benchmarks import Place, ask_benchmarks, load_benchmarks
from isoflop.evaluate.config import EvaluateConfig
from isoflop.evaluate.sampled import draw_all_samples
from isoflop.evaluate.score import evaluate_checkpoint
from isoflop.model.checkpoint import CHECKPOINTS, STEP_PREFIX, load_checkpoint
from isoflop.records import AnswerRow, EvaluationItem, ScoreRow, read_rows, write_rows
from isoflop.tokens.tokenizer import Tokenizer


def evaluate_run(
    train_folder: Path,
    tokenizer: Tokenizer,
    items: Sequence[Path],
    config: EvaluateConfig,
    out: Path,
    *,
    batch_tokens: int,
    tokens_before: int = 0,
    progress: Callable[[int, int], None],
    compute_dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> None:
    """Score every checkpoint of a finished training run; does nothing where it already has.

    Args:
        tokenizer: the one the run was trained with.
        items: files of EvaluationItem rows; all are asked, in this order.
        config: the last checkpoint is asked `max_items`, the others `max_items_between`.
        out: folder for answers.jsonl and scores.jsonl.
        batch_tokens: pre-training tokens of one step; 0 for steps of GRPO.
        tokens_before: pre-training tokens before the first step.
        progress: called with (checkpoints scored, checkpoints) at the start and after each.

    Raises:
        UserError: no checkpoints, or a file missing or broken; the checkpoint is named.
    """
    checkpoints = find_checkpoints(train_folder)
    if (out / "scores.jsonl").exists():
        shutil.rmtree(out / "parts", ignore_errors=True)
        progress(len(checkpoints), len(checkpoints))
        return
    asked, benchmarks = read_items(items), load_benchmarks(config)
    for done, (step, folder) in enumerate(checkpoints.items()):
        progress(done, len(checkpoints))
        if _part(out, "scores", step).exists():
            continue
        model = load_checkpoint(folder, compute_dtype=compute_dtype, device=device)
        last = step == max(checkpoints)
        place = {"step": step, "tokens": tokens_before + step * batch_tokens}
        limit = config.max_items if last else config.max_items_between
        try:
            scores, answers = evaluate_checkpoint(
                model, tokenizer, asked, config, **place, max_items=limit
            )
            where = Place(checkpoint=folder, out=out, device=device, **place)
            scores += ask_benchmarks(benchmarks, model, tokenizer, config, where, last=last)
            if last:
                draw_all_samples(model, tokenizer, items, config, where)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
        write_rows(_part(out, "answers", step), answers)
        write_rows(_part(out, "scores", step), scores)
    _join_all(out, list(checkpoints))
    progress(len(checkpoints), len(checkpoints))


def find_checkpoints(train_folder: Path) -> dict[int, Path]:
    """The kept checkpoints by step, rising.

    Raises:
        UserError: there are none, or a name is not step-<number>.
    """
    folder = train_folder / CHECKPOINTS
    paths = sorted(folder.glob(f"{STEP_PREFIX}*"))
    if not paths:
        raise UserError(f"{folder}: no checkpoints ({STEP_PREFIX}00000001 and so on); train first")
    found = {}
    for path in paths:
        digits = path.name.removeprefix(STEP_PREFIX)
        if not (digits.isascii() and digits.isdigit()):
            raise UserError(f"{path}: the name must be {STEP_PREFIX} and a number; move it away")
        found[int(digits)] = path
    return dict(sorted(found.items()))


def read_items(files: Sequence[Path]) -> list[EvaluationItem]:
    """The items of all files in order.

    Raises:
        UserError: a file is missing or broken, or two items have one name.
    """
    items = [item for file in files for item in read_rows(file, EvaluationItem)]
    seen: set[tuple[str, str, str]] = set()
    for item in items:
        name = item.task, item.split, item.id
        if name in seen:
            raise UserError(
                f"{', '.join(map(str, files))}: item {item.id!r} of task {item.task!r}, split "
                f"{item.split!r}, stands there twice; ids must differ"
            )
        seen.add(name)
    return items


def _part(out: Path, name: str, step: int) -> Path:
    return out / "parts" / f"{name}-{step:08d}.jsonl"


def _join_all(out: Path, steps: list[int]) -> None:
    """Make one file of each kind of part, the scores last."""
    for name, kind in (("answers", AnswerRow), ("scores", ScoreRow)):
        _join(out, name, kind, steps)
    shutil.rmtree(out / "parts")


def _join(out: Path, name: str, kind: type[Any], steps: list[int]) -> None:
    """Put the parts of all steps into one file."""
    rows = (row for step in steps for row in read_rows(_part(out, name, step), kind))
    write_rows(out / f"{name}.jsonl", rows)
