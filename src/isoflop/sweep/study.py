"""Where every result of an experiment lies, known before anything is run.

    <folder>/study.json                        this map, with the experiment
    <folder>/experiment.json                   the experiment alone
    <folder>/corpus/<source>-<digest>/         documents and items of one source
    <folder>/tokenizer/tokenizer-<digest>/     tokenizer.json
    <folder>/tokens/<source>-<digest>/         shards of one source
    <folder>/train/<cell>-s<seed>-<digest>/    rows and checkpoints
    <folder>/evaluate/<cell>-s<seed>-<digest>/ scores and answers
    <folder>/grpo/<cell>-s<seed>-<problems>-<learning rate>-<digest>/           a run of GRPO
    <folder>/grpo_evaluate/<cell>-s<seed>-<problems>-<learning rate>-<digest>/  its scores

A folder's digest covers its config and the digests of its inputs, down to the
bytes of the raw text. A changed field leads to new folders below it, and
everything else is used again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isoflop.config import UserError, from_dict, to_text
from isoflop.corpus.build import input_digest
from isoflop.corpus.config import Source
from isoflop.design.family import Cell
from isoflop.evaluate.config import EvaluateConfig
from isoflop.folders import StageFolder, stage_folder
from isoflop.posttrain.config import GrpoConfig
from isoflop.records import read_json, write_text
from isoflop.sweep.config import Experiment
from isoflop.tokens.config import TokenizerConfig
from isoflop.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class CorpusStage:
    """What decides the documents of one source."""

    source: Source
    seed: int


@dataclass(frozen=True, kw_only=True)
class TokenizerStage:
    """What decides the tokenizer, the corpora apart."""

    tokenizer: TokenizerConfig
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TokensStage:
    """What decides the shards of one source, documents and tokenizer apart."""

    source: str


@dataclass(frozen=True, kw_only=True)
class TrainStage:
    """What decides the rows of one run, the tokens apart."""

    cell: Cell
    train: TrainConfig
    sources: tuple[str, ...]
    shares: tuple[float, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class EvaluateStage:
    """What decides the scores of one run, its checkpoints and the items apart."""

    evaluate: EvaluateConfig


@dataclass(frozen=True, kw_only=True)
class PosttrainStage:
    """What decides the rows of one run of GRPO, its checkpoint and the problems apart."""

    grpo: GrpoConfig


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """The folder of one stage, relative to the study's."""

    name: str
    path: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class PlannedGrpo:
    """One of the experiment's runs of GRPO, on the last checkpoint of one run."""

    number: int
    """Its place in `Experiment.grpo`."""
    train: PlannedStage
    evaluate: PlannedStage


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One cell with one seed."""

    cell: str
    seed: int
    train: PlannedStage
    evaluate: PlannedStage
    grpo: tuple[PlannedGrpo, ...] = ()

    @property
    def name(self) -> str:
        """Cell and seed, unique within the study."""
        return f"{self.cell}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class StudyMap:
    """An experiment and the folder of each of its parts."""

    experiment: Experiment
    corpora: tuple[PlannedStage, ...]
    """In the order of the experiment's sources, as `tokens`."""
    tokenizer: PlannedStage
    tokens: tuple[PlannedStage, ...]
    runs: tuple[PlannedRun, ...]
    """Seed by seed, so that an interrupted study has whole families."""

    def cell(self, name: str) -> Cell:
        """The cell of this name."""
        return next(cell for cell in self.experiment.cells if cell.name == name)

    def folder(self, root: Path, stage: PlannedStage) -> StageFolder:
        """The stage's folder under the study's folder `root`, with the config it was named for."""
        return StageFolder(root / stage.path, self._config(stage), stage.digest)

    def _config(self, stage: PlannedStage) -> object:
        experiment, corpus = self.experiment, self.experiment.corpus
        if stage in self.corpora:
            return CorpusStage(source=corpus.sources[self.corpora.index(stage)], seed=corpus.seed)
        if stage == self.tokenizer:
            return TokenizerStage(tokenizer=experiment.tokenizer, shares=corpus.shares)
        if stage in self.tokens:
            return TokensStage(source=stage.name)
        for run in self.runs:
            if stage == run.train:
                return _train_stage(experiment, self.cell(run.cell), run.seed)
            for one in run.grpo:
                if stage == one.train:
                    return PosttrainStage(grpo=experiment.grpo[one.number])
        return EvaluateStage(evaluate=experiment.evaluate)


def map_study(experiment: Experiment) -> StudyMap:
    """Name all folders of an experiment; reads the raw inputs once to digest their bytes.

    Raises:
        UserError: an input is missing, or a cell's vocabulary is not the tokenizer's.
    """
    experiment.check_vocabulary()
    corpus = experiment.corpus
    corpora = tuple(
        _plan(
            "corpus",
            source.name,
            CorpusStage(source=source, seed=corpus.seed),
            input_digest(source),
        )
        for source in corpus.sources
    )
    tokenizer = _plan(
        "tokenizer",
        "tokenizer",
        TokenizerStage(tokenizer=experiment.tokenizer, shares=corpus.shares),
        *_tokenizer_inputs(experiment.tokenizer, corpora),
    )
    tokens = tuple(
        _plan("tokens", c.name, TokensStage(source=c.name), c.digest, tokenizer.digest)
        for c in corpora
    )
    inputs = _benchmark_inputs(experiment.evaluate)
    problems = [_problem_inputs(one) for one in experiment.grpo]
    runs = tuple(
        _plan_run(experiment, cell, seed, tokens, inputs, problems)
        for seed in experiment.seeds
        for cell in experiment.cells
    )
    return StudyMap(
        experiment=experiment, corpora=corpora, tokenizer=tokenizer, tokens=tokens, runs=runs
    )


def write_study_map(study: StudyMap, root: Path) -> None:
    """Leave the map in the study's folder, and the experiment apart for readers."""
    write_text(root / "experiment.json", to_text(study.experiment))
    write_text(root / "study.json", to_text(study))


def read_study_map(root: Path) -> StudyMap:
    """The map of a study's folder.

    Raises:
        UserError: no study there, or its file is of another version.
    """
    path = root / "study.json"
    data = read_json(path, missing="run a study first", remedy="run the study again")
    return from_dict(StudyMap, data, str(path))


def _plan(stage: str, name: str, config: object, *inputs: str) -> PlannedStage:
    folder = stage_folder(Path(), stage, name, config, inputs)
    return PlannedStage(name=name, path=str(folder.path), digest=folder.digest)


def _plan_run(
    experiment: Experiment,
    cell: Cell,
    seed: int,
    tokens: tuple[PlannedStage, ...],
    benchmarks: tuple[str, ...],
    problems: Sequence[tuple[str, ...]],
) -> PlannedRun:
    name = f"{cell.name}-s{seed}"
    config = _train_stage(experiment, cell, seed)
    train = _plan("train", name, config, *(stage.digest for stage in tokens))
    # The items to ask come with the corpora, which the tokens' digests cover.
    asked = EvaluateStage(evaluate=experiment.evaluate)
    evaluate = _plan("evaluate", name, asked, train.digest, *benchmarks)
    grpo = []
    for number, (one, files) in enumerate(zip(experiment.grpo, problems, strict=True)):
        label = f"{name}-{one.train.label.replace(':', '-')}-lr{one.learning_rate:g}"
        after = _plan("grpo", label, PosttrainStage(grpo=one), train.digest, *files)
        scored = _plan("grpo_evaluate", label, asked, after.digest, *benchmarks)
        grpo.append(PlannedGrpo(number=number, train=after, evaluate=scored))
    return PlannedRun(cell=cell.name, seed=seed, train=train, evaluate=evaluate, grpo=tuple(grpo))


def _train_stage(experiment: Experiment, cell: Cell, seed: int) -> TrainStage:
    return TrainStage(
        cell=cell,
        train=experiment.train,
        sources=tuple(source.name for source in experiment.corpus.sources),
        shares=experiment.corpus.shares,
        seed=seed,
    )


def _benchmark_inputs(config: EvaluateConfig) -> tuple[str, ...]:
    """Digests of the benchmarks' files, and of those that samples are drawn of."""
    paths = [path for one in config.benchmarks for path in (one.data, one.shots_data)]
    paths += [one.data for one in config.samples]
    return tuple(_path_digest(Path(path)) for path in paths if path is not None)


def _problem_inputs(config: GrpoConfig) -> tuple[str, ...]:
    """Digests of the files that GRPO's problems come from; a study's own come with its corpora."""
    paths = [one.data for one in (config.train, *config.validation)]
    return tuple(_path_digest(Path(path)) for path in paths if path is not None)


def _path_digest(path: Path) -> str:
    """Of a file's bytes, or of all files of a folder with their names."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    state = hashlib.sha256()
    try:
        for file in files:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            state.update(f"{file.relative_to(path)}\0{content}\0".encode())
    except OSError as error:
        raise UserError(f"{path}: cannot read the benchmark: {error.strerror}") from None
    return state.hexdigest()


def _tokenizer_inputs(
    config: TokenizerConfig, corpora: tuple[PlannedStage, ...]
) -> tuple[str, ...]:
    """Digests of what the tokenizer is made of: the corpora, or the user's file."""
    if config.path is None:
        return tuple(stage.digest for stage in corpora)
    try:
        content = Path(config.path).read_bytes()
    except OSError as error:
        raise UserError(f"{config.path}: cannot read the tokenizer: {error.strerror}") from None
    return (hashlib.sha256(content).hexdigest(),)
