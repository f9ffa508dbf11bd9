"""One run of GRPO in a folder of its own, named by everything that decides its rows.

<out>/grpo/<name>-<digest>/    config.json, env.json, rows as `loop` writes them, rollouts.html, DONE
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from isoflop.allocator import keep_freed_memory
from isoflop.config import UserError
from isoflop.evaluate.tasks.load import problems_digest
from isoflop.folders import StageFolder, file_digest, stage_folder, working_in
from isoflop.posttrain.config import GrpoConfig
from isoflop.posttrain.loop import GrpoRun, Progress, train_grpo
from isoflop.posttrain.page import write_page
from isoflop.posttrain.problems import ProblemSet, load_problems
from isoflop.posttrain.reference import model_digest
from isoflop.posttrain.rewards import RewardFunction, program_limits
from isoflop.sandbox import Sandbox
from isoflop.tokens.tokenizer import Tokenizer
from isoflop.train.state import forget_state


@dataclass(frozen=True, kw_only=True)
class GrpoStage:
    """Everything that the rows depend on."""

    grpo: GrpoConfig
    checkpoint: str
    """Digest of the weights and of the config that computes with them."""
    reference: str | None
    """The same of the model that the divergence is taken from. None: no divergence is taken."""
    tokenizer: str
    """Digest of the tokenizer's file."""
    train: str
    """Digest of the problems as they are asked."""
    validation: tuple[str, ...]
    reward: str
    """"config", or the name that the caller gives a reward of its own."""


def run_grpo(
    checkpoint: Path,
    tokenizer: Tokenizer,
    config: GrpoConfig,
    *,
    out: Path,
    name: str,
    progress: Progress,
    reference: Path | None = None,
    rewards: RewardFunction | None = None,
    reward_name: str = "config",
    device: str = "cpu",
) -> Path:
    """The folder of the finished run, made or found complete.

    Args:
        reference: the checkpoint that the divergence is taken from. None: the one that is trained.
        rewards: in place of the config's, for training and validation; see `rewards.each` for a
            function of one text.
        reward_name: names `rewards` in the folder's digest: another reward, another name. Needed with them.

    Raises:
        UserError: another process works in the folder, or see `train_grpo` and `load_problems`.
    """
    if (rewards is None) != (reward_name == "config"):
        raise UserError(
            f"reward_name={reward_name!r}: a reward of your own needs a name of its own, by which its "
            "runs are told from others', and only such a reward has one"
        )
    _check_device(device)
    if reference is not None and config.divergence_coefficient == 0:
        raise UserError(
            f"reference={reference} has no effect with divergence_coefficient=0; set that above 0, "
            "or leave the reference out"
        )
    keep_freed_memory()
    with _sandbox(config) as sandbox:
        sets = _sets(config, sandbox, None)
        if rewards is not None:
            sets = [_rewarded_by(one, rewards) for one in sets]
        given = (checkpoint, tokenizer, config, sets)
        folder = grpo_folder(*given, out, name, reward_name, reference)
        if not folder.done:
            _work(folder, *given, progress, device, device, reference)
    # Of a run that was killed after its mark, too.
    forget_state(folder.path)
    return folder.path


def run_grpo_in(
    folder: StageFolder,
    checkpoint: Path,
    tokenizer: Tokenizer,
    config: GrpoConfig,
    *,
    own: Mapping[str, Path],
    progress: Progress,
    device: str = "cpu",
    device_name: str = "cpu",
) -> None:
    """As `run_grpo`, in a folder that a study has named.

    Args:
        own: files of the study's own questions by their source of text.
        device_name: as the folder's env.json is to have it.

    Raises:
        UserError: as `run_grpo`.
    """
    if not folder.done:
        keep_freed_memory()
        with _sandbox(config) as sandbox:
            sets = _sets(config, sandbox, own)
            _work(folder, checkpoint, tokenizer, config, sets, progress, device, device_name)
    forget_state(folder.path)


def _check_device(device: str) -> None:
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"device={device!r} must be cpu, or cuda where PyTorch finds a GPU")


def _sandbox(config: GrpoConfig) -> Sandbox:
    """Where the answers' programs run, within the config's time."""
    return Sandbox(limits=program_limits(config.program_seconds))


def _sets(config: GrpoConfig, sandbox: Sandbox, own: Mapping[str, Path] | None) -> list[ProblemSet]:
    """Training problems first, then those of each validation source."""
    sources = (config.train, *config.validation)
    return [load_problems(source, config.reward, sandbox, own) for source in sources]


def _work(
    folder: StageFolder,
    checkpoint: Path,
    tokenizer: Tokenizer,
    config: GrpoConfig,
    sets: Sequence[ProblemSet],
    progress: Progress,
    device: str,
    device_name: str,
    reference: Path | None = None,
) -> None:
    run = GrpoRun(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        config=config,
        train=sets[0],
        validation=tuple(sets[1:]),
        digest=folder.digest,
        reference=reference,
        device=device,
    )
    with working_in(folder, device=device_name) as path:
        train_grpo(run, path, progress)
        write_page(path, tokenizer)
        folder.finish()


def grpo_folder(
    checkpoint: Path,
    tokenizer: Tokenizer,
    config: GrpoConfig,
    sets: Sequence[ProblemSet],
    out: Path,
    name: str,
    reward_name: str,
    reference: Path | None,
) -> StageFolder:
    """The folder's name, without making it."""
    train, *validation = (problems_digest(one.problems) for one in sets)
    trained = model_digest(checkpoint)
    frozen = trained if reference is None else model_digest(reference)
    stage = GrpoStage(
        grpo=config,
        checkpoint=trained,
        reference=frozen if config.divergence_coefficient > 0 else None,
        tokenizer=file_digest(tokenizer.path),
        train=train,
        validation=tuple(validation),
        reward=reward_name,
    )
    return stage_folder(out, "grpo", name, stage)


def _rewarded_by(problems: ProblemSet, rewards: RewardFunction) -> ProblemSet:
    return replace(problems, rewards=rewards)
