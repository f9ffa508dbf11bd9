"""What a run of GRPO is: the problems, the rollouts, the objective, the optimiser."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from isoflop.config import UserError
from isoflop.evaluate.config import ContextStart
from isoflop.evaluate.tasks.names import OWN_TASKS
from isoflop.posttrain.settings import AdvantageScale, Aggregation, Divergence

OldLogProbs = Literal["trainer", "sampler"]

RewardName = Literal["answer", "program_or_answer"]
"""Rewards by name, see `isoflop.posttrain.rewards`."""

MAX_PROGRAM_SECONDS = 3600.0
"""Largest `GrpoConfig.program_seconds`. Chosen."""

REASONING_GYM = "reasoning_gym:"
"""Begins the task of a source whose problems the package reasoning-gym makes and verifies."""


@dataclass(frozen=True, kw_only=True)
class ProblemSource:
    """Problems with verifiable answers: a benchmark's file, a probe's, or reasoning-gym's."""

    task: str
    """A task of `isoflop eval`, or "reasoning_gym:<data set>"."""
    data: str | None = None
    """A file, or a folder as the hub has it. None: reasoning-gym makes them, and a study asks the
    questions of its own probes."""
    source: str | None = None
    """Of a study's own questions, the source of its corpus that they come with. None: all."""
    name: str | None = None
    """In tables. None: task and source."""
    max_problems: int | None = None
    """The first so many. None: all; of reasoning-gym's it is how many are made."""
    skip_problems: int = 0
    """The first so many are left out: those that `EvaluateConfig.max_items` asks, of each of a study's
    own tasks and splits, so that no score is of a problem that was trained on."""
    seed: int = 0
    """Of reasoning-gym's problems."""
    prompt: str = "{question}\n\n"
    """What the model reads; {question} stands for the problem's own prompt or question. The default
    is arXiv:2508.18672's: the bare question and a blank line. "{question}" for prompts that are ready,
    as the probes' are."""

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name):
            raise UserError(f"name={self.name!r} must be letters, digits, '-', '_' and '.'")
        if self.max_problems is not None and self.max_problems < 1:
            raise UserError(f"max_problems={self.max_problems} must be at least 1, or None for all")
        if self.skip_problems < 0 or (self.skip_problems and self.task.startswith(REASONING_GYM)):
            raise UserError(
                f"skip_problems={self.skip_problems} must be at least 0, and 0 for reasoning-gym's "
                "problems: another seed makes others"
            )
        if self.source is not None and not self.is_own:
            raise UserError(
                f"source={self.source!r} names a part of a study's own questions; it goes with "
                f"task={', '.join(OWN_TASKS)} and data=None"
            )

    @property
    def is_own(self) -> bool:
        """Whether a study's own questions are meant."""
        return self.data is None and self.task in OWN_TASKS

    @property
    def label(self) -> str:
        """Its name in tables."""
        parts = [part for part in (self.task, self.source) if part is not None]
        return self.name or "-".join(parts)


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """One run of GRPO. Defaults: arXiv:2508.18672, appendix A.2 and the released train script."""

    train: ProblemSource
    validation: tuple[ProblemSource, ...] = ()
    """Asked greedily before the first step and every `validation_steps`."""
    reward: RewardName = "program_or_answer"
    program_seconds: float = 3.0
    """Processor time of an answer's program, which may take five times as much real time; the released
    reward code allows 3 s."""
    num_steps: int = 105
    """Steps: in the study 15 epochs of 7 steps."""
    prompts_per_step: int = 1024
    samples_per_prompt: int = 5
    mini_batch_prompts: int = 256
    """Prompts of one optimiser update; prompts_per_step / this many updates a step."""
    micro_batch_answers: int = 64
    """Answers computed at once. No influence on results beyond rounding."""
    max_prompt_tokens: int = 512
    """Longer prompts are left out and counted."""
    max_response_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    learning_rate: float = 5e-6
    """Constant, without warm-up."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    """Bound on the L2 norm of an update's gradients."""
    max_gradient_l1_norm: float | None = None
    """None, or a bound applied after the other: the released code's fault, see
    `isoflop.posttrain.grpo.clip_by_norm`."""
    advantage_scale: AdvantageScale = "group_std"
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Aggregation = "token_mean"
    divergence: Divergence = "k3"
    divergence_coefficient: float = 0.001
    """Of the divergence from the reference, in the loss: the model before GRPO, or another that the
    run is given. 0: no reference is kept."""
    divergence_by_ratio: bool = False
    """Whether each token's divergence is multiplied by its ratio, see `isoflop.posttrain.grpo`."""
    entropy_coefficient: float = 0.0
    balance_coefficient: float = 0.0
    """Of the routers' balance loss over each micro-batch. Off, as in the study; reported."""
    z_coefficient: float = 0.0
    replay_routing: bool = False
    """Whether updates send each token to the experts that its rollout chose."""
    router_drift: float = 0.0
    """Standard deviation of noise on the logits by which rollouts choose experts: what another
    sampling engine does. To study collapse; 0: one engine, no drift."""
    old_log_probs: OldLogProbs = "trainer"
    """Whose probabilities of the sampled tokens the ratio divides by."""
    validation_steps: int = 5
    validation_problems: int | None = None
    """Of each validation source; None: all."""
    checkpoint_steps: int | None = None
    """Steps between kept checkpoints; None: the last alone."""
    probe_steps: int | None = None
    """Steps between second-moment probes of the matrices; None: none."""
    context_start: ContextStart = "end_of_text"
    """What stands before a prompt, see `EvaluateConfig`."""
    batch_sequences: int = 128
    """Places of the sampler."""
    seed: int = 0
    """Of the order of problems and of the samples."""

    def __post_init__(self) -> None:
        for name in (
            "num_steps",
            "prompts_per_step",
            "samples_per_prompt",
            "mini_batch_prompts",
            "micro_batch_answers",
            "max_prompt_tokens",
            "max_response_tokens",
            "validation_steps",
            "batch_sequences",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if self.prompts_per_step % self.mini_batch_prompts:
            raise UserError(
                f"prompts_per_step={self.prompts_per_step} must be a multiple of "
                f"mini_batch_prompts={self.mini_batch_prompts}"
            )
        if self.samples_per_prompt < 2:
            raise UserError(
                "samples_per_prompt=1 gives every answer the advantage 0: an answer is compared with "
                "the others to its problem; use at least 2"
            )
        for name in ("checkpoint_steps", "probe_steps", "validation_problems"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1, or None")
        labels = [source.label for source in self.validation]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise UserError(
                f"validation has two sources called {', '.join(twice)}, whose rows could not be told "
                "apart: give each a name of its own (name=..., or --validate NAME=TASK=FILE)"
            )
        self._check_choices()
        self._check_numbers()

    def _check_choices(self) -> None:
        choices = {
            "reward": RewardName,
            "advantage_scale": AdvantageScale,
            "aggregation": Aggregation,
            "divergence": Divergence,
            "old_log_probs": OldLogProbs,
        }
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise UserError(
                    f"{name}={getattr(self, name)!r} must be one of {', '.join(get_args(kind))}"
                )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name}={value} must be a finite number")

    def _check_numbers(self) -> None:
        if self.temperature <= 0:
            raise UserError(
                f"temperature={self.temperature} must be above 0: greedy samples are all the same"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")
        if not 0 <= self.clip_low < 1 or self.clip_high < 0:
            raise UserError(
                f"clip_low={self.clip_low} must be at least 0 and below 1, and "
                f"clip_high={self.clip_high} at least 0"
            )
        positive = ("learning_rate", "epsilon", "max_gradient_norm", "program_seconds")
        for name in positive:
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} must be above 0")
        if self.program_seconds > MAX_PROGRAM_SECONDS:
            raise UserError(
                f"program_seconds={self.program_seconds} must be at most {MAX_PROGRAM_SECONDS:g}: a "
                "step waits for its slowest program"
            )
        if self.max_gradient_l1_norm is not None and self.max_gradient_l1_norm <= 0:
            raise UserError(
                f"max_gradient_l1_norm={self.max_gradient_l1_norm} must be above 0, or None"
            )
        for name in (
            "divergence_coefficient",
            "entropy_coefficient",
            "balance_coefficient",
            "z_coefficient",
            "router_drift",
            "weight_decay",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must be at least 0")

    @property
    def updates_per_step(self) -> int:
        """Optimiser updates of one step."""
        return self.prompts_per_step // self.mini_batch_prompts


def grpo_sweep(
    settings: GrpoConfig,
    *,
    learning_rates: Sequence[float],
    train: Sequence[ProblemSource] | None = None,
) -> tuple[GrpoConfig, ...]:
    """The same settings with each training set and each learning rate, for `Experiment.grpo`.

    Args:
        train: None: the settings' own.
    """
    return tuple(
        replace(settings, train=source, learning_rate=rate)
        for source in (train or (settings.train,))
        for rate in learning_rates
    )
