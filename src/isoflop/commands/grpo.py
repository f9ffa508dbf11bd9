"""`isoflop grpo`: post-train one checkpoint on rewards."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isoflop.config import UserError, override, to_dict

if TYPE_CHECKING:
    from isoflop.model.huggingface.export import WeightType
    from isoflop.posttrain.config import GrpoConfig, ProblemSource

app = typer.Typer()

Data = Annotated[str | None, typer.Option(help="The problems' file or folder.")]
Prompt = Annotated[
    str | None, typer.Option(help="E.g. '{question}'. Default: the question, a blank line.")
]
Validate = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]TASK=FILE", help="Asked greedily before and between. Repeatable."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Of GrpoConfig, e.g. num_steps=20."),
]

NORMAL_95 = 1.959964
"""Standard errors of a 95% interval."""


@app.command("grpo")
def grpo(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint's folder, or a run's: then its last checkpoint.")
    ],
    task: Annotated[
        str, typer.Option(help="A task of `isoflop eval`, or reasoning_gym:<data set>.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the run; a killed run goes on there.")],
    data: Data = None,
    prompt: Prompt = None,
    validate: Validate = None,
    changes: Settings = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="The divergence is taken from it. Default: where GRPO begins.",
        ),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(metavar="FILE", help="A tokenizer.json.")] = None,
    end_of_text: Annotated[str | None, typer.Option(help="Token of --tokenizer FILE.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Post-train a checkpoint by GRPO: rewards, rows of every step, answers to read."""
    from isoflop.model.checkpoint import checkpoint_folder
    from isoflop.posttrain.page import PAGE_FILE
    from isoflop.posttrain.run import run_grpo
    from isoflop.sweep.lineage import open_tokenizer

    checkpoint = checkpoint_folder(checkpoint)
    config = grpo_config(task, data, prompt, validate, changes)
    reader = open_tokenizer(checkpoint, tokenizer, end_of_text)
    folder = run_grpo(
        checkpoint,
        reader,
        config,
        out=out,
        name=task.replace(":", "-"),
        progress=_show,
        reference=None if reference is None else checkpoint_folder(reference),
        device=device,
    )
    _tell(folder, config, as_json=as_json)
    typer.echo(str(folder / PAGE_FILE), err=as_json)


def grpo_config(
    task: str, data: Data, prompt: Prompt, validate: Validate, changes: Settings
) -> "GrpoConfig":
    """The settings that the options ask for.

    Raises:
        UserError: an option without its form, or a value that is not allowed.
    """
    from isoflop.posttrain.config import GrpoConfig, ProblemSource

    def source(task: str, file: str | None, name: str | None = None) -> "ProblemSource":
        plain = ProblemSource(task=task, data=file, name=name)
        return plain if prompt is None else override(plain, f"prompt={prompt}")

    held = []
    for given in validate or []:
        name, asked, file = _validation_source(given)
        own = source(asked, file, name)
        # Problems made by procedure: other ones than those trained on.
        held.append(override(own, "seed=1") if file is None else own)
    return override(GrpoConfig(train=source(task, data), validation=tuple(held)), *(changes or []))


def _validation_source(given: str) -> tuple[str | None, str, str | None]:
    """Name, task and file of --validate; a name and reasoning-gym's file may be missing.

    >>> _validation_source("gsm8k=test.jsonl"), _validation_source("easy=gsm8k=test.jsonl")
    ((None, 'gsm8k', 'test.jsonl'), ('easy', 'gsm8k', 'test.jsonl'))
    >>> _validation_source("sums=reasoning_gym:chain_sum")
    ('sums', 'reasoning_gym:chain_sum', None)

    Raises:
        UserError: another form.
    """
    from isoflop.evaluate.tasks.names import TASKS
    from isoflop.posttrain.config import REASONING_GYM

    first, _, rest = given.partition("=")
    # A file may have "=" in its name, a name or a task not.
    named = first not in TASKS and not first.startswith(REASONING_GYM)
    name, asked = (first, rest) if named and rest else (None, given)
    task, _, file = asked.partition("=")
    if name is not None and task not in TASKS and not task.startswith(REASONING_GYM):
        # No task in either place: what stands first was meant as one.
        name, task, file = None, first, rest
    if not file and not task.startswith(REASONING_GYM):
        raise UserError(f"--validate {given!r} must have the form TASK=FILE or NAME=TASK=FILE")
    return name, task, file or None


def _show(done: int, total: int, reward: float | None) -> None:
    text = "" if reward is None else f", reward {reward:.4f}"
    typer.echo(f"step {done} of {total}{text}", err=True)


def _tell(folder: Path, config: "GrpoConfig", *, as_json: bool) -> None:
    from isoflop.posttrain.left_out import LEFT_OUT_FILE, left_out_lines
    from isoflop.posttrain.rows import GrpoValidationRow, LeftOutRow
    from isoflop.records import read_rows

    rows = list(read_rows(folder / "validation.jsonl", GrpoValidationRow))
    left_out = list(read_rows(folder / LEFT_OUT_FILE, LeftOutRow))
    if as_json:
        found = {
            "folder": str(folder),
            "config": to_dict(config),
            "validation": list(map(vars, rows)),
            "left_out": list(map(vars, left_out)),
        }
        typer.echo(json.dumps(found, indent=2))
        return
    for row in rows:
        if row.step not in (0, config.num_steps) or row.reward is None:
            continue
        when = "before" if row.step == 0 else f"after {row.step} steps"
        error = row.reward_standard_error
        spread = "" if error is None else f" +- {NORMAL_95 * error:.4f}"
        typer.echo(
            f"{row.source} {when}: {row.reward:.4f}{spread} over {row.num_problems} problems"
        )
    for line in left_out_lines(left_out):
        typer.echo(line)


def export_verl(
    checkpoint: Path,
    directory: Path,
    tokenizer: tuple[str | None, str | None],
    dtype: "WeightType",
    max_shard_bytes: int | None,
    task: str | None,
    options: tuple[Data, Prompt, Validate, Settings],
) -> None:
    """`isoflop export --to verl`.

    Args:
        tokenizer: --tokenizer and --end-of-text.
        options: as `grpo_config` has them.
    """
    from isoflop.model.checkpoint import checkpoint_folder
    from isoflop.posttrain import verl_export
    from isoflop.sweep.lineage import find_study, find_tokenizer, open_tokenizer

    if task is None:
        raise UserError("--to verl needs --task, and its problems with --data, as `isoflop grpo`")
    if max_shard_bytes is not None:
        raise UserError("--max-shard-bytes goes with --to hf")
    checkpoint = checkpoint_folder(checkpoint)
    study = find_study(checkpoint)
    done = verl_export.export_verl(
        checkpoint,
        directory,
        grpo_config(task, *options),
        tokenizer=open_tokenizer(checkpoint, *tokenizer),
        files=find_tokenizer(checkpoint, study, *tokenizer),
        lineage=None if study is None else study.lineage(),
        dtype=dtype,
    )
    typer.echo(f"{directory}\n{done.model.line()}")
    for line in done.left_out:
        typer.echo(line)
    typer.echo(f"{done.num_problems} problems; {directory / verl_export.RUN_FILE} starts it")
