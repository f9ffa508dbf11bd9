"""`isoflop bench`: its commands. PyTorch is loaded when one runs, under the allocator's settings."""

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from isoflop.allocator import KEEP_MEMORY
from isoflop.terminal import output_console

app = typer.Typer(
    help="Measure this machine: speed against peers, memory against the plan.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
ShapeNames = Annotated[
    list[str] | None,
    typer.Option("--shape", help="A shape's name. Repeatable. Default: those that take minutes."),
]
Threads = Annotated[int, typer.Option(min=1, help="Of every contestant.")]


class DeviceName(StrEnum):
    """Where models are trained."""

    CPU = "cpu"
    CUDA = "cuda"


@app.command("train")
def train(
    as_json: AsJson = False,
    shape: ShapeNames = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each of the two best.")] = 5,
    device: Annotated[DeviceName, typer.Option(help="Where.")] = DeviceName.CPU,
    peers: Annotated[
        list[str] | None,
        typer.Option(help="eager, grouped_mm, batched_mm; repeatable. none: ours alone."),
    ] = None,
    threads: Threads = 1,
) -> None:
    """Training speed against transformers' Mixtral in alternation, at equal losses."""
    use_worker_allocator()

    from isoflop.bench.report import show_speed, speed_to_json
    from isoflop.bench.results import Options
    from isoflop.bench.run import bench_train

    chosen = [] if peers == ["none"] else peers
    options = Options(device=device.value, threads=threads, rounds=rounds, peers=chosen)
    machine, results = bench_train(shape, options, _tell)
    if as_json:
        typer.echo(speed_to_json(machine, options, results))
    else:
        show_speed(machine, results, output_console())


@app.command("memory")
def memory(as_json: AsJson = False, shape: ShapeNames = None, threads: Threads = 1) -> None:
    """Peak memory of training steps on a CPU, beside what `isoflop plan` expects."""
    use_worker_allocator()

    from isoflop.bench.report import memory_to_json, show_memory
    from isoflop.bench.run import bench_memory

    machine, rows = bench_memory(shape, threads, _tell)
    if as_json:
        typer.echo(memory_to_json(machine, rows))
    else:
        show_memory(machine, rows, output_console())


def use_worker_allocator() -> None:
    """Start again with glibc's settings of a study's workers, unless they are set.

    glibc reads them when a process starts. All contestants run under the same.
    """
    missing = {name: value for name, value in KEEP_MEMORY.items() if not os.environ.get(name)}
    if not missing:
        return
    environment = {**os.environ, **missing}
    command = [sys.executable, "-m", "isoflop", *sys.argv[1:]]
    os.execve(sys.executable, command, environment)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
