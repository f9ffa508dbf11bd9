"""The README.md of an exported model: what it is, and from which run, data and code it came."""

import json
from dataclasses import dataclass
from typing import Any

import isoflop
from isoflop.model.config import ModelConfig
from isoflop.model.count import active_params, total_params
from isoflop.model.moe import fitting_experts

ABOUT_STUDY = (
    "A research model of a sparsity study, trained from random weights on its study's text alone. "
    "It is no assistant and has had no safety training."
)
ABOUT_CHECKPOINT = "Weights of a checkpoint that lay in no study's folder."


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a checkpoint comes from, as its study's folders say."""

    experiment: str
    run: str
    """Name of the training folder: cell, seed and the digest of its config and inputs."""
    cell: str
    seed: int
    step: int
    train_tokens: int
    """Tokens read up to this step."""
    planned_train_tokens: int
    """Tokens of the whole run."""
    balance_coefficient: float
    """Strength of the balance loss in training: 1 a layer at even use, summed over layers."""
    config_digest: str
    """Of the training stage: model, recipe, seed and the tokens' digests."""
    tokenizer_digest: str
    corpora: dict[str, str]
    """Source of text -> digest of its documents."""
    tokens: dict[str, str]
    """Source of text -> digest of its shards."""
    shares: dict[str, float]
    """Source of text -> asked share of the training tokens."""
    environments: tuple[dict[str, Any], ...]
    """Versions, machine and commit that trained it, the first first."""
    posttrained: str | None = None
    """What was done after pre-training, in words."""


def opening_words(config: ModelConfig) -> str | None:
    """What a user must say where transformers' default experts do not take the widths; None: nothing.

    Its grouped products take multiples of 8 in bfloat16, of 4 in float32, and raise at the first
    forward pass; it may be opened in either.
    """
    if fitting_experts(config) == "grouped":
        return None
    return (
        'from_pretrained(..., experts_implementation="eager"): d_model and d_expert are not both '
        "multiples of 8, which transformers 5's default needs"
    )


def model_card(
    config: ModelConfig,
    config_digest: str,
    *,
    dtype: str,
    lineage: Lineage | None,
    tokenizer: str | None,
) -> str:
    """The card's text: YAML that Hugging Face's hub reads, then two tables.

    Args:
        config_digest: of the checkpoint's config.json, which its weights carry too.
        tokenizer: the name of the tokenizer's file.
    """
    facts = {
        "architecture": f"Mixtral, {config.num_layers} layers, d_model {config.d_model}",
        "attention": f"{config.num_heads} heads, {config.key_value_heads} of keys and values",
        "experts": f"{config.num_experts} of width {config.d_expert}, {config.top_k} a token",
        "total parameters": f"{total_params(config):,}",
        "active parameters": f"{active_params(config):,} (embeddings in, router out)",
        "longest sequence": f"{config.sequence_length} tokens",
        "vocabulary": f"{config.vocabulary_size} rows, padding included",
        "weights": dtype,
        "tokenizer": tokenizer or "none exported",
        "to open": opening_words(config) or "from_pretrained(...), as it is",
        "model config digest": config_digest,
        "exported by": f"isoflop {isoflop.__version__}",
    }
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["isoflop", "mixtral", "mixture-of-experts"],
    }
    name = "an isoflop checkpoint" if lineage is None else f"{lineage.run}, step {lineage.step}"
    parts = [
        # JSON values are YAML values: nothing a name holds can break the header.
        "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in header.items()) + "---",
        f"# {name}",
        ABOUT_STUDY if lineage else ABOUT_CHECKPOINT,
        _table(facts),
        "## Lineage",
        _table(_lineage_rows(lineage)) if lineage else "Not known: no study lay around it.",
    ]
    return "\n\n".join(parts) + "\n"


def _lineage_rows(lineage: Lineage) -> dict[str, str]:
    rows = {
        "experiment": lineage.experiment,
        "run": lineage.run,
        "cell, seed": f"{lineage.cell}, {lineage.seed}",
        "step": str(lineage.step),
        "training tokens": f"{lineage.train_tokens:,} of {lineage.planned_train_tokens:,}",
        **({"after pre-training": lineage.posttrained} if lineage.posttrained else {}),
        "training digest": lineage.config_digest,
        "tokenizer digest": lineage.tokenizer_digest,
    }
    for source, code in lineage.corpora.items():
        share = lineage.shares[source] / sum(lineage.shares.values())
        rows[f"source {source}"] = (
            f"{share:.1%} of the tokens; corpus {code}, shards {lineage.tokens[source]}"
        )
    for number, known in enumerate(lineage.environments, start=1):
        packages = ", ".join(f"{name} {version}" for name, version in known["packages"].items())
        rows[f"trained with ({number})"] = (
            f"{packages}; Python {known['python']}; {known['device']}; commit {known['commit']}"
        )
    return rows


def _table(rows: dict[str, str]) -> str:
    lines = ["| | |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that cannot end a table's cell or line."""
    return " ".join(text.replace("|", "\\|").split())
