"""`isoflop status` and the options by which `isoflop run` starts runs elsewhere."""

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from isoflop.config import UserError


class Launcher(StrEnum):
    """Where the runs of a study are started."""

    POOL = "pool"
    SLURM = "slurm"
    LOCAL_JOBS = "local-jobs"
    MEGATRON = "megatron"


LauncherOption = Annotated[
    Launcher,
    typer.Option(
        help="pool: processes here. slurm: a job a run. local-jobs: the same jobs here, to try. "
        "megatron: trained by Megatron-LM, one after another."
    ),
]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="KEY=VALUE",
        help="Of sbatch, e.g. partition=gpu, gpus_per_node=8, nodes=2, timeout_min=600. Repeatable.",
    ),
]


def slurm_options(launcher: Launcher, given: list[str] | None) -> dict[str, str]:
    """Keys and values of --slurm.

    Raises:
        UserError: not KEY=VALUE, or given to another launcher.
    """
    options = {}
    for one in given or []:
        key, sign, value = one.partition("=")
        if not (key and sign and value):
            raise UserError(f"--slurm {one!r} must be KEY=VALUE, e.g. partition=gpu")
        options[key] = value
    if options and launcher not in (Launcher.SLURM, Launcher.LOCAL_JOBS):
        raise UserError("--slurm is of --launcher slurm; give that too")
    return options


def status_command(
    path: Annotated[Path, typer.Argument(help="A study's folder, e.g. runs/demo.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Where every run of a study stands: done, failed, training, and its job."""
    from isoflop.megatron.status import with_megatron
    from isoflop.sweep.status import status_text, study_status

    rows = with_megatron(path, study_status(path))
    values = [dataclasses.asdict(row) for row in rows]
    typer.echo(json.dumps(values, indent=2) if as_json else status_text(rows))
