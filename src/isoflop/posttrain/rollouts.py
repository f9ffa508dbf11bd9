"""The answers of one step: sampled, rewarded, and kept part by part, so that a kill loses one part.

    <folder>/rollouts/step-00000007-part-00000000.jsonl   RolloutRow, for each problem its samples
    <folder>/rollouts/step-00000007-part-00000000.npz     what the sampler noted: log-probabilities, experts

A part is some problems with all their samples, computed by themselves and always in the same way. It
survives a killed process; one that a power cut tore is noticed when it is read.
"""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from isoflop.config import UserError
from isoflop.corpus.seeds import generator, stable_hash
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.ours import OurGenerator
from isoflop.evaluate.sampling.samples import NOT_FINITE, Request, Sample, SampleRecord
from isoflop.evaluate.tasks.problem import Problem
from isoflop.model.checkpoint import STEP_PREFIX
from isoflop.model.moe import MoE, SelectionNoise
from isoflop.model.transformer import Transformer
from isoflop.posttrain.config import GrpoConfig
from isoflop.posttrain.left_out import TOO_LONG
from isoflop.posttrain.problems import ProblemSet, sampled_rewards
from isoflop.posttrain.rewards import Reward
from isoflop.posttrain.rows import LeftOutRow, RolloutRow, Split
from isoflop.records import atomic_file, read_rows, storable, storable_or_none, write_rows
from isoflop.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompted:
    """A problem with its prompt in tokens."""

    problem: Problem
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Rollout:
    """One answer with everything that an update needs of it."""

    row: RolloutRow
    record: SampleRecord


def encode_prompts(
    problems: ProblemSet,
    tokenizer: Tokenizer,
    config: GrpoConfig,
    room: int,
    split: Split,
) -> tuple[list[Prompted], list[LeftOutRow]]:
    """The problems whose prompts fit, and those that do not.

    `room` is the model's sequence length; a prompt must leave at least one token of it.

    Raises:
        UserError: a prompt without tokens, or none that fits.
    """
    start = (tokenizer.end_of_text_id,) if config.context_start == "end_of_text" else ()
    most = min(config.max_prompt_tokens, room - 1)
    kept, left_out = [], []
    for problem in problems.problems:
        tokens = (*start, *tokenizer.encode(problem.prompt))
        if not tokens:
            raise UserError(
                f"{problems.name}: problem {problem.id!r} has an empty prompt, from which nothing "
                "can be sampled; set context_start='end_of_text' or remove it"
            )
        if len(tokens) > most:
            left_out.append(
                LeftOutRow(
                    source=problems.name,
                    split=split,
                    problem=problem.id,
                    reason=TOO_LONG,
                    detail=f"{len(tokens)} tokens, at most {most}",
                    prompt_tokens=len(tokens),
                    most_tokens=most,
                )
            )
        else:
            kept.append(Prompted(problem, tokens))
    if not kept:
        raise UserError(
            f"{problems.name}: all {len(left_out)} prompts are longer than {most} tokens "
            f"(max_prompt_tokens={config.max_prompt_tokens}, the model's length {room})"
        )
    return kept, left_out


def prompts_of_step(prompts: Sequence[Prompted], config: GrpoConfig, step: int) -> list[Prompted]:
    """The problems of a step, counted from 1: an order of its own each epoch, the rest left out.

    Raises:
        UserError: fewer problems than one step needs.
    """
    steps_an_epoch = len(prompts) // config.prompts_per_step
    if not steps_an_epoch:
        raise UserError(
            f"{len(prompts)} problems are fewer than prompts_per_step={config.prompts_per_step}; "
            "lower it, with mini_batch_prompts"
        )
    epoch, place = divmod(step - 1, steps_an_epoch)
    order = list(range(len(prompts)))
    generator(config.seed, "problem order", epoch).shuffle(order)
    begin = place * config.prompts_per_step
    return [prompts[number] for number in order[begin : begin + config.prompts_per_step]]


def roll_out(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompted],
    problems: ProblemSet,
    config: GrpoConfig,
    *,
    step: int,
    folder: Path,
) -> Iterator[list[Rollout]]:
    """The samples of each part of the problems with their rewards, problems in order.

    Parts that the folder holds already are not sampled again but read, and graded again: the reward may
    have been mended since, and a step is never graded by two versions of it.

    Raises:
        UserError: logits that are not finite, or a reward that is missing.
    """
    sampler = OurGenerator(model, tokenizer, batch_sequences=config.batch_sequences, record=True)
    size = max(1, -(-config.batch_sequences // config.samples_per_prompt))
    for number, begin in enumerate(range(0, len(prompts), size)):
        rows_path = folder / f"{step_name(step)}-part-{number:08d}.jsonl"
        record_path = rows_path.with_suffix(".npz")
        asked = prompts[begin : begin + size]
        if rows_path.exists():
            found = _read_part(rows_path, record_path, asked, config)
            yield _graded_again(found, asked, problems, tokenizer, rows_path)
            continue
        with router_drift(model, config, step, number):
            samples = _sample(sampler, asked, config, step)
        rollouts = _rewarded(samples, problems, step, tokenizer)
        # The rows appear last: a part without them is made again.
        _write_records(record_path, [one.record for one in rollouts])
        write_rows(rows_path, [one.row for one in rollouts], survives_power_cut=False)
        yield rollouts


@dataclass(frozen=True)
class _Sampled:
    """One sample of a problem."""

    prompted: Prompted
    place: int
    sample: Sample


def _sample(
    sampler: OurGenerator, prompts: Sequence[Prompted], config: GrpoConfig, step: int
) -> list[_Sampled]:
    """Every problem's samples, problems in order and samples in theirs."""
    seeds = [
        {
            stable_hash(config.seed, "rollout", step, one.problem.id, place): place
            for place in range(config.samples_per_prompt)
        }
        for one in prompts
    ]
    requests = [
        Request(prompt=one.tokens, seeds=tuple(own))
        for one, own in zip(prompts, seeds, strict=True)
    ]
    sampling = Sampling(
        max_new_tokens=config.max_response_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
    )
    samples = list(sampler.generate(requests, sampling))
    check_finite(samples, prompts)
    found = [
        _Sampled(prompts[sample.request], seeds[sample.request][sample.seed], sample)
        for sample in samples
    ]
    return sorted(found, key=lambda one: (one.sample.request, one.place))


def check_finite(samples: Sequence[Sample], prompts: Sequence[Prompted]) -> None:
    """Nothing can be learnt from weights that say nothing.

    Raises:
        UserError: logits that are not finite; the problem is named.
    """
    for sample in samples:
        if sample.finish == "not_finite":
            raise UserError(
                f"problem {prompts[sample.request].problem.id!r}: {NOT_FINITE} after "
                f"{len(sample.tokens)} tokens of an answer (training diverged or the weights are "
                "damaged); begin with another checkpoint or a lower learning_rate"
            )


def _rewarded(
    samples: Sequence[_Sampled], problems: ProblemSet, step: int, tokenizer: Tokenizer
) -> list[Rollout]:
    answers = [(one.prompted.problem, one.sample.text, one.sample.tokens) for one in samples]
    rewards = sampled_rewards(problems, answers, tokenizer)
    return [
        Rollout(_row(one, reward, step, tokenizer.end_of_text_id), _record_of(one.sample))
        for one, reward in zip(samples, rewards, strict=True)
    ]


def _row(one: _Sampled, reward: Reward, step: int, end_of_text: int) -> RolloutRow:
    sample = one.sample
    ended = (end_of_text,) if sample.finish == "end_of_text" else ()
    return RolloutRow(
        step=step,
        problem=one.prompted.problem.id,
        sample=one.place,
        seed=sample.seed,
        prompt_tokens=one.prompted.tokens,
        response_tokens=(*sample.tokens, *ended),
        text=storable(sample.text),
        finish=sample.finish,
        reward=reward.value,
        gradable=reward.gradable,
        reason=storable_or_none(reward.reason),
    )


def _graded_again(
    rollouts: Sequence[Rollout],
    prompts: Sequence[Prompted],
    problems: ProblemSet,
    tokenizer: Tokenizer,
    rows_path: Path,
) -> list[Rollout]:
    """A part that was read, with what its answers earn now; its rows follow where that differs."""
    samples = len(rollouts) // len(prompts)
    asked = [one.problem for one in prompts for _ in range(samples)]
    answers = [
        (one, found.row.text, found.row.response_tokens)
        for one, found in zip(asked, rollouts, strict=True)
    ]
    rewards = sampled_rewards(problems, answers, tokenizer)
    graded = [
        Rollout(
            replace(
                one.row,
                reward=reward.value,
                gradable=reward.gradable,
                reason=storable_or_none(reward.reason),
            ),
            one.record,
        )
        for one, reward in zip(rollouts, rewards, strict=True)
    ]
    if any(new.row != old.row for new, old in zip(graded, rollouts, strict=True)):
        write_rows(rows_path, [one.row for one in graded], survives_power_cut=False)
    return graded


def _record_of(sample: Sample) -> SampleRecord:
    assert sample.record is not None
    return sample.record


@contextmanager
def router_drift(model: Transformer, config: GrpoConfig, step: int, part: int) -> Iterator[None]:
    """While it lasts, the routers choose experts by noisy logits, where the config asks for it."""
    layers = [module for module in model.modules() if isinstance(module, MoE)]
    try:
        for number, moe in enumerate(layers if config.router_drift else []):
            source = torch.Generator(device=moe.router.device)
            source.manual_seed(stable_hash(config.seed, "drift", step, part, number) % 2**63)
            moe.noise = SelectionNoise(config.router_drift, source)
        yield
    finally:
        for moe in layers:
            moe.noise = None


def _write_records(path: Path, records: Sequence[SampleRecord]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, survives_power_cut=False) as part, part.open("wb") as out:
        np.savez(
            out,
            allow_pickle=False,
            log_probs=np.concatenate([one.log_probs for one in records]),
            experts=np.concatenate([one.experts for one in records], axis=1),
            positions=np.array([one.experts.shape[1] for one in records]),
        )


def _read_part(
    rows_path: Path, record_path: Path, prompts: Sequence[Prompted], config: GrpoConfig
) -> list[Rollout]:
    """
    Raises:
        UserError: rows or record are missing, cut short, or not of each other or of these problems.
    """
    asked = [one.problem.id for one in prompts for _ in range(config.samples_per_prompt)]
    try:
        rows = list(read_rows(rows_path, RolloutRow))
        if [row.problem for row in rows] != asked:
            raise ValueError("the rows are of other problems, or some are missing")
        with np.load(record_path, allow_pickle=False) as arrays:
            log_probs = np.split(
                arrays["log_probs"], np.cumsum([len(row.response_tokens) for row in rows])
            )
            experts = np.split(arrays["experts"], np.cumsum(arrays["positions"]), axis=1)
        # After the last answer nothing is left.
        if len(experts) != len(rows) + 1 or log_probs[-1].size or experts[-1].size:
            raise ValueError("the rows are of other answers")
    except (OSError, EOFError, ValueError, KeyError, UserError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{record_path}: not what the sampler noted ({error}); delete {record_path.parent} "
            "and run again"
        ) from None
    return [
        Rollout(row, SampleRecord(log_probs=own, experts=chosen))
        for row, own, chosen in zip(rows, log_probs, experts, strict=False)
    ]


def answers_of_parts(folder: Path, step: int) -> Iterator[bytes]:
    """The lines of a step's finished parts, in order."""
    for path in sorted(folder.glob(f"{step_name(step)}-part-*.jsonl")):
        yield path.read_bytes()


def forget_other_steps(folder: Path, step: int) -> None:
    """Delete parts of steps other than `step`: they were made by other weights."""
    # No folder for each step: to remove one takes some file systems longer than all its files.
    for other in folder.glob(f"{STEP_PREFIX}*"):
        if not other.name.startswith(f"{step_name(step)}-"):
            other.unlink()


def step_name(step: int) -> str:
    """As files and folders of a step are named."""
    return f"{STEP_PREFIX}{step:08d}"
