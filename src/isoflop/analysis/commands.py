"""`isoflop fit`, `isoflop recommend`, `isoflop figure`: their words on the command line.

Nothing heavy is imported before a command runs.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from isoflop.config import UserError

Table = Annotated[
    Path,
    typer.Argument(
        help="A study's folder, a CSV, JSON or Parquet file, or a tracker's folder (docs/reference.md)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


class CheckpointChoice(StrEnum):
    """Which checkpoints a law is fitted to."""

    FINAL = "final"
    ALL = "all"


def fit_command(
    table: Table,
    law: Annotated[
        str, typer.Option(help="kaplan, chinchilla, clark, krajewski, joint, abnar or ling.")
    ],
    column: Annotated[
        str | None, typer.Option(help="What to fit. Default: validation loss, else training loss.")
    ] = None,
    checkpoints: Annotated[
        CheckpointChoice, typer.Option(help="all is fair only with a constant learning rate.")
    ] = CheckpointChoice.FINAL,
    bootstrap: Annotated[int, typer.Option(min=100, help="Fits behind the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap's draws.")] = 0,
    published: Annotated[
        str | None,
        typer.Option(help="Fit nothing: lay the runs over these published coefficients."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw measured against the law.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a scaling law: coefficients, intervals, whether they are identified, how far it reaches."""
    from isoflop.analysis.charts.svg import svg_text
    from isoflop.analysis.fits.fit import fit_law
    from isoflop.analysis.fits.text import fit_to_json, fit_to_text
    from isoflop.analysis.laws.catalogue import find_law
    from isoflop.analysis.page.laws import fitted_chart, overlay
    from isoflop.analysis.tables.read import read_table
    from isoflop.records import write_text

    found, runs = find_law(law), read_table(table)
    if published is not None:
        if figure is None:
            raise UserError("--published draws the runs over the law: give --figure FILE.svg too")
        if as_json or checkpoints is CheckpointChoice.ALL:
            raise UserError("--published fits nothing: leave --json and --checkpoints out")
        write_text(figure, svg_text(overlay(runs, found, published, column)))
        typer.echo(str(figure))
        return
    fitted = fit_law(
        found,
        runs,
        column=column,
        checkpoints="all" if checkpoints is CheckpointChoice.ALL else "final",
        replicates=bootstrap,
        seed=seed,
    )
    if figure is not None:
        write_text(figure, svg_text(fitted_chart(fitted)))
    typer.echo(fit_to_json(fitted) if as_json else fit_to_text(fitted))


def recommend_command(
    table: Table,
    flops: Annotated[float | None, typer.Option(help="Training FLOPs, e.g. 1e21.")] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(help="Device-hours instead, at the table's speeds.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=WEIGHT", help="A task or column that counts. Repeatable."),
    ] = None,
    train_memory_gb: Annotated[
        float | None, typer.Option(help="Of all devices: weights, gradients, optimiser.")
    ] = None,
    serve_memory_gb: Annotated[float | None, typer.Option(help="For the weights.")] = None,
    serve_bytes: Annotated[
        float, typer.Option(help="Bytes a parameter while serving; 2 is bfloat16.")
    ] = 2.0,
    as_json: AsJson = False,
) -> None:
    """What to train next for a budget: width, experts, k and tokens, and how sure that is."""
    from isoflop.analysis.recommend.recommend import Request, recommend
    from isoflop.analysis.recommend.text import recommendation_to_json, recommendation_to_text
    from isoflop.analysis.tables.read import read_table

    giga = 1e9
    request = Request(
        flops=flops,
        gpu_hours=gpu_hours,
        train_memory_bytes=None if train_memory_gb is None else giga * train_memory_gb,
        serve_memory_bytes=None if serve_memory_gb is None else giga * serve_memory_gb,
        serve_bytes_per_param=serve_bytes,
        tasks=tuple(task_weight(text) for text in task or ()),
    )
    found = recommend(read_table(table), request)
    typer.echo(recommendation_to_json(found) if as_json else recommendation_to_text(found))


def figure_command(
    table: Table,
    number: Annotated[int, typer.Argument(help="Of the paper's figures, 1 to 24.")],
    out: Annotated[Path, typer.Option(help="Folder for its SVG files.")] = Path(),
    problems: Annotated[
        Path | None,
        typer.Option(
            help="For figure 19: a table with columns cell, seed, problem, correct. Default: a study's "
            "own answers."
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(help="For figure 19 of a study: whose answers, TASK or TASK.SPLIT.")
    ] = "reasoning",
) -> None:
    """Draw a figure of arXiv:2508.18672 from a table, or say which columns it needs."""
    from isoflop.analysis.charts.svg import svg_text
    from isoflop.analysis.paper.figures import PROBLEM_BY_PROBLEM, overlap_text, paper_figure
    from isoflop.analysis.questions.problems import solved_in_file, solved_in_study
    from isoflop.analysis.tables.read import read_table
    from isoflop.records import write_text

    solved = None if problems is None else solved_in_file(problems)
    if solved is None and number == PROBLEM_BY_PROBLEM and (table / "study.json").is_file():
        name, _, split = task.partition(".")
        solved = solved_in_study(table, name, split or "held_out")
    drawn = paper_figure(read_table(table), number, solved)
    if drawn.missing:
        raise UserError(
            f"figure {number} ({drawn.title}) needs {', '.join(drawn.missing)}, which {table} lacks"
        )
    for chart in drawn.charts:
        path = out / f"{chart.name}.svg"
        write_text(path, svg_text(chart))
        typer.echo(str(path))
    if solved is not None:
        typer.echo(overlap_text(solved))


def task_weight(text: str) -> tuple[str, float]:
    """A task and its weight, "gsm8k=2"; without a weight, 1.

    Raises:
        UserError: the weight is no number.
    """
    name, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        raise UserError(f"--task {text}: the weight must be a number, as in gsm8k=2") from None
