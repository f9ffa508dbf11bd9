"""GRPO on one checkpoint: rollouts, rewards, updates, validation, in a folder that a kill cannot spoil.

    <folder>/steps.jsonl          GrpoStepRow
    <folder>/validation.jsonl     GrpoValidationRow; step 0 is the model before GRPO
    <folder>/timings.jsonl        GrpoTimingRow, which differs from run to run
    <folder>/left_out.jsonl       LeftOutRow: problems and rows of the data that are not asked, and why
    <folder>/rollouts/            parts of the step at work, see `rollouts`
    <folder>/answers/             RolloutRow of every finished step
    <folder>/probes.jsonl         SecondMomentRow, where probes are asked for
    <folder>/checkpoints/         as pre-training's
    <folder>/resume.safetensors   weights and moments after the last saved step

Killed at any moment and started again, the run ends with the same rows.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

import torch
from torch import Tensor

from isoflop.config import UserError
from isoflop.evaluate.sampling.ours import greedy
from isoflop.evaluate.statistics import mean_and_error, share_and_error
from isoflop.model.checkpoint import (
    CHECKPOINTS,
    load_checkpoint,
    save_checkpoint,
)
from isoflop.model.transformer import Transformer
from isoflop.posttrain.config import GrpoConfig
from isoflop.posttrain.left_out import LEFT_OUT_FILE, rows_set_aside
from isoflop.posttrain.probes import SecondMomentRow, probe_second_moments
from isoflop.posttrain.problems import ProblemSet, sampled_rewards
from isoflop.posttrain.reference import load_reference
from isoflop.posttrain.rollouts import (
    Prompted,
    Rollout,
    answers_of_parts,
    check_finite,
    encode_prompts,
    forget_other_steps,
    prompts_of_step,
    roll_out,
    step_name,
)
from isoflop.posttrain.rows import (
    GrpoStepRow,
    GrpoTimingRow,
    GrpoValidationRow,
    LeftOutRow,
)
from isoflop.posttrain.update import NOTHING_SEEN, UpdateResult, score, update
from isoflop.records import atomic_file, flush_to_disk, write_rows
from isoflop.tokens.tokenizer import Tokenizer
from isoflop.train.state import (
    append_row,
    finish_rows,
    load_state,
    save_state,
)

ROW_FILES = {
    "steps.jsonl": GrpoStepRow,
    "validation.jsonl": GrpoValidationRow,
    "timings.jsonl": GrpoTimingRow,
    "probes.jsonl": SecondMomentRow,
}

RESUME_SECONDS = 60.0
"""Between saved states: what a kill costs at most, besides the step at work. Chosen."""

Progress = Callable[[int, int, float | None], None]
"""Called with steps done, steps of the run, and the mean reward of the last."""


@dataclass(frozen=True, kw_only=True)
class GrpoRun:
    """Everything that decides the rows of one run."""

    checkpoint: Path
    tokenizer: Tokenizer
    config: GrpoConfig
    train: ProblemSet
    validation: tuple[ProblemSet, ...]
    digest: str
    """Of config, checkpoint, reference and problems; a saved state of another digest is refused."""
    reference: Path | None = None
    """The checkpoint that the divergence is taken from. None: the one that is trained."""
    device: str = "cpu"


def train_grpo(run: GrpoRun, folder: Path, progress: Progress) -> None:
    """Post-train to the end, from the folder's saved state if there is one; the last state stays.

    Raises:
        UserError: unusable problems or checkpoint, a reward that is missing, a loss that is not finite,
            or too little memory.
    """
    try:
        _train(run, folder, progress)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # On a CPU PyTorch has no type of its own for it.
        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not full and "DefaultCPUAllocator" not in str(error):
            raise
        config = run.config
        raise UserError(
            f"out of memory: lower micro_batch_answers={config.micro_batch_answers}, "
            f"batch_sequences={config.batch_sequences} or "
            f"max_response_tokens={config.max_response_tokens}, and run again to go on"
        ) from None


def _train(run: GrpoRun, folder: Path, progress: Progress) -> None:
    config = run.config
    model = load_checkpoint(run.checkpoint, device=run.device).train()
    _check_tokenizer(run.tokenizer, model)
    reference = None
    if config.divergence_coefficient > 0:
        reference = load_reference(run.reference or run.checkpoint, model.config, run.device)
    optimizer = make_optimizer(model, config)
    room = model.config.sequence_length
    prompts, left_out = encode_prompts(run.train, run.tokenizer, config, room, "train")
    held = [_held_out(run, problems, room) for problems in run.validation]
    left_out += rows_set_aside(run.train, "train")
    for one in held:
        left_out += [*one.left_out, *rows_set_aside(one.problems, "validation")]
    write_rows(folder / LEFT_OUT_FILE, left_out)
    done = load_state(folder, model, optimizer, run.digest, ROW_FILES)
    if done == 0:
        # A run that was killed before its first saved state begins again, step 0 included.
        for name in ("validation.jsonl", "probes.jsonl"):
            write_rows(folder / name, [])
        _validate(run, model, held, 0, folder)
        _probe(run, model, 0, folder)
    saved, saved_step = time.monotonic(), done
    for step in range(done + 1, config.num_steps + 1):
        forget_other_steps(folder / "rollouts", step)
        row = _step(run, model, reference, optimizer, prompts, held, step, folder)
        progress(step, config.num_steps, row.reward)
        # The last one too: a kill before the folder is marked as complete then repeats nothing.
        if step == config.num_steps or time.monotonic() - saved > RESUME_SECONDS:
            _flush_answers(folder, range(saved_step + 1, step + 1))
            save_state(folder, step, model, optimizer, run.digest, ROW_FILES)
            saved, saved_step = time.monotonic(), step
    finish_rows(folder, ROW_FILES)
    shutil.rmtree(folder / "rollouts", ignore_errors=True)


def _answers_path(folder: Path, step: int) -> Path:
    return folder / "answers" / f"{step_name(step)}.jsonl"


def _write_answers(folder: Path, parts: Path, step: int) -> None:
    """The answers of a finished step in one file; the disk is waited for with the state."""
    path = _answers_path(folder, step)
    with atomic_file(path, survives_power_cut=False) as part, part.open("wb") as out:
        out.writelines(answers_of_parts(parts, step))


def _flush_answers(folder: Path, steps: range) -> None:
    """Make the answers survive a power cut; a state must not be later than they are."""
    for step in steps:
        flush_to_disk(_answers_path(folder, step))
    flush_to_disk(folder / "answers")


def make_optimizer(model: Transformer, config: GrpoConfig) -> torch.optim.AdamW:
    """AdamW over all weights, decay on all, as the study's released code has it."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _check_tokenizer(tokenizer: Tokenizer, model: Transformer) -> None:
    if tokenizer.vocabulary_size > model.config.vocabulary_size:
        raise UserError(
            f"{tokenizer.path}: the tokenizer has {tokenizer.vocabulary_size} tokens but the model "
            f"{model.config.vocabulary_size}; use the tokenizer the model was trained with"
        )


def _step(
    run: GrpoRun,
    model: Transformer,
    reference: Transformer | None,
    optimizer: torch.optim.Optimizer,
    prompts: Sequence[Prompted],
    held: Sequence["_HeldOut"],
    step: int,
    folder: Path,
) -> GrpoStepRow:
    """Rollouts, updates and what follows them."""
    config, clock = run.config, _Clock()
    chosen = prompts_of_step(prompts, config, step)
    parts = folder / "rollouts"
    given = (run.tokenizer, chosen, run.train, config)
    rollouts = [
        one for part in roll_out(model.eval(), *given, step=step, folder=parts) for one in part
    ]
    rollout_seconds = clock.lap()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    mini_batches = score(model.train(), reference, rollouts, config, first_by_update=True)
    score_seconds = clock.lap()
    updates = [
        update(model, optimizer, mini_batch, config, step=step) for mini_batch in mini_batches
    ]
    update_seconds = clock.lap()
    row = _step_row(step, rollouts, updates, _change(model, before), config)
    # Answers first: a step whose row is there has its answers too.
    _write_answers(folder, parts, step)
    if (
        config.checkpoint_steps and step % config.checkpoint_steps == 0
    ) or step == config.num_steps:
        save_checkpoint(model, folder / CHECKPOINTS / step_name(step))
    clock.lap()
    if step % config.validation_steps == 0 or step == config.num_steps:
        _validate(run, model, held, step, folder)
    if config.probe_steps and (step % config.probe_steps == 0 or step == config.num_steps):
        _probe(run, model, step, folder)
    timing = GrpoTimingRow(
        step=step,
        rollout_seconds=rollout_seconds,
        score_seconds=score_seconds,
        update_seconds=update_seconds,
        validation_seconds=clock.lap(),
    )
    append_row(folder, "timings.jsonl", timing)
    append_row(folder, "steps.jsonl", row)
    return row


class _Clock:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        return passed


@torch.no_grad()
def _change(model: Transformer, before: Sequence[Tensor]) -> float:
    """L2 norm of the change of all weights."""
    norms = [(now - then).norm() for now, then in zip(model.parameters(), before, strict=True)]
    return float(torch.stack(norms).norm())


def _step_row(
    step: int,
    rollouts: Sequence[Rollout],
    updates: Sequence[UpdateResult],
    change: float,
    config: GrpoConfig,
) -> GrpoStepRow:
    rewards = [one.row.reward for one in rollouts]
    size = config.samples_per_prompt
    groups = [rewards[begin : begin + size] for begin in range(0, len(rewards), size)]
    counts = torch.stack([one.expert_counts for one in updates]).sum(dim=0).double()
    load = counts / counts.mean(dim=-1, keepdim=True)
    seen = sum((one.seen for one in updates), NOTHING_SEEN)
    divergences = [one.divergence for one in updates if one.divergence is not None]
    return GrpoStepRow(
        step=step,
        num_answers=len(rollouts),
        reward=fmean(rewards),
        reward_standard_deviation=pstdev(rewards),
        reward_deviation_within=fmean(map(pstdev, groups)),
        share_without_signal=fmean(len(set(group)) == 1 for group in groups),
        share_ungradable=fmean(not one.row.gradable for one in rollouts),
        share_truncated=fmean(one.row.finish == "length" for one in rollouts),
        response_tokens=fmean(len(one.row.response_tokens) for one in rollouts),
        policy_loss=fmean(one.policy_loss for one in updates),
        clip_share=fmean(one.clip_share for one in updates),
        largest_ratio_deviation=updates[0].largest_ratio_deviation,
        divergence=fmean(divergences) if divergences else None,
        entropy=seen.entropy / seen.num_tokens,
        gradient_l2_norm=fmean(one.gradient_l2_norm for one in updates),
        gradient_l1_norm=fmean(one.gradient_l1_norm for one in updates),
        update_l2_norm=change,
        balance_loss=_mean_layers([one.balance_loss for one in updates]),
        z_loss=_mean_layers([one.z_loss for one in updates]),
        max_expert_load=load.max().item(),
        sampler_log_prob_difference=seen.sampler_difference / seen.num_tokens,
        largest_sampler_deviation=seen.largest_sampler_deviation,
        routing_disagreement=seen.num_disagreeing / seen.num_routed,
    )


def _mean_layers(values: Sequence[Tensor]) -> tuple[float, ...]:
    return tuple(torch.stack(list(values)).mean(dim=0).tolist())


@dataclass(frozen=True)
class _HeldOut:
    """Problems of one validation source, in tokens."""

    problems: ProblemSet
    prompts: list[Prompted]
    left_out: list[LeftOutRow]


def _held_out(run: GrpoRun, problems: ProblemSet, room: int) -> _HeldOut:
    prompts, left_out = encode_prompts(problems, run.tokenizer, run.config, room, "validation")
    return _HeldOut(problems, prompts[: run.config.validation_problems], left_out)


def _validate(
    run: GrpoRun, model: Transformer, held: Sequence[_HeldOut], step: int, folder: Path
) -> None:
    """Greedy answers to every validation source, a row each."""
    config = run.config
    for one in held:
        samples = greedy(
            model.eval(),
            run.tokenizer,
            [prompt.tokens for prompt in one.prompts],
            max_new_tokens=config.max_response_tokens,
            batch_sequences=config.batch_sequences,
        )
        check_finite(samples, one.prompts)
        answers = [
            (prompt.problem, sample.text, sample.tokens)
            for prompt, sample in zip(one.prompts, samples, strict=True)
        ]
        rewards = sampled_rewards(one.problems, answers, run.tokenizer)
        values = [reward.value for reward in rewards]
        # Shares of right answers are never known exactly, not even where none or all are right.
        shares = all(0.0 <= value <= 1.0 for value in values)
        mean, error = (share_and_error if shares else mean_and_error)(values)
        row = GrpoValidationRow(
            step=step,
            source=one.problems.name,
            num_problems=len(one.prompts),
            num_left_out=len(one.left_out),
            num_set_aside=len(one.problems.set_aside),
            reward=mean,
            reward_standard_error=error,
            share_ungradable=fmean(not reward.gradable for reward in rewards),
            response_tokens=fmean(len(sample.tokens) for sample in samples),
        )
        append_row(folder, "validation.jsonl", row)


def _probe(run: GrpoRun, model: Transformer, step: int, folder: Path) -> None:
    if run.config.probe_steps is None:
        return
    for row in probe_second_moments(model, run.tokenizer, step=step):
        append_row(folder, "probes.jsonl", row)
