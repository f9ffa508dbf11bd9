"""Our GRPO against TRL's GRPOTrainer on the exported checkpoint: the same loss and gradients, and speed.

    python benchmarks/grpo_against_trl.py CHECKPOINT [--prompt-tokens 12] [--tokens 32] [--rounds 5]

First the same rollouts, rewards, earlier and reference log-probabilities (noise around the present
ones, so that ratios pass both clips), for five option sets: loss, and every weight's gradient, which
TRL's model gives in Hugging Face's layout and `isoflop import` reads. Once with equal advantages, where
both must agree, or no speeds are told; and once with those that TRL makes of the rewards, which add
1e-4 to a group's deviation where ours add 1e-6: what that changes is told.

Then seconds a step of both trainers in turns: 16 prompts of `--prompt-tokens`, 8 answers of exactly
`--tokens` each, float32, one thread, no reward cost; by the wall's clock, and of the processor, which other
work on the machine changes less. TRL has the settings that were fastest for it, see `trl_trainer`.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from endless import Endless
from isoflop.allocator import keep_freed_memory
from isoflop.model.checkpoint import load_checkpoint, load_tensors
from isoflop.model.huggingface.export import export_checkpoint
from isoflop.model.huggingface.load import import_checkpoint
from isoflop.model.huggingface.tokenizer import study_tokenizer
from isoflop.model.transformer import Transformer
from isoflop.posttrain.config import GrpoConfig, ProblemSource
from isoflop.posttrain.grpo import aggregate, divergence, group_advantages
from isoflop.posttrain.loop import GrpoRun, train_grpo
from isoflop.posttrain.policy import Answer, AnswerBatch, say
from isoflop.posttrain.problems import ProblemSet
from isoflop.posttrain.rewards import Reward
from isoflop.posttrain.update import NOTHING_SEEN, MicroBatch, MiniBatch, update
from isoflop.sweep.lineage import open_tokenizer
from isoflop.tokens.config import TokenizerConfig

PROMPTS, SAMPLES, TOKENS, PROMPT_TOKENS = 16, 8, 32, 12
TOLERANCE = 1e-4
"""Relative, of the loss and of each gradient's norm: float32 sums in other orders."""

OPTIONS = {
    "grpo, no divergence": {"loss_type": "grpo", "beta": 0.0},
    "grpo, divergence 0.04": {"loss_type": "grpo", "beta": 0.04},
    "bnpo, divergence 0.001, not weighed by the ratio": {
        "loss_type": "bnpo",
        "beta": 0.001,
        "use_bias_correction_kl": False,
    },
    "dr_grpo, no division by the deviation": {
        "loss_type": "dr_grpo",
        "beta": 0.0,
        "scale_rewards": "none",
    },
    "bnpo, clip 0.1 to 0.3, temperature 0.7": {
        "loss_type": "bnpo",
        "beta": 0.01,
        "epsilon": 0.1,
        "epsilon_high": 0.3,
        "temperature": 0.7,
    },
}
AGGREGATION = {"grpo": "sequence_mean", "bnpo": "token_mean", "dr_grpo": "constant"}
"""TRL's names of how tokens become one number, in ours."""


def random_answers(model: Transformer, seed: int) -> list[Answer]:
    source = torch.Generator().manual_seed(seed)
    size = model.config.vocabulary_size
    answers = []
    for place in range(PROMPTS * SAMPLES):
        prompt = torch.randint(2, size, (PROMPT_TOKENS,), generator=source)
        length = 4 + (place * 7) % (TOKENS - 4)
        response = torch.randint(2, size, (length,), generator=source)
        answers.append(Answer(prompt=tuple(prompt.tolist()), response=tuple(response.tolist())))
    return answers


class Sides:
    """The same weights for both: the checkpoint, and its export for TRL."""

    def __init__(self, checkpoint: Path, home: Path):
        self.checkpoint = checkpoint
        reader = open_tokenizer(checkpoint, None, None)
        config = TokenizerConfig(path=str(reader.path), end_of_text=reader.end_of_text)
        length = load_checkpoint(checkpoint).config.sequence_length
        self.folder = home / "hf"
        files = study_tokenizer(reader.path, config, length)
        export_checkpoint(checkpoint, self.folder, tokenizer=files)


def trl_trainer(folder: Path, home: Path, prompts: list[str], **options: Any) -> GRPOTrainer:
    """With its fastest settings: without checkpointing, which is its default and saves memory at the
    cost of a second forward pass, and with grouped products of the experts and a growing cache, which
    are transformers' defaults (eager experts, batched ones and a static cache were slower)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = GRPOConfig(
        **{
            "output_dir": str(home / "trl"),
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "router_aux_loss_coef": 0.0,
            "max_completion_length": TOKENS,
            "num_generations": SAMPLES,
            "per_device_train_batch_size": PROMPTS * SAMPLES,
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "gradient_checkpointing": False,
            "learning_rate": 1e-5,
            **options,
        }
    )
    return GRPOTrainer(
        model=model,
        args=config,
        reward_funcs=lambda completions, **_: [float(len(c) % 3) for c in completions],
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )


def padded(rows: list[tuple[int, ...]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        where = slice(longest - len(row), None) if left else slice(len(row))
        ids[place, where], mask[place, where] = torch.tensor(row), 1
    return ids, mask


def compare_losses(sides: Sides, name: str, options: dict[str, Any], home: Path) -> dict[str, Any]:
    """Loss and gradients of both sides on one option set."""
    ours = load_checkpoint(sides.checkpoint).train()
    answers = random_answers(ours, seed=7)
    rewards = torch.tensor([float(len(one.response) % 3) for one in answers])
    scale = "none" if options.get("scale_rewards") == "none" else "group_std"
    advantages = group_advantages(rewards.view(PROMPTS, SAMPLES), scale=scale).flatten()
    temperature = options.get("temperature", 1.0)
    batch = AnswerBatch.of(answers, torch.device("cpu"))
    with torch.no_grad():
        now = say(ours, batch, temperature=temperature).log_probs
    source = torch.Generator().manual_seed(3)
    # Ratios beyond both clips, and divergences below the bound of ten nats that TRL does not have.
    old = now + 0.2 * torch.randn(now.shape, generator=source)
    base = now + 0.5 * torch.randn(now.shape, generator=source)
    config = GrpoConfig(
        train=ProblemSource(task="probes"),
        prompts_per_step=PROMPTS,
        mini_batch_prompts=PROMPTS,
        samples_per_prompt=SAMPLES,
        max_response_tokens=TOKENS,
        temperature=temperature,
        clip_low=options.get("epsilon", 0.2),
        clip_high=options.get("epsilon_high", options.get("epsilon", 0.2)),
        aggregation=AGGREGATION[options["loss_type"]],
        divergence_coefficient=options["beta"],
        divergence_by_ratio=options.get("use_bias_correction_kl", True),
        max_gradient_norm=1e9,
    )
    part = MicroBatch(
        batch=batch,
        advantages=advantages,
        sampler_log_probs=old,
        old_log_probs=old,
        reference_log_probs=base if options["beta"] else None,
        seen=NOTHING_SEEN,
    )
    mini_batch = MiniBatch([part], int(batch.mask.sum()), len(answers))
    still = torch.optim.SGD(ours.parameters(), lr=0.0)
    seen = update(ours, still, mini_batch, config, step=1)
    weighed = _weighed_divergence(config, batch, now, old, base)
    ours_loss = seen.policy_loss + config.divergence_coefficient * weighed
    found = {"options": name, "clip_share": seen.clip_share}
    found["largest_ratio_deviation"] = seen.largest_ratio_deviation
    theirs = trl_advantages(rewards.view(PROMPTS, SAMPLES), scale=scale).flatten()
    apart = (theirs - advantages).abs() / advantages.abs().clamp(min=1e-12)
    found["largest_relative_difference_of_an_advantage"] = apart.max().item()
    for kind, given in (("equal advantages", advantages), ("its own advantages", theirs)):
        folder = home / kind.replace(" ", "-")
        model, loss = trl_backward(sides, folder, options, answers, (given, old, base))
        differences = gradient_differences(ours, model, folder)
        found[kind] = {
            "loss": {"ours": ours_loss, "trl": loss},
            "relative_difference_of_loss": abs(ours_loss - loss) / abs(loss),
            "largest_relative_difference_of_a_gradient": max(differences.values()),
        }
    return found


def trl_advantages(rewards: torch.Tensor, *, scale: str) -> torch.Tensor:
    """As TRL 1.16's trainer makes them of rewards, problem by sample: 1e-4 beside the deviation."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred if scale == "none" else centred / (rewards.std(dim=1, keepdim=True) + 1e-4)


def trl_backward(
    sides: Sides,
    home: Path,
    options: dict[str, Any],
    answers: list[Answer],
    given: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> tuple[Any, float]:
    """TRL's model with its gradients, and its loss; `given` are advantages, and the log-probabilities of
    the earlier policy and of the reference."""
    trainer = trl_trainer(sides.folder, home, ["x"] * PROMPTS, **options)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    prompt_ids, prompt_mask = padded([one.prompt for one in answers], left=True)
    completion_ids, completion_mask = padded([one.response for one in answers], left=False)
    advantages, old, base = given
    loss = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": completion_ids,
            "completion_mask": completion_mask,
            "advantages": advantages,
            "old_per_token_logps": old,
            "ref_per_token_logps": base,
        },
    )
    loss.backward()
    return trainer.model, loss.item()


def _weighed_divergence(
    config: GrpoConfig, batch: AnswerBatch, now: torch.Tensor, old: torch.Tensor, base: torch.Tensor
) -> float:
    """The divergence as the loss adds it up; the row of a step tells the mean over tokens."""
    estimates = divergence(
        now, base, config.divergence, old_log_probs=old if config.divergence_by_ratio else None
    )
    return aggregate(
        estimates,
        batch.mask,
        config.aggregation,
        num_tokens=int(batch.mask.sum()),
        num_sequences=len(batch.mask),
        max_tokens=config.max_response_tokens,
    ).item()


def gradient_differences(ours: Transformer, theirs: Any, home: Path) -> dict[str, float]:
    """Of each weight, |ours - TRL's| / |TRL's| of the gradient; TRL's read through an import."""
    with torch.no_grad():
        for weights in theirs.parameters():
            weights.copy_(torch.zeros_like(weights) if weights.grad is None else weights.grad)
    theirs.save_pretrained(home / "hf")
    import_checkpoint(home / "hf", home / "ours")
    gradients, _ = load_tensors(home / "ours" / "model.safetensors")
    found = {}
    for name, weights in ours.named_parameters():
        norm = gradients[name].norm().item()
        found[name] = (weights.grad - gradients[name]).norm().item() / norm if norm else 0.0
    return found


Seconds = np.ndarray
"""By the wall's clock, and of the processor."""


def clocks() -> Seconds:
    return np.array([time.perf_counter(), time.process_time()])


def seconds_of_ours(
    checkpoint: Path, prompts: list[str], tokens: int, steps: int, folder: Path
) -> Seconds:
    from isoflop.evaluate.tasks.problem import Problem

    problems = tuple(
        Problem(id=str(n), task="x", prompt=p, answer="x", golds=("x",), choices=None, program=None)
        for n, p in enumerate(prompts)
    )
    config = GrpoConfig(
        train=ProblemSource(task="probes"),
        num_steps=steps + 1,
        prompts_per_step=PROMPTS,
        mini_batch_prompts=PROMPTS,
        samples_per_prompt=SAMPLES,
        micro_batch_answers=PROMPTS * SAMPLES,
        max_response_tokens=tokens,
        learning_rate=1e-5,
        divergence_coefficient=0.04,
        validation_steps=10**6,
        context_start="nothing",
    )
    times = [clocks()]
    run = GrpoRun(
        checkpoint=checkpoint,
        tokenizer=Endless(open_tokenizer(checkpoint, None, None)),
        config=config,
        train=ProblemSet(
            name="x",
            problems=problems,
            rewards=lambda answers: [
                Reward(value=float(len(text) % 3), gradable=True) for _, text in answers
            ],
        ),
        validation=(),
        digest="x",
    )
    train_grpo(run, folder, lambda *_: times.append(clocks()))
    # The first step also loads the model.
    return (times[-1] - times[1]) / steps


def seconds_of_trl(
    sides: Sides, prompts: list[str], tokens: int, steps: int, home: Path
) -> Seconds:
    class Times(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.times: list[Seconds] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(clocks())

    trainer = trl_trainer(
        sides.folder,
        home,
        prompts,
        beta=0.04,
        max_steps=steps + 1,
        max_completion_length=tokens,
        generation_kwargs={"min_new_tokens": tokens},
    )
    clock = Times()
    trainer.add_callback(clock)
    trainer.train()
    return (clock.times[-1] - clock.times[0]) / steps


def prompts_of(checkpoint: Path, tokens: int) -> list[str]:
    """Different texts of so many tokens, or one fewer."""
    tokenizer = open_tokenizer(checkpoint, None, None)
    texts = []
    for number in range(PROMPTS):
        text = f"{number:02d}"
        while len(tokenizer.encode(text + f" {number} a")) <= tokens:
            text += f" {number} a"
        texts.append(text)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=PROMPT_TOKENS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    # For both: they run in this process.
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        sides = Sides(arguments.checkpoint, home)
        losses = [
            compare_losses(sides, *one, home / str(n)) for n, one in enumerate(OPTIONS.items())
        ]
        worst = max(
            max(
                row["equal advantages"]["relative_difference_of_loss"],
                row["equal advantages"]["largest_relative_difference_of_a_gradient"],
            )
            for row in losses
        )
        result: dict[str, Any] = {"losses": losses, "worst_relative_difference": worst}
        if not worst <= TOLERANCE or math.isnan(worst):
            print(json.dumps(result, indent=2))
            raise SystemExit("losses or gradients differ: no speed is told")
        prompts = prompts_of(arguments.checkpoint, arguments.prompt_tokens)
        size = (prompts, arguments.tokens, arguments.steps)
        seconds: dict[str, list[Seconds]] = {"ours": [], "trl": []}
        for turn in range(arguments.rounds):
            folder = home / f"run-{turn}"
            folder.mkdir()
            seconds["ours"].append(seconds_of_ours(arguments.checkpoint, *size, folder))
            seconds["trl"].append(seconds_of_trl(sides, *size, home))
        for place, clock in enumerate(("wall", "processor")):
            both = {name: [one[place] for one in found] for name, found in seconds.items()}
            ratios = [b / a for a, b in zip(both["ours"], both["trl"], strict=True)]
            result[clock] = {
                "seconds_a_step": {name: statistics.median(found) for name, found in both.items()},
                "ratio_median": statistics.median(ratios),
                "ratio_least": min(ratios),
                "ratio_most": max(ratios),
            }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
