"""An experiment: a corpus, a family of models, one training recipe, and what is measured."""

import re
from dataclasses import dataclass

from isoflop.config import UserError
from isoflop.corpus.config import Corpus
from isoflop.design.family import Cell, check_matched
from isoflop.evaluate.config import EvaluateConfig
from isoflop.evaluate.tasks.names import OWN_TASKS
from isoflop.posttrain.config import REASONING_GYM, GrpoConfig
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import padded_vocabulary_size
from isoflop.train.config import TrainConfig

GROUPED_ROW_BYTES = 16
"""Alignment that torch's grouped matrix products ask of a row."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A study: every cell is trained once with every seed on the same tokens."""

    name: str
    """Name of its folder under the output folder."""
    summary: str
    """What it shows, in a sentence."""
    corpus: Corpus
    tokenizer: TokenizerConfig
    cells: tuple[Cell, ...]
    train: TrainConfig
    evaluate: EvaluateConfig
    grpo: tuple[GrpoConfig, ...] = ()
    """Each post-trains the last checkpoint of every run, which is then evaluated again; see
    `isoflop.posttrain.config.grpo_sweep`."""
    seeds: tuple[int, ...] = (0,)
    """Each seeds the weights and the order of the batches; the corpus has its own."""
    active_tolerance: float | None = 0.01
    """Largest relative difference of active parameters within the family (router left out).
    None: the cells form several groups and are compared only within them."""
    flops_tolerance: float = 0.1
    """Largest relative difference of training FLOPs per token, router included: in a small
    model a router over many experts is not free. Unused without `active_tolerance`."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise UserError(f"experiment name {self.name!r} must be letters, digits, '-' and '_'")
        if not self.cells or not self.seeds:
            raise UserError(f"{self.name}: an experiment needs at least one cell and one seed")
        names = [cell.name for cell in self.cells]
        if len(set(names)) < len(names):
            raise UserError(f"{self.name}: cells need different names, got {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError(f"{self.name}: seeds must differ and be 0 or more, got {self.seeds}")
        for cell in self.cells:
            if cell.model.sequence_length < self.train.sequence_length:
                raise UserError(
                    f"{cell.name}: sequence_length={cell.model.sequence_length} must be at least "
                    f"the training's {self.train.sequence_length}"
                )
            _check_widths(cell, self.train)
        if self.train.reset_attention and self.evaluate.context_start == "end_of_text":
            raise UserError(
                f"{self.name}: with train.reset_attention=True no document was ever read after an "
                "end of text; set evaluate.context_start='nothing'"
            )
        _check_grpo(self)
        if self.active_tolerance is not None:
            check_matched(
                self.cells,
                active_tolerance=self.active_tolerance,
                flops_tolerance=self.flops_tolerance,
            )

    def check_vocabulary(self) -> None:
        """Refuse cells whose vocabulary is not the tokenizer's padded one.

        Raises:
            UserError: a cell's vocabulary differs; the message names both sizes.
        """
        size = padded_vocabulary_size(self.tokenizer)
        for cell in self.cells:
            if cell.model.vocabulary_size != size:
                raise UserError(
                    f"{cell.name}: vocabulary_size={cell.model.vocabulary_size} must be the "
                    f"tokenizer's {size} (padded to a multiple of {self.tokenizer.pad_to_multiple})"
                )


def _check_grpo(experiment: Experiment) -> None:
    """What a worker would find out after training."""
    names = [(one.train.label, one.learning_rate) for one in experiment.grpo]
    for label, rate in names:
        if names.count((label, rate)) > 1:
            raise UserError(
                f"{experiment.name}: two of grpo train on {label} with learning_rate={rate}; the "
                "table could not tell them apart: give their training sets different names"
            )
    sources = [source.name for source in experiment.corpus.sources]
    for one in experiment.grpo:
        if experiment.train.reset_attention and one.context_start == "end_of_text":
            raise UserError(
                f"{experiment.name}: with train.reset_attention=True no document was ever read "
                "after an end of text; set grpo's context_start='nothing'"
            )
        for problems in (one.train, *one.validation):
            if problems.source is not None and problems.source not in sources:
                raise UserError(
                    f"{experiment.name}: grpo asks the questions of source={problems.source!r}; "
                    f"the corpus has {', '.join(sources)}"
                )
            made = problems.task.startswith(REASONING_GYM)
            if problems.data is None and not (made or problems.is_own):
                raise UserError(
                    f"{experiment.name}: grpo on {problems.task} needs its file in data=; only "
                    f"{', '.join(OWN_TASKS)} are the study's own"
                )


def _check_widths(cell: Cell, train: TrainConfig) -> None:
    """Grouped matrix products need rows of whole 16 bytes; tell before a worker finds out."""
    multiple = GROUPED_ROW_BYTES // (4 if train.precision == "float32" else 2)
    for name in ("d_model", "d_expert"):
        width = getattr(cell.model, name)
        if train.experts == "grouped" and width % multiple:
            raise UserError(
                f"{cell.name}: {name}={width} must be a multiple of {multiple} in {train.precision} "
                "with train.experts='grouped'; change it or set train.experts='loop'"
            )
