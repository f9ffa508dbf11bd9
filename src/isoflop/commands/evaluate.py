"""`isoflop eval`, `sample`, `vote` and `harness`: what a checkpoint knows, and what samples of it buy."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Checkpoint = Annotated[
    Path, typer.Argument(help="A checkpoint's folder, or a run's: then its last checkpoint.")
]
TaskName = Annotated[str, typer.Option(help="E.g. gsm8k; promptanswer for a prompt-answer file.")]
Data = Annotated[
    Path | None, typer.Option(help="A file, or a folder as the hub has it. Default: the hub.")
]
ShotsData = Annotated[
    Path | None, typer.Option(help="Rows for worked examples, e.g. the training split.")
]
ShotsSeed = Annotated[
    int | None, typer.Option(min=0, help="Draw the shots. Default: the first rows.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Ask the first so many.")]
TokenizerFile = Annotated[str | None, typer.Option(metavar="FILE", help="A tokenizer.json.")]
EndOfText = Annotated[str | None, typer.Option(help="Token of --tokenizer FILE.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


class StyleName(StrEnum):
    """How a benchmark's questions are put."""

    FEW_SHOT = "few_shot"
    CHAIN_OF_THOUGHT = "chain_of_thought"
    CODE = "code"
    BARE = "bare"


Style = Annotated[StyleName | None, typer.Option(help="Default: the papers' form.")]


class ReadingName(StrEnum):
    """Which extraction of final answers counts."""

    STRICT = "strict"
    FLEXIBLE = "flexible"


class EngineName(StrEnum):
    """What generates."""

    ISOFLOP = "isoflop"
    VLLM = "vllm"


@app.command("eval")
def evaluate(
    checkpoint: Checkpoint,
    task: TaskName,
    data: Data = None,
    shots_data: ShotsData = None,
    shots: Annotated[int | None, typer.Option(min=0, help="Default: the papers' number.")] = None,
    shots_seed: ShotsSeed = None,
    style: Style = None,
    limit: Limit = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer.")] = None,
    loss_only: Annotated[bool, typer.Option("--loss-only", help="Generate nothing.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for rows; a killed run goes on there.")
    ] = None,
    tokenizer: TokenizerFile = None,
    end_of_text: EndOfText = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Ask a benchmark of a checkpoint: accuracy, and the bits of the gold answers."""
    from isoflop.evaluate.tasks.command import evaluate_checkpoint_on, score_to_text
    from isoflop.evaluate.tasks.load import load_task
    from isoflop.model.checkpoint import checkpoint_folder
    from isoflop.records import row_to_line
    from isoflop.sweep.lineage import open_tokenizer

    checkpoint = checkpoint_folder(checkpoint)
    loaded = load_task(
        task,
        data=data,
        style=None if style is None else style.value,
        shots=shots,
        shots_data=shots_data,
        shots_seed=shots_seed,
        limit=limit,
    )
    score, folder = evaluate_checkpoint_on(
        checkpoint,
        open_tokenizer(checkpoint, tokenizer, end_of_text),
        loaded,
        loss_only=loss_only,
        max_new_tokens=max_new_tokens,
        out=out,
        device=device,
    )
    typer.echo(row_to_line(score) if as_json else score_to_text(score, loaded, folder))


Samples = Annotated[int, typer.Option(min=1, help="Of each problem.")]
SamplesOut = Annotated[Path, typer.Option(help="Folder for samples; a killed run goes on there.")]
Temperatures = Annotated[list[float] | None, typer.Option(help="Repeatable. Default: 0.6.")]
TopP = Annotated[float, typer.Option(help="Share of probability drawn from.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Most probable tokens drawn from.")]
Lengths = Annotated[list[int] | None, typer.Option(help="Repeatable. Default: 1024.")]
ShotNumbers = Annotated[list[int] | None, typer.Option(help="Repeatable. Default: 0.")]
Experts = Annotated[
    list[int] | None, typer.Option(help="k at inference. Repeatable. Default: the trained.")
]
SampleSeed = Annotated[int, typer.Option(min=0, help="Of all samples.")]
Share = Annotated[str, typer.Option(metavar="I/N", help="This machine's share of the problems.")]
Engine = Annotated[EngineName, typer.Option(help="What generates.")]
WHOLE_SHARE = "1/1"


@app.command("sample")
def sample(
    checkpoint: Checkpoint,
    task: TaskName,
    out: SamplesOut,
    samples: Samples = 128,
    temperature: Temperatures = None,
    top_p: TopP = 0.95,
    top_k: TopK = None,
    max_new_tokens: Lengths = None,
    shots: ShotNumbers = None,
    experts_per_token: Experts = None,
    seed: SampleSeed = 0,
    shard: Share = WHOLE_SHARE,
    data: Data = None,
    shots_data: ShotsData = None,
    shots_seed: ShotsSeed = None,
    style: Style = None,
    limit: Limit = None,
    engine: Engine = EngineName.ISOFLOP,
    tokenizer: TokenizerFile = None,
    end_of_text: EndOfText = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Draw many samples of each problem; with several values of an option, one run for each."""
    from isoflop.evaluate.testtime.command import Sweep, parse_shard, sample_checkpoint
    from isoflop.model.checkpoint import checkpoint_folder
    from isoflop.sweep.lineage import open_tokenizer

    checkpoint = checkpoint_folder(checkpoint)
    sweep = Sweep(
        task=task,
        data=data,
        style=None if style is None else style.value,
        shots=tuple(shots or Sweep.shots),
        shots_data=shots_data,
        shots_seed=shots_seed,
        limit=limit,
        num_samples=samples,
        temperature=tuple(temperature or Sweep.temperature),
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=tuple(max_new_tokens or Sweep.max_new_tokens),
        experts_per_token=tuple(experts_per_token or Sweep.experts_per_token),
        seed=seed,
        shard=parse_shard(shard),
        engine=engine.value,
    )
    reader = open_tokenizer(checkpoint, tokenizer, end_of_text)
    folders = sample_checkpoint(checkpoint, reader, sweep, out=out, device=device)
    _show_samples(folders, whole=shard == WHOLE_SHARE, as_json=as_json)


def _show_samples(folders: list[Path], *, whole: bool, as_json: bool) -> None:
    """What the samples buy, where they are all there, and where they lie."""
    from isoflop.evaluate.testtime.report import read_sampled, votes, votes_to_json, votes_to_text

    if whole:
        found = votes(read_sampled(folders))
        typer.echo(votes_to_json(found) if as_json else votes_to_text(found))
    for folder in folders:
        typer.echo(str(folder), err=as_json)


@app.command("vote")
def vote(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of samples, or what sample --out was given; several: also what they share."
        ),
    ],
    scores: Annotated[
        Path | None, typer.Option(help="JSON lines of item, sample, score: best-of-n and weights.")
    ] = None,
    reading: Annotated[ReadingName, typer.Option(help="Of final answers.")] = ReadingName.STRICT,
    problem_map: Annotated[
        Path | None, typer.Option("--map", help="Write a CSV: a line a problem.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Majority vote, coverage and best-of-n at 1, 2, 4 ... samples, with intervals."""
    from isoflop.evaluate.testtime.report import (
        map_to_csv,
        read_sampled,
        read_scores,
        votes,
        votes_to_json,
        votes_to_text,
    )
    from isoflop.records import write_text

    found = votes(
        read_sampled(folders),
        reading=reading.value,
        scores=None if scores is None else read_scores(scores),
    )
    if problem_map is not None:
        write_text(problem_map, map_to_csv(found.problems))
    typer.echo(votes_to_json(found) if as_json else votes_to_text(found))


@app.command(
    "harness",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
def harness(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="The harness's own, e.g. run --model isoflop.")
    ] = None,
) -> None:
    """lm-evaluation-harness on our checkpoints: its own arguments, --model isoflop."""
    from isoflop.extras import import_extra

    import_extra("lm_eval", "eval", "isoflop harness")
    from isoflop.harness import run_harness

    run_harness(arguments or [])
