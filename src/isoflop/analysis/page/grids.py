"""The page's tables: every field as text, sorted by the page's script."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.analysis.compare import Comparison
from isoflop.analysis.families import Cell, sample, train_flops_with_router
from isoflop.analysis.gaps import GAP_UNIT, Gap
from isoflop.analysis.questions.findings import Finding
from isoflop.analysis.statistics import estimate
from isoflop.analysis.study import Study
from isoflop.analysis.table import Value, table
from isoflop.analysis.wording import figure_text
from isoflop.design.plan import format_count
from isoflop.records import CheckpointRow
from isoflop.stage_records import StageRow

Values = tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table of the page: text fields, and a number to sort by where the text is no number."""

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]


def summary_grid(study: Study) -> Grid:
    """One line a cell: its shape and its final scores with intervals."""
    cells = study.cells
    columns = sorted({(s.task, s.split) for cell in cells for row in cell.rows for s in row.scores})
    head = ["cell", "sparsity", "total parameters", "seeds", "training loss (nats)"]
    head += [f"{task}, {split.replace('_', ' ')}: accuracy" for task, split in columns]
    body = []
    for cell in cells:
        losses = [row.train_loss for row in cell.rows if row.train_loss is not None]
        line = [cell.name, f"{cell.shape.sparsity:.4g}", format_count(cell.shape.total_params)]
        loss = figure_text(estimate(losses), "nats").replace(" nats", "") if losses else ""
        line += [str(len(cell.rows)), loss]
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


def finding_grid(findings: tuple[Finding, ...]) -> Grid:
    """One line an answer."""
    body = tuple(
        (one.question, one.subject, one.where, one.answer, one.rests_on) for one in findings
    )
    return Grid(
        title="The paper's questions, one by one",
        head=("question", "of", "where", "answer", "rests on"),
        body=body,
    )


def checkpoint_grid(study: Study) -> Grid:
    """The main columns of the table, one line a final checkpoint."""
    names, lines = table(tuple(row for row in study.rows if row.final))
    wanted = ["cell", "seed", "step", "tokens", "sparsity", "total_params", "tpp", "train_loss"]
    wanted += [name for name in names if name.endswith((".validation.loss", ".accuracy"))]
    wanted += [name for name in names if name.endswith(".bits_per_byte")]
    places = [names.index(name) for name in wanted]
    body = tuple(tuple(_short(line[place]) for place in places) for line in lines)
    return Grid(title="Final checkpoints", head=tuple(wanted), body=body)


def after_grid(study: Study) -> Grid:
    """One line a run of GRPO: accuracy of its run's last checkpoint, before and after."""
    before = {(row.cell, row.seed): row for row in study.sorted_rows if row.final}
    lines: dict[Values, tuple[int, CheckpointRow, StageRow]] = {}
    for stage in study.stages:
        row = before.get((stage.cell, stage.seed))
        if row is None or stage.grpo_step is None:
            continue
        key: Values = (stage.cell, stage.seed, stage.grpo_corpus, stage.grpo_learning_rate)
        if key not in lines or stage.grpo_step > lines[key][0]:
            lines[key] = stage.grpo_step, row, stage
    columns = sorted({(one.task, one.split) for _, _, s in lines.values() for one in s.scores})
    order = list(before)
    body = []
    for key in sorted(lines, key=lambda key: order.index((str(key[0]), int(str(key[1]))))):
        step, row, stage = lines[key]
        old = {(one.task, one.split): one.accuracy for one in row.scores}
        new = {(one.task, one.split): one.accuracy for one in stage.scores}
        shares = tuple(_change(old.get(column), new.get(column)) for column in columns)
        body.append((*(_short(part) for part in key), str(step), *shares))
    named = (f"{task}, {split.replace('_', ' ')}: accuracy" for task, split in columns)
    head = ("cell", "seed", "trained on", "learning rate", "steps", *named)
    return Grid(title="Before and after GRPO", head=head, body=tuple(body))


def _change(before: float | None, after: float | None) -> str:
    """Two shares with an arrow between; "" where either was not measured."""
    return "" if before is None or after is None else f"{before:.1%} → {after:.1%}"


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


def funnel_grid(study: Study) -> Grid:
    """One line a step of preparing a source: what it left, and of what was read."""
    read = {row.source: row for row in study.funnel if row.step == "read"}
    body = []
    for row in study.funnel:
        first = read[row.source]
        share = f"{row.num_documents / first.num_documents:.1%}" if first.num_documents else ""
        body.append((row.source, row.step, str(row.num_documents), str(row.num_bytes), share))
    head = ("source", "after", "documents", "bytes", "of those read")
    return Grid(title="Filters", head=head, body=tuple(body))


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
