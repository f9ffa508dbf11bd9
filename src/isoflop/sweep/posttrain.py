"""The study's GRPO: every run's last checkpoint, post-trained with each setting and evaluated again."""

from collections.abc import Callable
from pathlib import Path

from isoflop.config import UserError
from isoflop.sweep.stages import (
    WorkerProgress,
    device_name,
    evaluate_stage,
    item_files,
    load_tokenizer,
)
from isoflop.sweep.study import PlannedGrpo, PlannedRun, StudyMap


def post_train(study: StudyMap, root: Path, run: PlannedRun, progress: WorkerProgress) -> None:
    """Post-train the run's last checkpoint with every setting; what is finished stays as it is.

    Raises:
        UserError: after all others are done, for those that failed; each is named with its reason.
    """
    settings = study.experiment.grpo
    total = sum(one.num_steps for one in settings)
    failed = []
    for planned in run.grpo:
        before = sum(one.num_steps for one in settings[: planned.number])

        def tell(done: int, before: int = before) -> None:
            progress("grpo", before + done, total, None)

        tell(0)
        try:
            _post_train(study, root, run, planned, tell)
        except (UserError, OSError) as error:
            failed.append(f"grpo on {planned.train.name}: {error}")
    if failed:
        raise UserError("; ".join(failed))


def _post_train(
    study: StudyMap, root: Path, run: PlannedRun, planned: PlannedGrpo, tell: Callable[[int], None]
) -> None:
    """One setting, and its scores."""
    # torch is imported here: only workers need it, and it takes seconds.
    import torch

    from isoflop.model.checkpoint import checkpoint_folder
    from isoflop.posttrain.run import run_grpo_in

    train = study.experiment.train
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run_grpo_in(
        study.folder(root, planned.train),
        checkpoint_folder(root / run.train.path),
        load_tokenizer(study, root),
        study.experiment.grpo[planned.number],
        own=item_files(study, root),
        progress=lambda done, _total, _reward: tell(done),
        device=device,
        device_name=device_name(device),
    )
    evaluate_stage(
        study,
        root,
        planned.train,
        planned.evaluate,
        batch_tokens=0,
        tokens_before=train.num_steps * train.batch_tokens,
        progress=lambda _done, _total: None,
    )
