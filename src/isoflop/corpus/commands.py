"""`isoflop corpus`: its commands. What they need is loaded when one runs."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isoflop.corpus.fidelity.commands import fidelity_command
from isoflop.corpus.rewrite.commands import rewrite_command

if TYPE_CHECKING:
    from isoflop.corpus.intake import CorpusInput
    from isoflop.corpus.shards import Counts, OutputConfig

app = typer.Typer(
    help="Make a corpus: filter, remove duplicates and benchmarks, show what happened.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.command("rewrite")(rewrite_command)
app.command("fidelity")(fidelity_command)

TELL_SECONDS = 10.0
"""Between two lines of progress where there is no terminal; on one, a tenth of that."""


class KindName(StrEnum):
    """What an input is."""

    AUTO = "auto"
    RECORDS = "records"
    FILES = "files"
    ROWS = "rows"
    HUB = "hub"


class FormatName(StrEnum):
    """What is written."""

    JSONL = "jsonl"
    GZIP = "jsonl.gz"
    ZSTD = "jsonl.zst"
    PARQUET = "parquet"


Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A file or folder of JSONL, Parquet or Arrow, a folder of source files, a folder that a "
        "stage wrote, or hub:NAME.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; a killed run goes on there.")]
Kind = Annotated[KindName, typer.Option(help="What INPUT is, where it could be two things.")]
TextField = Annotated[str, typer.Option(help="Field or column of the text.")]
Split = Annotated[str, typer.Option(help="Of a data set of the hub.")]
Form = Annotated[FormatName, typer.Option("--format", help="Of the rows that are written.")]
ShardRows = Annotated[int, typer.Option(min=1, help="Texts read for one file of rows.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes. Default: one a core.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one field, e.g. lint.threshold=8."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("filter")
def filter_command(
    source: Input,
    out: Out,
    changes: Changes = None,
    annotate_only: Annotated[
        bool, typer.Option("--annotate-only", help="Measure everything, reject nothing.")
    ] = False,
    kind: Kind = KindName.AUTO,
    text_field: TextField = "text",
    split: Split = "train",
    form: Form = FormatName.GZIP,
    rows_per_shard: ShardRows = 10_000,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Keep code that compiles and that pylint rates well; every reject has its reason."""
    from isoflop.config import override
    from isoflop.corpus.filters.config import FilterConfig
    from isoflop.corpus.filters.run import filter_corpus

    config = override(FilterConfig(), *(changes or []))
    if annotate_only:
        config = config.measuring_only
    counts = filter_corpus(
        _input(source, kind, text_field, split),
        out,
        config,
        output=_output(form, rows_per_shard),
        num_workers=workers,
        tell=_teller("filter"),
    )
    _show(counts, out, as_json)


@app.command("deduplicate")
def deduplicate_command(
    source: Input,
    out: Out,
    changes: Changes = None,
    kind: Kind = KindName.AUTO,
    text_field: TextField = "text",
    split: Split = "train",
    form: Form = FormatName.GZIP,
    rows_per_shard: ShardRows = 10_000,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Keep the first of every group of near-duplicates, by MinHash."""
    from isoflop.config import override
    from isoflop.corpus.deduplicate import DeduplicateConfig, deduplicate_corpus

    counts = deduplicate_corpus(
        _input(source, kind, text_field, split),
        out,
        override(DeduplicateConfig(), *(changes or [])),
        output=_output(form, rows_per_shard),
        num_workers=workers,
        tell=_teller("deduplicate"),
    )
    _show(counts, out, as_json)


@app.command("decontaminate")
def decontaminate_command(
    source: Input,
    out: Out,
    benchmark: Annotated[
        list[str],
        typer.Option(metavar="PATH", help="A benchmark's file, or NAME=PATH. Repeatable."),
    ],
    changes: Changes = None,
    kind: Kind = KindName.AUTO,
    text_field: TextField = "text",
    split: Split = "train",
    form: Form = FormatName.GZIP,
    rows_per_shard: ShardRows = 10_000,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Reject texts that hold benchmark items; hits.jsonl shows each with both texts."""
    from isoflop.config import override
    from isoflop.corpus.decontaminate.config import DecontaminateConfig
    from isoflop.corpus.decontaminate.run import HITS, decontaminate_corpus, items_too_short

    config = override(DecontaminateConfig(), *(changes or []))
    counts = decontaminate_corpus(
        _input(source, kind, text_field, split),
        out,
        benchmark,
        config,
        output=_output(form, rows_per_shard),
        num_workers=workers,
        tell=_teller("decontaminate"),
    )
    _show(counts, out, as_json)
    if not as_json:
        typer.echo(str(out / HITS))
        for name, count in items_too_short(benchmark, config).items():
            typer.echo(f"{name}: {count} items are too short to be looked for")


@app.command("recount")
def recount_command(
    scores: Annotated[Path, typer.Argument(help="Graded items, one a line, e.g. items.jsonl.")],
    hits: Annotated[Path, typer.Argument(help="Folder that `decontaminate` wrote.")],
    benchmark: Annotated[str, typer.Option(help="The benchmark's name in the hits.")],
    id_field: Annotated[str, typer.Option(help="Of the graded items.")] = "item",
    correct_field: Annotated[str, typer.Option(help="True where the answer is right.")] = "correct",
    as_json: AsJson = False,
) -> None:
    """A benchmark's score with and without the items that were found in the corpus."""
    from isoflop.corpus.decontaminate.run import read_hits, recount_scores

    found = recount_scores(scores, read_hits(hits), benchmark, id_field, correct_field)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    named = {"all": found.all_items, "not found": found.unflagged, "found": found.flagged}
    for name, part in named.items():
        share = "no item"
        if part.accuracy is not None:
            share = f"{part.accuracy:.1%} ({part.low:.1%} to {part.high:.1%}, 95%)"
        typer.echo(f"{name:10} {part.num_items:6} items  {share}")


@app.command("stats")
def stats_command(
    folders: Annotated[list[Path], typer.Argument(help="Stages' folders, the first first.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json: tokens are counted too.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Counts, reasons and scores of stages: the funnel."""
    from isoflop.corpus.report import stats_to_json, stats_to_text, write_report
    from isoflop.corpus.stats import stats_of

    stages = stats_of(folders, tokenizer)
    typer.echo(stats_to_json(stages) if as_json else stats_to_text(stages))
    if html is not None:
        write_report(html, folders, stages)
        if not as_json:
            typer.echo(str(html))


def _input(source: str, kind: KindName, text_field: str, split: str) -> "CorpusInput":
    from isoflop.corpus.intake import CorpusInput

    return CorpusInput(path=source, kind=kind.value, text_field=text_field, split=split)


def _output(form: FormatName, rows_per_shard: int) -> "OutputConfig":
    from isoflop.corpus.shards import OutputConfig

    return OutputConfig(format=form.value, rows_per_shard=rows_per_shard)


def _show(counts: "Counts", out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(counts), indent=2))
        return
    typer.echo(f"{out}: {counts.num_read:,} read, {counts.num_kept:,} kept, ", nl=False)
    typer.echo(f"{counts.num_rejected:,} rejected")
    for reason, count in sorted(counts.reasons.items(), key=lambda item: (-item[1], item[0])):
        typer.echo(f"{count:10,}  {reason}")


def _teller(name: str) -> Callable[[int], None]:
    """Progress on standard error: a line that is written over on a terminal, plain lines elsewhere."""
    on_terminal = sys.stderr.isatty()
    begun = last = time.monotonic()
    first: int | None = None

    def tell(done: int) -> None:
        nonlocal last, first
        first = done - 1 if first is None else first
        now = time.monotonic()
        if now - last < TELL_SECONDS / (10 if on_terminal else 1):
            return
        last = now
        line = f"{name}: {done:,} texts, {(done - first) / (now - begun):.1f} a second"
        print(
            f"\r{line}" if on_terminal else line, end="" if on_terminal else "\n", file=sys.stderr
        )

    return tell
