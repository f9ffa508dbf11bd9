"""Rows of what is measured beside a checkpoint's scores: samples of each question, and all after GRPO.

Beside `isoflop.records`, whose rows say what one pre-trained checkpoint is.
"""

from dataclasses import dataclass

from isoflop.records import ScoreRow


@dataclass(frozen=True, kw_only=True)
class SampledRow:
    """What several answers to each question of one task give. Written by evaluate, read by sweep."""

    step: int
    task: str
    split: str
    num_samples: int
    num_items: int
    """Questions that were sampled so often; those too long for the context are left out."""
    coverage: float | None
    """Share of questions with a right answer among the samples, pass@N: the unbiased estimator."""
    coverage_standard_error: float | None
    majority: float | None
    """Share of questions whose most frequent answer is right: self-consistency, majority@N."""
    majority_standard_error: float | None


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One measurement of a run after one stage. Joined by sweep.ledger, read by analysis."""

    cell: str
    seed: int
    run: str
    """As the run's CheckpointRow has it."""
    stage: str
    """"pretrained": the run's last checkpoint, whose scores stand in its CheckpointRow; or "grpo"."""
    grpo_step: int | None
    """Steps of GRPO. None, as the two below: pre-trained alone."""
    grpo_learning_rate: float | None
    grpo_corpus: str | None
    """The problems that GRPO trained on, by their label."""
    scores: tuple[ScoreRow, ...]
    """Empty for "pretrained"."""
    sampled: tuple[SampledRow, ...]
