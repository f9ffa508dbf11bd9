"""Where a checkpoint comes from: its run, data, tokenizer and code, as the study's folders say."""

from dataclasses import dataclass
from pathlib import Path

from isoflop.config import UserError
from isoflop.evaluate.run import find_checkpoints
from isoflop.folders import read_environments
from isoflop.model.checkpoint import CHECKPOINTS
from isoflop.model.huggingface.card import Lineage
from isoflop.model.huggingface.export import checkpoint_config
from isoflop.model.huggingface.tokenizer import (
    TOKENIZER_FILE,
    TokenizerFiles,
    carried_tokenizer,
    study_tokenizer,
)
from isoflop.sweep.study import PlannedGrpo, PlannedRun, StudyMap, read_study_map
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class StudyCheckpoint:
    """A checkpoint that lies in a study's folder."""

    root: Path
    """The study's folder."""
    study: StudyMap
    run: PlannedRun
    step: int
    grpo: PlannedGrpo | None = None
    """The run of GRPO that it is a checkpoint of, at that `step` of it. None: of pre-training."""

    def lineage(self) -> Lineage:
        """Everything the folders say of its origin."""
        experiment, train = self.study.experiment, self.root / self.run.train.path
        sources = [source.name for source in experiment.corpus.sources]
        trained = experiment.train.num_steps if self.grpo else self.step
        return Lineage(
            experiment=experiment.name,
            run=train.name,
            cell=self.run.cell,
            seed=self.run.seed,
            step=trained,
            train_tokens=trained * experiment.train.batch_tokens,
            planned_train_tokens=experiment.train.num_steps * experiment.train.batch_tokens,
            balance_coefficient=experiment.train.balance_coefficient,
            config_digest=self.run.train.digest,
            tokenizer_digest=self.study.tokenizer.digest,
            corpora={stage.name: stage.digest for stage in self.study.corpora},
            tokens={stage.name: stage.digest for stage in self.study.tokens},
            shares=dict(zip(sources, experiment.corpus.shares, strict=True)),
            environments=tuple(read_environments(train / "env.json")),
            posttrained=None if self.grpo is None else self._posttrained(self.grpo),
        )

    def _posttrained(self, grpo: PlannedGrpo) -> str:
        config = self.study.experiment.grpo[grpo.number]
        return (
            f"GRPO on {config.train.label}, step {self.step} of {config.num_steps}, "
            f"learning_rate {config.learning_rate:g}; digest {grpo.train.digest}"
        )

    def tokenizer(self, sequence_length: int) -> TokenizerFiles:
        """The study's tokenizer."""
        path = self.root / self.study.tokenizer.path / "tokenizer.json"
        return study_tokenizer(path, self.study.experiment.tokenizer, sequence_length)

    def open_tokenizer(self) -> Tokenizer:
        """The same, loaded."""
        path = self.root / self.study.tokenizer.path / TOKENIZER_FILE
        return Tokenizer.load(path, self.study.experiment.tokenizer)


def find_study(checkpoint: Path) -> StudyCheckpoint | None:
    """The study around a checkpoint; None where no folder above holds one that knows it.

    Raises:
        UserError: the study's map is of another version.
    """
    checkpoint = checkpoint.resolve()
    for root in checkpoint.parents:
        if not (root / "study.json").exists():
            continue
        study = read_study_map(root)
        for run in study.runs:
            stages = [(run.train, None), *((one.train, one) for one in run.grpo)]
            for stage, grpo in stages:
                trained = root / stage.path
                if trained / CHECKPOINTS == checkpoint.parent:
                    for step, path in find_checkpoints(trained).items():
                        if path == checkpoint:
                            return StudyCheckpoint(root, study, run, step, grpo)
        return None
    return None


def find_tokenizer(
    checkpoint: Path, study: StudyCheckpoint | None, asked: str | None, end_of_text: str | None
) -> TokenizerFiles | None:
    """The tokenizer to export: the one asked for, the one carried beside the checkpoint, the study's.

    Args:
        asked: a tokenizer.json, "none" for none at all, or None to look for one.
        end_of_text: the token that ends documents in the asked tokenizer.json.

    Raises:
        UserError: none is found, or a setting that would have no effect.
    """
    if end_of_text is not None and asked in (None, "none"):
        raise UserError(
            f"--end-of-text {end_of_text!r} says something of --tokenizer FILE: give both"
        )
    if asked == "none":
        return None
    length = checkpoint_config(checkpoint)[0].sequence_length
    if asked is not None:
        config = TokenizerConfig(path=asked)
        if end_of_text is not None:
            config = TokenizerConfig(path=asked, end_of_text=end_of_text)
        return study_tokenizer(Path(asked), config, length)
    carried = carried_tokenizer(checkpoint)
    if carried is not None:
        return carried
    if study is None:
        raise UserError(
            f"{checkpoint}: no study around it knows its tokenizer, and no tokenizer.json lies "
            "beside it; give --tokenizer FILE, or --tokenizer none to export without one"
        )
    return study.tokenizer(length)


def open_tokenizer(checkpoint: Path, asked: str | None, end_of_text: str | None) -> Tokenizer:
    """The tokenizer that reads and writes a checkpoint's text: as `find_tokenizer`, but loaded.

    Args:
        asked: a tokenizer.json, or None to look beside the checkpoint and in its study.
        end_of_text: the token that ends documents; None: the study's, or the usual one.

    Raises:
        UserError: none is found, its file is broken, or another is asked for than the study's.
    """
    beside = checkpoint / TOKENIZER_FILE
    path = asked or (str(beside) if beside.exists() else None)
    if path is not None:
        config = TokenizerConfig(path=path)
        if end_of_text is not None:
            config = TokenizerConfig(path=path, end_of_text=end_of_text)
        found = Tokenizer.load(Path(path), config)
        if asked is not None:
            _check_is_the_studys(checkpoint, found)
        return found
    study = find_study(checkpoint)
    if study is None:
        raise UserError(
            f"{checkpoint}: no study around it knows its tokenizer, and no {TOKENIZER_FILE} lies "
            "beside it; give --tokenizer FILE"
        )
    if end_of_text is not None:
        raise UserError(
            f"--end-of-text {end_of_text!r} says something of --tokenizer FILE: give both"
        )
    return study.open_tokenizer()


def _check_is_the_studys(checkpoint: Path, asked: Tokenizer) -> None:
    """
    Raises:
        UserError: a study knows the checkpoint's tokenizer, and the one asked for has other ids.
    """
    try:
        study = find_study(checkpoint)
        own = None if study is None else study.open_tokenizer()
    except UserError:
        # A study of another version, or without its tokenizer: nothing is known.
        return
    if own is None:
        return
    if asked.vocabulary != own.vocabulary or asked.end_of_text_id != own.end_of_text_id:
        raise UserError(
            f"{asked.path}: another tokenizer ({asked.vocabulary_size} tokens, end of text "
            f"{asked.end_of_text!r}) than that of the checkpoint's study ({own.path}, "
            f"{own.vocabulary_size}, {own.end_of_text!r}); leave --tokenizer out"
        )
