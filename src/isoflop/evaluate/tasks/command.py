"""`isoflop eval`: a task asked of a checkpoint's folder, and its score in words."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from isoflop.evaluate.config import EvaluateConfig
from isoflop.evaluate.sampling.ours import OurGenerator
from isoflop.evaluate.tasks.ask import BATCH_SEQUENCES, Examinee
from isoflop.evaluate.tasks.problem import LoadedTask
from isoflop.evaluate.tasks.results import TaskScoreRow
from isoflop.evaluate.tasks.run import run_task
from isoflop.model.checkpoint import load_checkpoint
from isoflop.sandbox import Sandbox
from isoflop.terminal import show_count
from isoflop.tokens.tokenizer import Tokenizer


def evaluate_checkpoint_on(
    checkpoint: Path,
    tokenizer: Tokenizer,
    loaded: LoadedTask,
    *,
    loss_only: bool = False,
    max_new_tokens: int | None = None,
    out: Path | None = None,
    device: str = "cpu",
) -> tuple[TaskScoreRow, Path | None]:
    """The score, and the folder where the rows lie (None without `out`).

    Raises:
        UserError: no checkpoint there, another tokenizer than the model's, or see `ask`.
    """
    model = load_checkpoint(checkpoint, device=device)
    sampling = loaded.task.sampling
    if max_new_tokens is not None:
        sampling = replace(sampling, max_new_tokens=max_new_tokens)
    generator = OurGenerator(model, tokenizer, batch_sequences=BATCH_SEQUENCES)
    with ExitStack() as stack:
        runs_code = loaded.task.scorer in ("program", "output") and not loss_only
        examinee = Examinee(
            model=model,
            tokenizer=tokenizer,
            generator=None if loss_only else generator,
            sandbox=stack.enter_context(Sandbox()) if runs_code else None,
            context_start=EvaluateConfig().context_start,
            batch_items=EvaluateConfig().batch_items,
        )
        return run_task(
            examinee,
            loaded,
            sampling,
            checkpoint=checkpoint,
            out=out,
            progress=partial(show_count, unit="problems"),
            device=device,
        )


def score_to_text(score: TaskScoreRow, loaded: LoadedTask, folder: Path | None) -> str:
    """The score as lines for people."""
    lines = [
        f"{score.task} version {score.version}, {score.style}, {score.num_shots} shots",
        f"{score.num_items} problems of {loaded.data}: {score.num_scored + score.num_not_finite} asked, "
        f"{score.num_cut_shots} of them with fewer shots; {score.num_refused} too long for the "
        f"context; {score.num_set_aside} rows set aside{_reasons(loaded)}",
    ]
    if score.num_not_finite:
        lines.append(
            f"not finite                  {score.num_not_finite} problems have logits that are not "
            "finite: ungradable, in no mean"
        )
    if score.num_not_parted:
        lines.append(
            f"not parted                  {score.num_not_parted} problems have no task loss: a token "
            "without bytes spans prompt and answer"
        )
    for name in ("accuracy", "accuracy_flexible", "accuracy_per_character", "accuracy_per_byte"):
        lines += _figure(score, name, percent=True)
    if score.num_ungradable is not None:
        flexible = score.num_ungradable_flexible
        more = "" if flexible is None else f" ({flexible} with the flexible extraction)"
        lines.append(f"ungradable                  {score.num_ungradable}{more}")
    for name in ("bits_per_byte", "bits_per_token"):
        lines += _figure(score, name, percent=False)
    lines.append(
        f"join of prompt and answer   a token spans it in {score.num_joined} problems; the "
        f"reference's cut is off in {score.num_miscut}"
    )
    if score.num_miscut and score.reference_bits_per_byte is not None:
        lines.append(
            f"  as the reference cuts     {score.reference_bits_per_byte:.4f} bits per byte; up to "
            f"{score.largest_reference_difference:.2f} bits of one answer"
        )
    return "\n".join([*lines, *([] if folder is None else [str(folder)])])


def _figure(score: TaskScoreRow, name: str, *, percent: bool) -> list[str]:
    """One figure with its standard error, or nothing where it was not measured."""
    value, error = getattr(score, name), getattr(score, f"{name}_standard_error")
    if value is None:
        return []
    scale, places, unit = (100, 2, "%") if percent else (1, 4, "")
    spread = "" if error is None else f" +- {error * scale:.{places}f}"
    return [f"{name.replace('_', ' '):27} {value * scale:.{places}f}{spread}{unit}"]


def _reasons(loaded: LoadedTask) -> str:
    counts = loaded.set_aside_counts
    return f" ({', '.join(f'{n} {reason}' for reason, n in counts.items())})" if counts else ""
