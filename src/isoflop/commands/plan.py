"""`isoflop plan`: what a family costs, what its ranks need and send, and when its runs would end."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from isoflop.config import UserError, override

Name = Annotated[
    str, typer.Argument(help="An experiment's name (see `isoflop list`) or a Python file of yours.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Change one field, e.g. train.train_tokens=1000000."
    ),
]
Ranks = Annotated[
    int | None, typer.Option(min=1, help="Processes of one run. Default: one, without torchrun.")
]
Shard = Annotated[
    int, typer.Option(min=1, help="Ranks over which weights and optimiser are cut (FSDP2).")
]
ExpertParallel = Annotated[
    int, typer.Option(min=1, help="Ranks over which experts are spread (all-to-all).")
]
TensorParallel = Annotated[
    int, typer.Option(min=1, help="Ranks that compute heads, widths and vocabulary together.")
]
FusedExperts = Annotated[
    bool | None,
    typer.Option(
        "--fused-experts/--no-fused-experts",
        help="Memory where float32 experts go in one pass, or not. Default: as on this processor.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Play the schedule through on so many workers or GPUs."),
]
Measured = Annotated[
    Path | None,
    typer.Option(help="For --workers: a study with these cells, whose run times are used."),
]
FlopsPerSecond = Annotated[
    float | None, typer.Option(min=1, help="For --workers: speed of one worker or GPU.")
]
PricePerHour = Annotated[
    float | None, typer.Option(min=0, help="For --workers: of one worker or GPU.")
]
GpuMemory = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="For --workers: choose each cell's nodes and Megatron-LM layout by this memory of a "
        "GPU; --ranks is then the fewest GPUs of a run.",
    ),
]
GpusPerNode = Annotated[int, typer.Option(min=1, help="For --gpu-memory-gb.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@dataclass(frozen=True)
class Machines:
    """What a family would be run on, and whence its times are known."""

    workers: int
    measured: Path | None
    flops_per_second: float | None
    gpu_memory_gb: float | None
    gpus_per_node: int

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises:
            UserError: which, and what to give instead.
        """
        if (self.measured is None) == (self.flops_per_second is None):
            raise UserError(
                "--workers needs the runs' times: one of --measured and --flops-per-second"
            )
        if self.gpu_memory_gb is not None and self.measured is not None:
            raise UserError(
                "--gpu-memory-gb chooses a layout for each cell, --measured has the times of one: "
                "give --flops-per-second instead of one of them"
            )


def experiment_of(name: str, changes: list[str] | None):  # type: ignore[no-untyped-def]
    """The experiment called `name`, with the changes of --set."""
    from isoflop.experiments import load_experiment

    return override(load_experiment(name), *(changes or []))


def layout_of(  # type: ignore[no-untyped-def]
    ranks: int | None, shard: int, expert_parallel: int, tensor_parallel: int
):
    """The layout that the options ask for; None without --ranks."""
    from isoflop.design.layout import Layout

    if ranks is not None:
        return Layout(
            ranks=ranks,
            shard=shard,
            expert_parallel=expert_parallel,
            tensor_parallel=tensor_parallel,
        )
    if max(shard, expert_parallel, tensor_parallel) > 1:
        raise UserError(
            "--shard, --expert-parallel and --tensor-parallel spread a run over --ranks; give "
            "--ranks too"
        )
    return None


def plan_command(
    name: Name,
    changes: Changes = None,
    as_json: AsJson = False,
    ranks: Ranks = None,
    shard: Shard = 1,
    expert_parallel: ExpertParallel = 1,
    tensor_parallel: TensorParallel = 1,
    fused_experts: FusedExperts = None,
    workers: Workers = None,
    measured: Measured = None,
    flops_per_second: FlopsPerSecond = None,
    price_per_hour: PricePerHour = None,
    gpu_memory_gb: GpuMemory = None,
    gpus_per_node: GpusPerNode = 8,
) -> None:
    """The family: parameters, FLOPs, tokens, memory and estimated time, before anything is run.

    With --ranks, memory and bytes sent of each rank instead; with --workers, when each run would
    start and end, on --ranks workers each.
    """
    from isoflop.design.processor import fuses_experts

    experiment = experiment_of(name, changes)
    layout = layout_of(ranks, shard, expert_parallel, tensor_parallel)
    fused = fuses_experts() if fused_experts is None else fused_experts
    if workers is not None:
        asked = Machines(workers, measured, flops_per_second, gpu_memory_gb, gpus_per_node)
        typer.echo(_schedule(experiment, asked, layout, price_per_hour, as_json))
        return
    if measured or flops_per_second or price_per_hour or gpu_memory_gb:
        raise UserError(
            "--measured, --flops-per-second, --price-per-hour, --gpu-memory-gb: give --workers too"
        )
    text = (
        _family(experiment, fused, as_json)
        if layout is None
        else _ranks(experiment, layout, fused, as_json)
    )
    typer.echo(text.rstrip("\n"))


def _family(experiment, fused_experts: bool, as_json: bool) -> str:  # type: ignore[no-untyped-def]
    from isoflop.design.estimate import ONE_CPU_CORE
    from isoflop.design.plan import plan, plan_to_json, plan_to_table

    train = experiment.train
    micro_batch = train.micro_batch_sequences or train.batch_sequences
    rows = plan(
        experiment.cells,
        train_tokens=train.train_tokens,
        batch_tokens=train.batch_tokens,
        sequence_length=train.sequence_length,
        seeds=experiment.seeds,
        micro_batch_tokens=micro_batch * train.sequence_length,
        precision=train.precision,
        ops="torch" if train.ops == "torch" else "native",
        recompute=train.recompute,
        fused_experts=fused_experts,
        # The speed of a core says nothing of runs that need a GPU, which train in bfloat16.
        machine=ONE_CPU_CORE if train.precision == "float32" else None,
    )
    return plan_to_json(rows) if as_json else plan_to_table(rows)


def _ranks(experiment, layout, fused_experts: bool, as_json: bool) -> str:  # type: ignore[no-untyped-def]
    from isoflop.design.rank_plan import plan_ranks, rank_plan_to_json, rank_plan_to_table
    from isoflop.design.ranks import RankStep

    train = experiment.train
    rows = plan_ranks(
        experiment.cells,
        layout,
        batch_sequences=train.batch_sequences,
        micro_batch_sequences=train.micro_batch_sequences,
        step=RankStep(
            sequence_length=train.sequence_length,
            micro_batch_sequences=1,
            micro_batches=1,
            balance_scope=train.balance_scope,
            precision=train.precision,
            ops="torch" if train.ops == "torch" else "native",
            recompute=train.recompute,
            fused_experts=fused_experts,
        ),
    )
    return rank_plan_to_json(rows) if as_json else rank_plan_to_table(rows)


def _schedule(  # type: ignore[no-untyped-def]
    experiment, asked: Machines, layout, price_per_hour: float | None, as_json: bool
) -> str:
    """Every run in the order in which a study starts them, played through."""
    from isoflop.design.schedule import Task, schedule_to_json, schedule_to_text, simulate

    asked.check()
    ranks = 1 if layout is None else layout.ranks
    around, note = (0.0, 0.0), ""
    gpus = dict.fromkeys((cell.name for cell in experiment.cells), (ranks, None))
    if asked.gpu_memory_gb is not None:
        gpus = _layouts(experiment, asked, layout)
    if asked.measured is not None:
        from isoflop.sweep.measured import measure_study, run_seconds

        found = measure_study(asked.measured)
        seconds = run_seconds(found, experiment, layout)
        around = (found.before or 0.0, found.after or 0.0)
        note = _measurement(found, asked.workers, ranks)
    else:
        from isoflop.design.family import train_flops

        assert asked.flops_per_second is not None
        train = experiment.train
        tokens = train.num_steps * train.batch_tokens
        given = {"train_tokens": tokens, "sequence_length": train.sequence_length}
        seconds = {
            cell.name: train_flops(cell.model, **given)
            / (asked.flops_per_second * gpus[cell.name][0])
            for cell in experiment.cells
        }
    tasks = [
        Task(
            name=f"{cell.name}-s{seed}",
            seconds=seconds[cell.name],
            workers=gpus[cell.name][0],
            layout=gpus[cell.name][1],
        )
        for seed in experiment.seeds
        for cell in experiment.cells
    ]
    schedule = simulate(tasks, asked.workers, before_seconds=around[0], after_seconds=around[1])
    if as_json:
        return schedule_to_json(schedule, price_per_hour).rstrip("\n")
    return schedule_to_text(schedule, price_per_hour) + note


def _layouts(experiment, asked: Machines, layout):  # type: ignore[no-untyped-def]
    """GPUs of each cell's runs and their layout in words, by the memory of a GPU.

    Raises:
        UserError: a cell fits on no layout of so many GPUs, or ranks are not whole nodes.
    """
    from isoflop.megatron.layout import choose_layout, fewest_nodes, gpu_bytes

    assert asked.gpu_memory_gb is not None
    ranks = asked.gpus_per_node if layout is None else layout.ranks
    if ranks % asked.gpus_per_node or ranks > asked.workers:
        raise UserError(
            f"--gpu-memory-gb: a run has whole nodes of --gpus-per-node {asked.gpus_per_node}; "
            f"give --ranks as a multiple of it, at most --workers {asked.workers}"
        )
    if layout is not None and max(layout.shard, layout.expert_parallel, layout.tensor_parallel) > 1:
        raise UserError("--gpu-memory-gb chooses the layout: leave --shard and the like out")
    train, found, refused = experiment.train, {}, []
    for cell in experiment.cells:
        choose = partial(
            choose_layout,
            cell.model,
            gpus_per_node=asked.gpus_per_node,
            gpu_memory_bytes=asked.gpu_memory_gb * 1e9,
            batch_sequences=train.batch_sequences,
            sequence_length=train.sequence_length,
            cell=cell.name,
        )
        try:
            chosen = fewest_nodes(
                choose,
                least_nodes=ranks // asked.gpus_per_node,
                most_nodes=asked.workers // asked.gpus_per_node,
            )
        except UserError as error:
            refused.append(str(error))
            continue
        needed = gpu_bytes(cell.model, chosen, train.sequence_length) / 1e9
        found[cell.name] = (chosen.gpus, f"{chosen.text()}, about {needed:.0f} GB each")
    if refused:
        others = f" ({len(refused)} cells fit nowhere)" if len(refused) > 1 else ""
        raise UserError(f"--workers {asked.workers}: {refused[0]}{others}")
    return found


def _measurement(found, workers: int, ranks: int) -> str:  # type: ignore[no-untyped-def]
    """What the times of a measured study do not tell."""
    told = []
    if found.before is None or found.after is None:
        told.append("corpus, tokens and report are not in it: not measured in one go")
    if found.workers is None:
        told.append("how many runs were at work at once while it was measured is not known")
    elif found.workers != workers // ranks:
        told.append(
            f"measured with {found.workers} at once: runs side by side slow each other down, by how "
            "much is not known here"
        )
    if None in found.layouts:
        told.append(f"that each run had {ranks} ranks, as planned, is not known of all of them")
    return "; ".join([f"times of {found.root}", *told])
