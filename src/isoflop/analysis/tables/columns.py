"""The columns that a table of runs may have: names, units, meanings, and which are needed.

A line of a table is one checkpoint of one run, or one measurement of it under other settings
(after GRPO, with more shots, at another temperature). The names are those of table.csv.

    fixed columns   the literal dictionary COLUMNS below
    losses          SOURCE.SPLIT.loss, .standard_error, .num_tokens    e.g. web.validation.loss
    scores          TASK.SPLIT.FIELD, or TASK.FIELD for one split      e.g. gsm8k.accuracy
                    FIELD is in SCORE_FIELDS, or pass@N, majority@N with N samples
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["count", "number", "share", "text", "flag"]
Need = Literal["required", "one of", "optional"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table."""

    kind: Kind
    """"count": whole and above 0, or 0 where `zero`; "number": any finite number; "share": 0 to 1;
    "text"; "flag": true or false."""
    meaning: str
    unit: str = ""
    need: Need = "optional"
    """"one of": at least one loss or score is needed as well."""
    positive: bool = False
    """Zero and below are refused."""
    zero: bool = False
    """Whether a count may be 0."""
    better: Literal["lower", "higher"] | None = None
    """Which way a figure of a model improves; None: it is no such figure."""


COLUMNS: dict[str, Column] = {
    "cell": Column(kind="text", need="required", meaning="name of the architecture, e.g. E16-k2"),
    "tokens": Column(
        kind="count", need="required", unit="tokens", meaning="training tokens so far"
    ),
    "total_params": Column(
        kind="count", unit="parameters", meaning="all parameters, embeddings and head included"
    ),
    "active_params": Column(
        kind="count", need="required", unit="parameters", meaning="parameters that touch one token"
    ),
    "experiment": Column(kind="text", meaning="name of the study"),
    "seed": Column(kind="count", zero=True, meaning="seed of the run; missing: one seed"),
    "run": Column(kind="text", meaning="name of the run; default: cell and seed"),
    "step": Column(kind="count", zero=True, unit="steps", meaning="optimiser steps so far"),
    "final": Column(
        kind="flag", meaning="the run's last checkpoint; default: most tokens of a run"
    ),
    "num_layers": Column(kind="count", meaning="layers"),
    "d_model": Column(kind="count", meaning="width of the residual stream"),
    "d_expert": Column(kind="count", meaning="hidden width of one expert"),
    "num_experts": Column(kind="count", meaning="experts of a layer, E; dense: 1, or E = k"),
    "top_k": Column(kind="count", meaning="experts that see one token, k"),
    "sparsity": Column(kind="share", meaning="1 - k/E; default: from the two"),
    "density": Column(kind="share", positive=True, meaning="k/E; default: from the two"),
    "granularity": Column(
        kind="number", positive=True, meaning="4 x d_model / d_expert; default: from the two"
    ),
    "train_flops": Column(
        kind="number", positive=True, unit="FLOP", meaning="of the run so far; default: 6 N D"
    ),
    "train_flops_6n": Column(
        kind="number", positive=True, unit="FLOP", meaning="6 x active_params x tokens"
    ),
    "train_flops_with_router": Column(
        kind="number", positive=True, unit="FLOP", meaning="train_flops and the router's on top"
    ),
    "tpp": Column(kind="number", positive=True, meaning="tokens / total_params"),
    "active_tpp": Column(kind="number", positive=True, meaning="tokens / active_params"),
    "train_loss": Column(
        kind="number",
        need="one of",
        positive=True,
        unit="nats",
        meaning="next-token cross-entropy",
        better="lower",
    ),
    "validation_loss": Column(
        kind="number",
        need="one of",
        positive=True,
        unit="nats",
        meaning="of held-out text",
        better="lower",
    ),
    "validation_bits_per_byte": Column(
        kind="number",
        need="one of",
        positive=True,
        unit="bits per byte",
        meaning="of held-out text",
        better="lower",
    ),
    "efficiency_leverage": Column(
        kind="number",
        need="one of",
        positive=True,
        meaning="compute of the dense model of equal loss / compute of this one",
        better="higher",
    ),
    "balance_loss": Column(kind="number", meaning="1.0 is even use of the experts"),
    "max_expert_load": Column(kind="number", meaning="largest load of an expert; 1.0 is even"),
    "tokenizer": Column(kind="text", meaning="losses in nats compare within one tokenizer only"),
    "corpus": Column(kind="text", meaning="name of the training mixture"),
    "stage": Column(kind="text", meaning="pretrained (default) or what was done after, e.g. grpo"),
    "learning_rate": Column(kind="number", positive=True, meaning="peak learning rate"),
    "init_std": Column(kind="number", positive=True, meaning="standard deviation of the weights"),
    "adam_epsilon": Column(kind="number", positive=True, meaning="AdamW's epsilon"),
    "grpo_step": Column(kind="count", zero=True, unit="steps", meaning="of GRPO"),
    "grpo_learning_rate": Column(kind="number", positive=True, meaning="of GRPO"),
    "grpo_corpus": Column(kind="text", meaning="problems that GRPO trained on"),
    "num_shots": Column(kind="count", zero=True, meaning="worked examples before the question"),
    "temperature": Column(kind="number", meaning="of sampling; 0 is greedy"),
    "inference_top_k": Column(kind="count", meaning="k while answering, if not the trained one"),
    "tokens_per_second": Column(kind="number", positive=True, meaning="training speed of one run"),
    "seconds": Column(kind="number", unit="s", meaning="training time of the run so far"),
    "num_devices": Column(kind="count", meaning="devices of the run; default 1"),
}
"""Fixed columns, required ones first."""

SCORE_FIELDS: dict[str, Column] = {
    "accuracy": Column(kind="share", meaning="share of questions answered right", better="higher"),
    "accuracy_standard_error": Column(kind="number", meaning="over questions"),
    "num_items": Column(kind="count", zero=True, meaning="questions of the task"),
    "num_scored": Column(kind="count", zero=True, meaning="questions in the mean"),
    "num_ungradable": Column(kind="count", zero=True, meaning="answers that could not be read"),
    "bits_per_byte": Column(
        kind="number",
        unit="bits per byte",
        meaning="task loss: of the gold answer",
        positive=True,
        better="lower",
    ),
    "bits_per_byte_standard_error": Column(kind="number", meaning="over questions"),
    "bits_per_token": Column(
        kind="number",
        unit="bits per token",
        meaning="task loss by token",
        positive=True,
        better="lower",
    ),
    "bits_per_token_standard_error": Column(kind="number", meaning="over questions"),
    "answer_bits": Column(
        kind="number", unit="bits", meaning="of a whole gold answer", positive=True, better="lower"
    ),
    "answer_probability": Column(
        kind="share", meaning="mean of 2^-bits over questions", better="higher"
    ),
    "num_joined": Column(kind="count", zero=True, meaning="a token spans prompt and answer"),
    "seen_bits_per_byte": Column(
        kind="number", unit="bits per byte", meaning="on training items", better="lower"
    ),
}
"""Fields of TASK.SPLIT.FIELD columns."""

LOSS_FIELDS: dict[str, Column] = {
    "loss": Column(
        kind="number",
        positive=True,
        unit="nats",
        meaning="next-token cross-entropy",
        better="lower",
    ),
    "standard_error": Column(kind="number", meaning="over sequences"),
    "num_tokens": Column(kind="count", zero=True, unit="tokens", meaning="tokens in the mean"),
}
"""Fields of SOURCE.SPLIT.FIELD columns."""

SAMPLED = re.compile(r"(pass|majority)@(\d+)")
"""Test-time compute: pass@N is the share of questions with a right answer among N samples,
majority@N that whose most frequent answer of N is right."""

SAMPLED_COLUMN = Column(kind="share", meaning="accuracy with N samples a question", better="higher")

ALIASES: dict[str, str] = {
    "n_experts": "num_experts",
    "experts": "num_experts",
    "topk": "top_k",
    "name": "cell",
    "model": "cell",
    "config": "cell",
    "params": "total_params",
    "n_params": "total_params",
    "num_params": "total_params",
    "n_active": "active_params",
    "flops": "train_flops",
    "compute": "train_flops",
    "train_tokens": "tokens",
    "num_tokens": "tokens",
    "loss": "train_loss",
    "training_loss": "train_loss",
    "val_loss": "validation_loss",
    "valid_loss": "validation_loss",
    "lr": "learning_rate",
    "peak_learning_rate": "learning_rate",
    "train/loss": "train_loss",
    "loss/train": "train_loss",
    "val/loss": "validation_loss",
    "valid/loss": "validation_loss",
    "eval/loss": "validation_loss",
    "validation/loss": "validation_loss",
    "loss/val": "validation_loss",
    "train/tokens": "tokens",
    "train/num_tokens": "tokens",
    "router/balance_loss": "balance_loss",
    "router/max_expert_load": "max_expert_load",
    "_step": "step",
    "train/global_step": "step",
}
"""Other names of fixed columns in use elsewhere, trackers' pages and our mirror's among them
(isoflop.sweep.mirror); read as ours, and said so. A learning rate at a step is not the peak one."""

ANSWER_SETTINGS = ("num_shots", "temperature", "inference_top_k")
"""Columns that tell several measurements of one set of weights apart."""

SETTINGS = ("stage", "grpo_step", "grpo_learning_rate", "grpo_corpus", *ANSWER_SETTINGS)
"""Columns that tell several measurements of one checkpoint apart."""


def column_of(name: str) -> Column | None:
    """What a column of this name holds; None for a name that no part of the analysis reads."""
    if name in COLUMNS:
        return COLUMNS[name]
    parts = name.split(".")
    if len(parts) == 3 and parts[2] in LOSS_FIELDS and parts[1] in ("train", "validation"):
        return LOSS_FIELDS[parts[2]]
    if len(parts) in (2, 3) and all(parts):
        if SAMPLED.fullmatch(parts[-1]):
            return SAMPLED_COLUMN
        return SCORE_FIELDS.get(parts[-1])
    return None


def is_share(name: str) -> bool:
    """Whether the column holds shares, from 0 to 1: an accuracy is one."""
    known = column_of(name)
    return known is not None and known.kind == "share"


def in_other_letters(names: Iterable[str]) -> dict[str, str]:
    """Names that nothing reads and that are ours but for capital letters, with ours."""
    return {
        name: name.lower()
        for name in names
        if column_of(name) is None and column_of(name.lower()) is not None
    }


def is_outcome(name: str) -> bool:
    """Whether a column is a loss or a score that something can be concluded from."""
    column = column_of(name)
    if column is None:
        return False
    last = name.split(".")[-1]
    wanted = ("loss", "accuracy", "bits_per_byte", "bits_per_token")
    return column.need == "one of" or ("." in name and (last in wanted or "@" in last))
