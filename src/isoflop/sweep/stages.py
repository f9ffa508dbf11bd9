"""The stages of a study in their order, each from finished folders to one more.

Preparing (documents, tokenizer, shards) needs no torch and runs in the calling
process; training and evaluation run in a worker, which alone imports torch.
"""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from isoflop.config import UserError
from isoflop.corpus.build import SET_ASIDE, build_source
from isoflop.corpus.config import max_epochs
from isoflop.design.layout import Layout
from isoflop.folders import working_in
from isoflop.records import SetAside, read_rows
from isoflop.sweep.study import PlannedRun, PlannedStage, StudyMap
from isoflop.tokens.batches import Mixture
from isoflop.tokens.build import sample_texts, tokenize_source
from isoflop.tokens.shards import Shard
from isoflop.tokens.tokenizer import Tokenizer, train_tokenizer

Say = Callable[[str], None]
"""Called with one line for the user."""

WorkerProgress = Callable[[str, int, int, float | None], None]
"""Called with the stage, units done, units in all, and tokens per second where they apply."""


def prepare(study: StudyMap, root: Path, say: Say) -> None:
    """Make documents, tokenizer and shards; what is finished stays as it is.

    Raises:
        UserError: an unusable source, or a run that would repeat a source too often.
    """
    experiment = study.experiment
    for stage, source in zip(study.corpora, experiment.corpus.sources, strict=True):
        folder = study.folder(root, stage)
        if folder.done:
            continue
        with working_in(folder) as path:
            row = build_source(source, experiment.corpus.seed, path)
            folder.finish()
        set_aside = _set_aside_text(folder.path) if row.num_set_aside else ""
        say(
            f"corpus {source.name}: {row.num_documents:,} documents, {row.num_bytes:,} bytes{set_aside}"
        )
    _prepare_tokenizer(study, root, say)
    for corpus, stage in zip(study.corpora, study.tokens, strict=True):
        folder = study.folder(root, stage)
        if folder.done:
            continue
        with working_in(folder) as path:
            tokens = tokenize_source(
                load_tokenizer(study, root), stage.name, root / corpus.path, path
            )
            folder.finish()
        say(f"tokens {stage.name}: {tokens.train_tokens:,} to train on")
    _check_epochs(study, root, say)
    _check_own_questions(study, root)


def _check_own_questions(study: StudyMap, root: Path) -> None:
    """Tell before any training that GRPO has no questions of the study's own to ask."""
    asking = item_files(study, root)
    for grpo in study.experiment.grpo:
        for problems in (grpo.train, *grpo.validation):
            wanted = [problems.source] if problems.source else list(asking)
            if problems.is_own and not any(source in asking for source in wanted):
                raise UserError(
                    f"grpo on {problems.label}: no source of the corpus asks such questions; those "
                    f"that ask some are {', '.join(asking) or 'none'}"
                )


def _set_aside_text(folder: Path) -> str:
    """How many inputs could not be used, by reason, and where they are listed."""
    path = folder / SET_ASIDE
    reasons = Counter(row.reason for row in read_rows(path, SetAside))
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f", {reasons.total()} set aside ({counts}; see {path})"


def _prepare_tokenizer(study: StudyMap, root: Path, say: Say) -> None:
    folder = study.folder(root, study.tokenizer)
    if folder.done:
        return
    config = study.experiment.tokenizer
    with working_in(folder) as path:
        if config.path is None:
            folders = [root / stage.path for stage in study.corpora]
            texts = sample_texts(folders, study.experiment.corpus.shares, config.training_bytes)
            train_tokenizer(config, texts, path / "tokenizer.json")
        else:
            (path / "tokenizer.json").write_bytes(Path(config.path).read_bytes())
            load_tokenizer(study, root)
        folder.finish()
    say(f"tokenizer: {load_tokenizer(study, root).vocabulary_size} tokens")


def load_tokenizer(study: StudyMap, root: Path) -> Tokenizer:
    """The study's tokenizer."""
    return Tokenizer.load(
        root / study.tokenizer.path / "tokenizer.json", study.experiment.tokenizer
    )


def load_mixture(study: StudyMap, root: Path, seed: int) -> Mixture:
    """The study's batches in the order of `seed`."""
    train = study.experiment.train
    return Mixture(
        shards={stage.name: Shard(root / stage.path / "train") for stage in study.tokens},
        shares=study.experiment.corpus.shares,
        seed=seed,
        batch_sequences=train.batch_sequences,
        sequence_length=train.sequence_length,
    )


def _check_epochs(study: StudyMap, root: Path, say: Say) -> None:
    """Tell how often each source is read; refuse more than its limit."""
    experiment = study.experiment
    mixture = load_mixture(study, root, experiment.seeds[0])
    for row in mixture.usage(experiment.train.num_steps):
        say(
            f"mixture {row.source}: {row.share:.1%} of the training tokens, "
            f"{row.epochs:.2f} epochs of {row.unique_tokens:,} tokens"
        )
    limits = {source.name: max_epochs(source) for source in experiment.corpus.sources}
    mixture.check_epochs(experiment.train.num_steps, limits)


def item_files(study: StudyMap, root: Path) -> dict[str, Path]:
    """The files of questions of all sources that ask some, by source, in the sources' order."""
    files = {stage.name: root / stage.path / "items.jsonl" for stage in study.corpora}
    return {name: file for name, file in files.items() if file.exists()}


def train_and_evaluate(
    study: StudyMap,
    root: Path,
    run: PlannedRun,
    progress: WorkerProgress,
    layout: Layout | None = None,
) -> None:
    """Train one cell and score its checkpoints; what is finished stays as it is.

    Args:
        layout: this process is one of its ranks, told by the environment which; None: the only one.
    """
    # torch is imported here: only workers need it, and it takes seconds.
    import torch

    from isoflop.train.state import forget_state

    train = study.experiment.train
    rank = int(os.environ.get("RANK", "0")) if layout else 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and layout:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    folder = study.folder(root, run.train)
    if not folder.done:
        name = device_name(device) + (f", {layout.text()}" if layout else "")
        # One process of the run holds the lock.
        with working_in(folder, device=name) if rank == 0 else nullcontext(folder.path) as path:
            _train(study, root, run, path, progress, layout, device)
            if rank == 0:
                folder.finish()
    if rank == 0:
        forget_state(folder.path)
        evaluate_stage(
            study,
            root,
            run.train,
            run.evaluate,
            batch_tokens=train.batch_tokens,
            tokens_before=0,
            device=device,
            progress=lambda done, total: progress("evaluate", done, total, None),
        )


def _train(
    study: StudyMap,
    root: Path,
    run: PlannedRun,
    path: Path,
    progress: WorkerProgress,
    layout: Layout | None,
    device: str,
) -> None:
    """Train the run in this process, or as one of its ranks, of which the first tells progress."""
    import torch

    from isoflop.train.loop import TrainingRun, ValidationSet, train_run

    train = study.experiment.train
    validation = {
        (stage.name, split): ValidationSet.of(Shard(root / stage.path / split), train)
        for stage in study.tokens
        for split in ("train", "validation")
    }
    training = TrainingRun(
        model=study.cell(run.cell).model,
        train=train,
        mixture=load_mixture(study, root, run.seed),
        validation=validation,
        seed=run.seed,
        digest=run.train.digest,
        device=device,
    )
    if layout is None:
        train_run(training, path, lambda *done: progress("train", *done))
        return
    from isoflop.train.parallel.compute import ManyProcesses
    from isoflop.train.parallel.mesh import joined

    with joined(layout, torch.device(device)) as ranks:
        computation = ManyProcesses(training.model, train, run.seed, ranks, path)

        def tell(*done: Any) -> None:
            if ranks.rank == 0:
                progress("train", *done)

        train_run(training, path, tell, computation)


def evaluate_stage(
    study: StudyMap,
    root: Path,
    trained: PlannedStage,
    stage: PlannedStage,
    *,
    batch_tokens: int,
    tokens_before: int,
    device: str | None = None,
    progress: Callable[[int, int], None],
) -> None:
    """Score the checkpoints of `trained` into the folder of `stage`, unless it is finished.

    Args:
        batch_tokens: pre-training tokens of one step, 0 for GRPO's.
        tokens_before: pre-training tokens before its first step.
        device: None: a GPU if there is one.
    """
    import torch

    from isoflop.evaluate.run import evaluate_run
    from isoflop.model.transformer import DTYPES

    scored = study.folder(root, stage)
    if scored.done:
        return
    with working_in(scored) as path:
        evaluate_run(
            root / trained.path,
            load_tokenizer(study, root),
            list(item_files(study, root).values()),
            study.experiment.evaluate,
            path,
            batch_tokens=batch_tokens,
            tokens_before=tokens_before,
            progress=progress,
            compute_dtype=DTYPES[study.experiment.train.precision],
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )
        scored.finish()


def device_name(device: str) -> str:
    """The accelerator's own name, with its driver library's version, or "cpu"."""
    import torch

    if device == "cpu":
        return device
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
