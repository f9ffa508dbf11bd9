"""The command line. Every command is one documented Python call; see docs/reference.md.

Exit status 0 when the work is done, 1 when a cell or a law failed, 2 with one line for a
user's mistake, 130 after an interrupt (run again to go on).
"""

import errno
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from isoflop import __version__
from isoflop.analysis.commands import figure_command, fit_command, recommend_command
from isoflop.bench.commands import app as bench_app
from isoflop.commands.evaluate import app as evaluate_app
from isoflop.commands.export import export_command
from isoflop.commands.grpo import app as grpo_app
from isoflop.commands.megatron import MegatronOptions, import_log_command, run_on_megatron
from isoflop.commands.plan import (
    AsJson,
    Changes,
    ExpertParallel,
    Name,
    Ranks,
    Shard,
    TensorParallel,
    experiment_of,
    layout_of,
    plan_command,
)
from isoflop.commands.status import (
    Launcher,
    LauncherOption,
    SlurmOptions,
    slurm_options,
    status_command,
)
from isoflop.config import UserError
from isoflop.corpus.commands import app as corpus_app
from isoflop.records import CellState
from isoflop.terminal import output_console

app = typer.Typer(
    help="A laboratory for pre-training decisions: how sparse, on which data.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(evaluate_app)
app.add_typer(grpo_app)
app.add_typer(bench_app, name="bench")
app.add_typer(corpus_app, name="corpus")
app.command("fit")(fit_command)
app.command("recommend")(recommend_command)
app.command("figure")(figure_command)
app.command("export")(export_command)
app.command("status")(status_command)
app.command("plan")(plan_command)
app.command("import-log")(import_log_command)


@app.command("list")
def list_experiments(as_json: AsJson = False) -> None:
    """Experiments, what each shows, what it costs."""
    from isoflop.experiments import EXPERIMENTS, load_experiment

    experiments = [load_experiment(name) for name in EXPERIMENTS]
    if as_json:
        rows = [
            {"name": e.name, "summary": e.summary, "runs": len(e.cells) * len(e.seeds)}
            for e in experiments
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for experiment in experiments:
        runs = f"{len(experiment.cells)} cells x {len(experiment.seeds)} seeds"
        typer.echo(f"{experiment.name:10} {runs:20} {experiment.summary}")


@app.command()
def run(
    name: Name,
    out: Annotated[Path, typer.Option(help="Folder that holds the study's folder.")] = Path("runs"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at once. Default: one a GPU, or one a core.")
    ] = None,
    changes: Changes = None,
    mirror: Annotated[
        list[str] | None, typer.Option(help="Show rows live: tensorboard, wandb. Repeatable.")
    ] = None,
    ranks: Ranks = None,
    shard: Shard = 1,
    expert_parallel: ExpertParallel = 1,
    tensor_parallel: TensorParallel = 1,
    launcher: LauncherOption = Launcher.POOL,
    slurm: SlurmOptions = None,
    megatron: MegatronOptions = None,
) -> None:
    """Run or resume a study; ends with a report."""
    experiment = experiment_of(name, changes)
    root = out / experiment.name
    options = slurm_options(launcher, slurm)
    if launcher is Launcher.MEGATRON:
        if layout_of(ranks, shard, expert_parallel, tensor_parallel) or workers or mirror:
            raise UserError(
                "--workers, --ranks and --mirror are not of --launcher megatron; see --megatron"
            )
        _end(run_on_megatron(experiment, root, megatron))
        return
    if megatron:
        raise UserError("--megatron is of --launcher megatron; give that too")
    from isoflop.sweep.run import run_study

    states = run_study(
        experiment,
        root,
        num_workers=workers,
        mirrors=tuple(mirror or ()),
        command=("isoflop", *sys.argv[1:]),
        layout=layout_of(ranks, shard, expert_parallel, tensor_parallel),
        launcher=launcher.value,
        slurm_options=options,
    )
    typer.echo(f"{root / 'report.html'}\n{root / 'table.csv'}")
    _end(states)


def _end(states: list[CellState]) -> None:
    """Tell what is not done, and end with status 1 if anything is."""
    failed = [state for state in states if state.state != "done"]
    for state in failed:
        typer.echo(f"{state.run} {state.state}: {state.reason}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    path: Annotated[
        Path, typer.Argument(help="A study's folder, e.g. runs/demo, or any table of runs.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for a table's report. Default: NAME-report.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Relative difference of active parameters that is equal.")
    ] = 0.01,
) -> None:
    """Join the rows of a study again, or read any table of runs, and write tables and report."""
    from isoflop.analysis.families import TOLERANCE

    if (path / "study.json").is_file():
        from isoflop.sweep.run import report_study

        if out is not None:
            raise UserError(f"{path}: a study's report lies in its folder; leave --out {out} out")
        if tolerance != TOLERANCE:
            raise UserError(
                f"{path}: a study was matched when it was designed; leave --tolerance out"
            )
        report_study(path)
        folder = path
    else:
        from isoflop.analysis.report import report_table

        folder = out or Path(f"{path.stem}-report")
        report_table(path, folder, tolerance)
    typer.echo(f"{folder / 'report.html'}\n{folder / 'table.csv'}")


@app.command("import")
def import_command(
    directory: Annotated[Path, typer.Argument(help="A Mixtral directory of safetensors.")],
    checkpoint: Annotated[Path, typer.Argument(help="The new checkpoint folder to write.")],
) -> None:
    """Read a Mixtral directory of Hugging Face's into a checkpoint."""
    from isoflop.model.huggingface.load import import_checkpoint

    done = import_checkpoint(directory, checkpoint)
    typer.echo("\n".join([str(checkpoint), done.line(), *done.notes]))


@app.command()
def doctor(
    path: Annotated[
        Path | None, typer.Argument(help="A checkpoint, or a local Hugging Face directory.")
    ] = None,
    as_json: AsJson = False,
    device: Annotated[str, typer.Option(help="Where the model is put: cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Of the probing input.")] = 0,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Show what the sandbox keeps out here; no model.")
    ] = False,
) -> None:
    """Measure the laws that any Mixture of Experts should keep; exit status 1 if one is broken."""
    if sandbox:
        from isoflop.sandbox import Sandbox
        from isoflop.sandbox.layers import layers_to_json, layers_to_text

        if path is not None:
            raise UserError(f"{path}: --sandbox examines this machine, not a model; leave one out")
        with Sandbox(workers=1) as probed:
            layers = probed.layers()
        typer.echo(layers_to_json(layers) if as_json else layers_to_text(layers))
        return
    if path is None:
        raise UserError("name a checkpoint or a Hugging Face directory, or ask with --sandbox")
    from rich.console import Console

    from isoflop.doctor.report import diagnose, is_healthy, rows_to_json, show

    rows = diagnose(path, device=device, seed=seed, console=Console(stderr=True))
    if as_json:
        typer.echo(rows_to_json(rows))
    else:
        show(rows, output_console())
    if not is_healthy(rows):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
FULL_DISK_REMEDY = "; make room and run the same command again to go on"

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells have it."""


def main() -> int:
    """Run a command; returns the exit status. One line, never a traceback, for a user's mistake."""
    try:
        status = int(app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0)
        if status == INTERRUPTED:
            # Typer made a status of Ctrl-C and said nothing.
            raise KeyboardInterrupt
        return status
    except typer.Exit as done:
        return done.exit_code
    except TyperException as error:
        return _fail(error.format_message(), 2)
    except UserError as error:
        return _fail(str(error), 2)
    except OSError as error:
        remedy = FULL_DISK_REMEDY if error.errno in FULL_DISK else ""
        problem = error.strerror or str(error)
        return _fail(f"{error.filename or 'input or output'}: {problem}{remedy}", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; run the same command again to go on", INTERRUPTED)


def _fail(message: str, status: int) -> int:
    print(f"isoflop: {' '.join(message.splitlines())}", file=sys.stderr)
    return status


def entry() -> None:
    """The console script."""
    sys.exit(main())
