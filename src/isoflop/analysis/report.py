"""From an experiment's folder to report.html, table.csv, table.json and figures/.

The page is one file without outside references: figures are inlined, the style and the small
script that sorts tables are in it. It depends on the rows alone, so that the same rows give the
same bytes, times apart.
"""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from isoflop.analysis.answer import Answer, answer
from isoflop.analysis.compare import Comparison
from isoflop.analysis.families import TOLERANCE, Cell, sample, train_flops_with_router
from isoflop.analysis.figures import all_figures
from isoflop.analysis.gaps import GAP_UNIT, Gap, all_gaps
from isoflop.analysis.plotting import FigureGroup, svg_text
from isoflop.analysis.statistics import estimate
from isoflop.analysis.study import Study, read_study
from isoflop.analysis.table import Value, table, write_table
from isoflop.analysis.wording import figure_text
from isoflop.design.plan import format_count
from isoflop.records import write_text


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table of the page: text fields, and a number to sort by where the text is no number."""

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]


def report(folder: Path, tolerance: float = TOLERANCE) -> Path:
    """Read the experiment in `folder` and write its report there; returns the page's path.

    Raises:
        UserError: no experiment there, or rows that cannot be read.
    """
    return write_report(folder, read_study(folder), tolerance)


def write_report(folder: Path, study: Study, tolerance: float = TOLERANCE) -> Path:
    """Write report.html, table.csv, table.json and figures/*.svg; returns the page's path."""
    write_table(study.rows, folder)
    groups = all_figures(study, tolerance)
    drawn = {panel.name: svg_text(panel) for group in groups for panel in group.panels}
    for name, text in drawn.items():
        write_text(folder / "figures" / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}.svg", text)
    page = render(study, answer(study, tolerance), groups, drawn)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def render(
    study: Study, found: Answer, groups: tuple[FigureGroup, ...], drawn: dict[str, str]
) -> str:
    """The page as text; `drawn` holds the SVG of each panel by its name."""
    environment = Environment(
        loader=PackageLoader("isoflop", "analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The SVG is ours, with every name in it escaped by the writer; all else is escaped here.
    safe = {name: Markup(text) for name, text in drawn.items()}
    return environment.get_template("report.html.j2").render(
        name=study.name,
        answer=found,
        groups=groups,
        drawn=safe,
        runs=len({(row.cell, row.seed) for row in study.rows if row.final}),
        cells=len(study.cells),
        summary=summary_grid(study),
        comparisons=comparison_grid(found.comparisons),
        gaps=gap_grid(all_gaps(study.cells, study.memory_tasks)),
        checkpoints=checkpoint_grid(study),
        corpus=corpus_grid(study),
        shapes=shape_grid(study.cells),
        cost=cost_grid(study.cells),
        total_cost=total_cost(study),
        config=json.dumps(study.config, indent=2, sort_keys=True) if study.config else "",
        environment=environment_lines(study.environment),
        command=command_line(study.environment),
        device=device_text(study.environment),
    )


def summary_grid(study: Study) -> Grid:
    """One line a cell: its shape and its final scores with intervals."""
    cells = study.cells
    columns = sorted({(s.task, s.split) for cell in cells for row in cell.rows for s in row.scores})
    head = ["cell", "sparsity", "total parameters", "seeds", "training loss (nats)"]
    head += [f"{task}, {split.replace('_', ' ')}: accuracy" for task, split in columns]
    body = []
    for cell in cells:
        losses = [row.train_loss for row in cell.rows]
        line = [cell.name, f"{cell.shape.sparsity:.4g}", format_count(cell.shape.total_params)]
        line += [str(len(cell.rows)), figure_text(estimate(losses), "nats").replace(" nats", "")]
        for key in columns:
            found = sample(cell, *key, "accuracy")
            spread = None if found is None else estimate(found.values, found.item_errors)
            line.append("" if spread is None else figure_text(spread, "share"))
        body.append(tuple(line))
    return Grid(title="Final checkpoints, means over seeds", head=tuple(head), body=tuple(body))


def comparison_grid(comparisons: tuple[Comparison, ...]) -> Grid:
    """One line a comparison: verdict and cells that may be best, trend, rank correlation.

    The interval of the trend is that of one claim alone; the sentences correct for several.
    """
    body = []
    for item in comparisons:
        rank, interval = item.rank_correlation, ""
        if item.trend is not None:
            low, high = item.trend.interval()
            interval = f"{item.trend.slope:+.4f} ({low:+.4f} to {high:+.4f})"
            if item.trend.carried_by is not None:
                interval += f", not sure without {item.trend.carried_by}"
        body.append(
            (
                item.family.label,
                item.subject,
                f"{item.figure}, {item.split.replace('_', ' ')}",
                ": ".join(filter(None, (item.verdict.kind, ", ".join(item.verdict.leaders)))),
                item.verdict.reason,
                interval,
                "" if rank is None else f"{rank:+.2f}",
            )
        )
    head = (
        "family",
        "of",
        "figure",
        "verdict",
        "why",
        "trend per doubling of E/k (95%, alone)",
        "rank",
    )
    return Grid(title="Every comparison", head=head, body=tuple(body))


def gap_grid(gaps: tuple[Gap, ...]) -> Grid:
    """One line a gap and cell; the reason where there is none."""
    body = []
    for gap in gaps:
        value = gap.reason or ""
        if gap.estimate is not None:
            half = gap.estimate.half_width
            spread = "(one seed)" if half is None else f"± {half:.3f}"
            value = f"{gap.estimate.mean:+.3f} {spread}"
        body.append((gap.kind, gap.subject, gap.cell, value, GAP_UNIT[gap.kind]))
    head = ("gap", "of", "cell", "mean over seeds", "unit")
    return Grid(title="Gaps", head=head, body=tuple(body))


def checkpoint_grid(study: Study) -> Grid:
    """The main columns of the table, one line a checkpoint."""
    names, lines = table(study.rows)
    wanted = ["cell", "seed", "step", "tokens", "sparsity", "total_params", "tpp", "train_loss"]
    wanted += [name for name in names if name.endswith((".validation.loss", ".accuracy"))]
    wanted += [name for name in names if name.endswith(".bits_per_byte")]
    places = [names.index(name) for name in wanted]
    body = tuple(tuple(_short(line[place]) for place in places) for line in lines)
    return Grid(title="All checkpoints", head=tuple(wanted), body=body)


def corpus_grid(study: Study) -> Grid:
    """One line a source: what it holds, and how often the runs read it."""
    mixture = {row.source: row for row in study.mixture}
    held = {row.source: row for row in study.corpus}
    body = []
    for source in sorted({*mixture, *held}):
        row, used = held.get(source), mixture.get(source)
        facts: tuple[Value, ...] = (None,) * 5
        if row is not None:
            counts = (row.num_documents, row.num_validation_documents, row.num_set_aside)
            facts = (*counts, row.num_bytes, row.information_bits)
        reading: tuple[Value, ...] = (None,) * 4
        if used is not None:
            reading = (used.share, used.unique_tokens, used.used_tokens, used.epochs)
        body.append((source, *(_short(value) for value in (*facts, *reading))))
    head = (
        *("source", "documents", "validation documents", "set aside", "bytes", "bits to know"),
        *("share", "tokens held", "tokens read a run", "epochs"),
    )
    return Grid(title="Corpus", head=head, body=tuple(body))


def shape_grid(cells: tuple[Cell, ...]) -> Grid:
    """One line a cell: its shape."""
    fields = (
        *("num_layers", "d_model", "d_expert", "num_experts", "top_k", "sparsity"),
        *("total_params", "active_params", "tokens", "tpp", "active_tpp"),
    )
    body = tuple(
        (cell.name, *(_short(getattr(cell.shape, name)) for name in fields)) for cell in cells
    )
    return Grid(title="Cells", head=("cell", *fields), body=body)


def cost_grid(cells: tuple[Cell, ...]) -> Grid:
    """One line a cell: FLOPs of one run, and training time where it was measured."""
    body = []
    for cell in cells:
        seconds = [row.seconds for row in cell.rows if row.seconds is not None]
        speeds = [row.tokens_per_second for row in cell.rows if row.tokens_per_second is not None]
        body.append(
            (
                cell.name,
                str(len(cell.rows)),
                f"{cell.shape.train_flops:.3e}",
                f"{train_flops_with_router(cell.shape):.3e}",
                f"{cell.shape.train_flops_6n:.3e}",
                f"{sum(seconds):.0f}" if seconds else "",
                f"{sum(speeds) / len(speeds):.0f}" if speeds else "",
            )
        )
    head = (
        *("cell", "runs", "FLOPs a run", "FLOPs a run, with router", "FLOPs a run, 6N"),
        *("seconds, all runs", "tokens/second"),
    )
    return Grid(title="Cost", head=head, body=tuple(body))


def total_cost(study: Study) -> str:
    """FLOPs (Megatron-LM's count) and training time of all finished runs, in words."""
    rows = [row for cell in study.cells for row in cell.rows]
    seconds = [row.seconds for row in rows if row.seconds is not None]
    flops = sum(row.train_flops for row in rows)
    time = f"{sum(seconds):,.0f} s of training" if seconds else "training time not measured"
    short = "" if len(seconds) == len(rows) else f" ({len(rows) - len(seconds)} runs without time)"
    return f"In all {flops:.3e} training FLOPs, {time}{short}."


def environment_lines(environment: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names and values, nested ones with a dot; command and device have a place of their own."""
    lines: list[tuple[str, str]] = []
    for name, value in environment.items():
        if isinstance(value, dict):
            lines += [(f"{name}.{inner}", text) for inner, text in environment_lines(value)]
        elif name not in ("command", "device"):
            lines.append((name, "not recorded" if value is None else _plain(value)))
    return tuple(lines)


def command_line(environment: dict[str, Any]) -> str | None:
    """The command that made the study, as it can be typed again; None if not recorded."""
    words = environment.get("command")
    if not isinstance(words, list) or not words:
        return None
    return shlex.join([Path(str(words[0])).name, *(str(word) for word in words[1:])])


def device_text(environment: dict[str, Any]) -> str | None:
    """What the study ran on; None if not recorded."""
    device = environment.get("device")
    return None if device is None else _plain(device)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(value: Value) -> str:
    """A field for reading: five digits of a fraction; nothing for what was not measured."""
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
