"""A run of GRPO for verl: weights, data, reward and configuration in one folder, ready to start.

    model/                       the checkpoint as a Hugging Face Mixtral, with its tokenizer
    data/train.parquet           problems in verl's layout, one file a validation source besides
    grpo.yaml                    laid over verl's own ppo_trainer configuration, see `verl_config`
    reward.py                    verl's custom reward function: ours, see `verl_reward`
    run.sh                       starts it; arguments are further overrides
    README.md                    what it is and needs

The folder appears whole or not at all, and may be moved.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.evaluate.tasks.problem import Problem
from isoflop.extras import import_extra
from isoflop.model.huggingface.card import Lineage
from isoflop.model.huggingface.export import (
    Exported,
    WeightType,
    checkpoint_config,
    export_checkpoint,
)
from isoflop.model.huggingface.files import whole_folder
from isoflop.model.huggingface.tokenizer import TokenizerFiles
from isoflop.posttrain.config import GrpoConfig, ProblemSource
from isoflop.posttrain.left_out import left_out_lines, rows_set_aside
from isoflop.posttrain.problems import ProblemSet, load_problems
from isoflop.posttrain.rollouts import encode_prompts
from isoflop.posttrain.rows import LeftOutRow, Split
from isoflop.posttrain.verl_config import CONFIG_NAME, VERL_VERSION, to_yaml, verl_config
from isoflop.posttrain.verl_reward import row_of
from isoflop.records import flush_to_disk
from isoflop.sandbox import Sandbox
from isoflop.tokens.tokenizer import Tokenizer

REWARD_FILE = "reward.py"
RUN_FILE = "run.sh"

REWARD_SOURCE = '''"""The reward of this run, for verl: isoflop's graders, programs in isoflop's sandbox."""

from isoflop.posttrain.verl_reward import compute_score

__all__ = ["compute_score"]
'''

RUN_SOURCE = """#!/bin/sh
# Starts the run with verl {version}; arguments are further overrides, e.g. trainer.n_gpus_per_node=4.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec python3 -m verl.trainer.main_ppo --config-path "$here" --config-name {name} \\
  "data.train_files='$here/data/train.parquet'" \\
  "data.val_files=[{validation}]" \\
  "actor_rollout_ref.model.path='$here/model'" \\
  "reward.custom_reward_function.path='$here/{reward}'" \\
  "trainer.default_local_dir='$here/checkpoints'" \\
  "$@"
"""

README = """# A run of GRPO for verl

`./run.sh` starts it, with verl {version} and isoflop in one environment and {problems} problems to train on.

- `model/`: the checkpoint as a Hugging Face Mixtral.
- `data/`: problems in verl's Parquet layout.
- `{name}.yaml`: laid over verl's `ppo_trainer`; the settings are those of `isoflop grpo`.
- `{reward}`: verl's custom reward function; it grades as `isoflop grpo` does, programs in isoflop's sandbox.

Written by isoflop, whose tests check every key against verl {version}'s own configuration and call the
reward as verl's reward manager does. No step of verl was run by them. verl's order of problems and its random
numbers are its own, and its sampling engine is another than its trainer: routers can disagree between them.
"""


@dataclass(frozen=True, kw_only=True)
class VerlExport:
    """What was written."""

    folder: Path
    model: Exported
    num_problems: int
    """To train on."""
    left_out: tuple[str, ...]
    """Problems whose prompts are too long and rows of the data that could not be read as problems: a
    line for each source that has any."""


def export_verl(
    checkpoint: Path,
    target: Path,
    config: GrpoConfig,
    *,
    tokenizer: Tokenizer,
    files: TokenizerFiles | None,
    lineage: Lineage | None = None,
    dtype: WeightType = "float32",
) -> VerlExport:
    """Write a run of GRPO from the checkpoint to the new folder `target`.

    Args:
        tokenizer: reads the problems: those whose prompts are too long are left out.
        files: the same for `model/`.

    Raises:
        UserError: a setting that verl has not, unusable problems, or see `export_checkpoint`.
    """
    context = checkpoint_config(checkpoint)[0].sequence_length
    sources = (config.train, *config.validation)
    with Sandbox() as sandbox:
        sets = [load_problems(source, config.reward, sandbox) for source in sources]
    asked, left_out = _asked(sets, tokenizer, config, context)
    settings = verl_config(config, num_problems=len(asked[0]), context=context)
    template = chat_template(tokenizer, config)
    settings["actor_rollout_ref"]["model"]["custom_chat_template"] = template
    with whole_folder(target) as part:
        model = export_checkpoint(
            checkpoint, part / "model", tokenizer=files, lineage=lineage, dtype=dtype
        )
        names = _write_data(part / "data", asked, sources, config)
        _write_texts(part, settings, names, len(asked[0]))
    return VerlExport(
        folder=target,
        model=model,
        num_problems=len(asked[0]),
        left_out=tuple(left_out_lines(left_out)),
    )


def _asked(
    sets: Sequence[ProblemSet], tokenizer: Tokenizer, config: GrpoConfig, context: int
) -> tuple[list[list[Problem]], list[LeftOutRow]]:
    """Each source's problems that `isoflop grpo` would ask, and what it would leave out."""
    asked, left_out = [], []
    for place, problems in enumerate(sets):
        split: Split = "train" if place == 0 else "validation"
        kept, too_long = encode_prompts(problems, tokenizer, config, context, split)
        # As many as are wanted of those that fit: verl leaves the others out after any cut.
        most = None if place == 0 else config.validation_problems
        asked.append([one.problem for one in kept[:most]])
        left_out += [*too_long, *rows_set_aside(problems, split)]
    return asked, left_out


def chat_template(tokenizer: Tokenizer, config: GrpoConfig) -> str:
    """Jinja that makes of a row's messages the tokens that `isoflop grpo` would read: the text alone,
    after the end of text where prompts begin with it. No role has a mark, as in arXiv:2508.18672."""
    ends = config.context_start == "end_of_text"
    start = f"{{{{ {json.dumps(tokenizer.end_of_text)} }}}}" if ends else ""
    return start + "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def _write_data(
    folder: Path,
    asked: Sequence[Sequence[Problem]],
    sources: Sequence[ProblemSource],
    config: GrpoConfig,
) -> list[str]:
    """One Parquet file a source; returns the names of those to validate on."""
    pyarrow = import_extra("pyarrow", "rl", "verl's data")
    parquet = import_extra("pyarrow.parquet", "rl", "verl's data")
    folder.mkdir()
    names = []
    for place, (problems, source) in enumerate(zip(asked, sources, strict=True)):
        split = "train" if place == 0 else "validation"
        name = "train" if place == 0 else f"validation-{place}"
        rows: list[dict[str, Any]] = [
            row_of(problem, source, config, index=index, split=split)
            for index, problem in enumerate(problems)
        ]
        path = folder / f"{name}.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        flush_to_disk(path)
        names.append(name)
    # verl opens a validation file in any case.
    return names[1:] or names


def _write_texts(folder: Path, settings: dict[str, Any], validation: list[str], count: int) -> None:
    quoted = ",".join(f"'$here/data/{name}.parquet'" for name in validation)
    named = {"version": VERL_VERSION, "name": CONFIG_NAME, "reward": REWARD_FILE}
    texts = {
        f"{CONFIG_NAME}.yaml": to_yaml(settings),
        REWARD_FILE: REWARD_SOURCE,
        RUN_FILE: RUN_SOURCE.format(validation=quoted, **named),
        "README.md": README.format(problems=count, **named),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    (folder / RUN_FILE).chmod(0o755)
