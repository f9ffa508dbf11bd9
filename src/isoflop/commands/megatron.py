"""`isoflop run --launcher megatron` and `isoflop import-log`: runs that Megatron-LM trains."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from isoflop.config import UserError

MegatronOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--megatron",
        metavar="KEY=VALUE",
        help="checkout=DIR, command='bash {script}', nodes, gpus_per_node, gpu_memory_gb, "
        "pipeline_parallel, expert_parallel, micro_batch_sequences, save_interval. Repeatable.",
    ),
]

SIZES = ("pipeline_parallel", "expert_parallel", "micro_batch_sequences")
NUMBERS = {"nodes": 1, "gpus_per_node": 8, "gpu_memory_gb": 80, "save_interval": None}
NUMBERS |= dict.fromkeys(SIZES)
WORDS = ("checkout", "command")


def layouts(  # type: ignore[no-untyped-def]
    train,
    nodes: int,
    gpus_per_node: int,
    gpu_memory_gb: float,
    sizes: tuple[int | None, int | None, int | None],
):
    """The layout of each cell: that asked for, if any size is given, else chosen from memory."""
    from isoflop.design.family import Cell
    from isoflop.megatron.layout import MegatronLayout, choose_layout

    def layout_of(one: Cell) -> MegatronLayout:
        if any(sizes):
            pipeline, expert, micro = (size or 1 for size in sizes)
            return MegatronLayout(
                nodes=nodes,
                gpus_per_node=gpus_per_node,
                pipeline_parallel=pipeline,
                expert_parallel=expert,
                micro_batch_sequences=micro,
            )
        return choose_layout(
            one.model,
            nodes=nodes,
            gpus_per_node=gpus_per_node,
            gpu_memory_bytes=gpu_memory_gb * 1e9,
            batch_sequences=train.batch_sequences,
            sequence_length=train.sequence_length,
            cell=one.name,
        )

    return layout_of


def run_on_megatron(experiment, root: Path, given: list[str] | None):  # type: ignore[no-untyped-def]
    """Train a study's runs by Megatron-LM; where each stands.

    Raises:
        UserError: an option that is not known, or as `run_megatron`.
    """
    from isoflop.megatron.launch import COMMAND, MegatronLaunch, run_megatron

    words, numbers = _options(given)
    sizes = (numbers["pipeline_parallel"], numbers["expert_parallel"])
    layout_of = layouts(
        experiment.train,
        numbers["nodes"] or 1,
        numbers["gpus_per_node"] or 1,
        numbers["gpu_memory_gb"] or 1,
        (*sizes, numbers["micro_batch_sequences"]),
    )
    launch = MegatronLaunch(
        layout_of,
        words.get("command", COMMAND),
        Path(words["checkout"]) if "checkout" in words else None,
        numbers["save_interval"],
    )
    return run_megatron(experiment, root, launch, lambda line: typer.echo(line, err=True))


def _options(given: list[str] | None) -> tuple[dict[str, str], dict[str, int | None]]:
    words: dict[str, str] = {}
    numbers: dict[str, int | None] = dict(NUMBERS)
    for one in given or []:
        key, sign, value = one.partition("=")
        if not sign or key not in (*WORDS, *NUMBERS):
            raise UserError(
                f"--megatron {one!r} must be KEY=VALUE with one of {', '.join((*WORDS, *NUMBERS))}"
            )
        if key in WORDS:
            words[key] = value
        elif value.isdecimal() and int(value):
            numbers[key] = int(value)
        else:
            raise UserError(f"--megatron {one!r}: {key} must be a whole number above 0")
    return words, numbers


def import_log_command(
    log: Annotated[Path, typer.Argument(help="What a Megatron-LM training printed.")],
    directory: Annotated[Path, typer.Argument(help="Folder for the rows.")],
) -> None:
    """Read the log of a Megatron-LM training into rows: steps, validations, unreadable lines."""
    from isoflop.megatron.launch import write_log_rows
    from isoflop.megatron.log import read_log

    found = read_log(log)
    write_log_rows(found, directory)
    last = found.steps[-1] if found.steps else None
    typer.echo(
        f"{directory}: {len(found.steps)} steps"
        + (f" up to {last.step} of {last.num_steps}" if last else "")
        + f", {len(found.losses)} validations, {len(found.set_aside)} lines set aside"
    )
    for one in found.set_aside:
        values = dataclasses.asdict(one)
        typer.echo("{where}: {reason}: {detail}".format(**values), err=True)
