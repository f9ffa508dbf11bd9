"""The command line. Every command is one documented Python call; see docs/reference.md.

Exit status 0 when the work is done, 1 when a cell failed, 2 with one line for a
user's mistake, 130 after an interrupt (run again to go on).
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from isoflop import __version__
from isoflop.config import UserError, override

app = typer.Typer(
    help="A laboratory for pre-training decisions: how sparse, on which data.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[
    str, typer.Argument(help="An experiment's name (see `isoflop list`) or a Python file of yours.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Change one field, e.g. train.train_tokens=1000000."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


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
def plan(name: Name, changes: Changes = None, as_json: AsJson = False) -> None:
    """The family: parameters, FLOPs, tokens, memory and estimated time, before anything is run."""
    from isoflop.design.estimate import ONE_CPU_CORE
    from isoflop.design.plan import plan as plan_cells
    from isoflop.design.plan import plan_to_json, plan_to_table

    experiment = _experiment(name, changes)
    train = experiment.train
    micro_batch = train.micro_batch_sequences or train.batch_sequences
    rows = plan_cells(
        experiment.cells,
        train_tokens=train.train_tokens,
        batch_tokens=train.batch_tokens,
        sequence_length=train.sequence_length,
        seeds=experiment.seeds,
        micro_batch_tokens=micro_batch * train.sequence_length,
        precision=train.precision,
        # The speed of a core says nothing of runs that need a GPU, which train in bfloat16.
        machine=ONE_CPU_CORE if train.precision == "float32" else None,
    )
    typer.echo((plan_to_json(rows) if as_json else plan_to_table(rows)).rstrip("\n"))


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
) -> None:
    """Run or resume a study; ends with a report."""
    from isoflop.sweep.run import run_study

    experiment = _experiment(name, changes)
    root = out / experiment.name
    states = run_study(
        experiment,
        root,
        num_workers=workers,
        mirrors=tuple(mirror or ()),
        command=("isoflop", *sys.argv[1:]),
    )
    typer.echo(f"{root / 'report.html'}\n{root / 'table.csv'}")
    failed = [state for state in states if state.state != "done"]
    for state in failed:
        typer.echo(f"{state.run} {state.state}: {state.reason}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A study's folder, e.g. runs/demo.")],
) -> None:
    """Join the rows of a study again and write its table, figures and report."""
    from isoflop.sweep.run import report_study

    report_study(folder)
    typer.echo(f"{folder / 'report.html'}\n{folder / 'table.csv'}")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _experiment(name: str, changes: list[str] | None):  # type: ignore[no-untyped-def]
    from isoflop.experiments import load_experiment

    return override(load_experiment(name), *(changes or []))


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
        return _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; run the same command again to go on", INTERRUPTED)


def _fail(message: str, status: int) -> int:
    print(f"isoflop: {' '.join(message.splitlines())}", file=sys.stderr)
    return status


def entry() -> None:
    """The console script."""
    sys.exit(main())
