"""What the stages of a corpus did, for people: a table on a terminal, JSON, and one page of HTML.

The page has no outside references. It shows the funnel, score histograms with the threshold, reasons,
lengths, syntax errors, rejected texts of every reason, and rewritten texts beside what they were made
of.
"""

import heapq
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from isoflop.corpus.difference import LinePair, side_by_side
from isoflop.corpus.rows import TextRow
from isoflop.corpus.seeds import stable_hash
from isoflop.corpus.shards import kept_rows, rejected_rows
from isoflop.corpus.stats import Histogram, StageStats, funnel
from isoflop.records import write_text

EXAMPLES_PER_REASON = 3
REWRITTEN_EXAMPLES = 30
"""Pairs on the page, drawn by a hash of their ids: the same each time."""

EXCERPT_CHARACTERS = 1500
"""Of a rejected text on the page."""


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram."""

    label: str
    count: int
    share: float
    """Of the highest bar."""
    is_kept: bool
    """Whether its scores reach the threshold; True where there is none."""


@dataclass(frozen=True)
class Pair:
    """A rewritten text beside its parent."""

    row: TextRow
    parent: TextRow
    lines: list[LinePair]

    @property
    def length_ratio(self) -> float:
        """Characters after / before."""
        return len(self.row.text) / max(1, len(self.parent.text))


def stats_to_json(stages: Sequence[StageStats]) -> str:
    """All figures as JSON."""
    rows = [{**asdict(s), "syntax_error_share": s.syntax_error_share} for s in stages]
    steps = [
        {"step": step, "texts": texts, "characters": None if characters < 0 else characters}
        for step, texts, characters in funnel(stages)
    ]
    return json.dumps({"stages": rows, "funnel": steps}, indent=2)


def stats_to_text(stages: Sequence[StageStats]) -> str:
    """The funnel and the reasons, as lines."""
    lines = []
    first = stages[0].num_read if stages else 0
    for step, texts, characters in funnel(stages):
        share = f"{texts / first:7.1%}" if first else ""
        size = f"{characters:16,} characters" if characters >= 0 else ""
        lines.append(f"{step:38} {texts:12,} {share} {size}".rstrip())
    for stage in stages:
        lines += ["", *_stage_lines(stage)]
    return "\n".join(lines)


def _stage_lines(stage: StageStats) -> Iterator[str]:
    yield f"{stage.stage} ({stage.folder}): rejected, by reason"
    for reason, count in sorted(stage.reasons.items(), key=lambda item: (-item[1], item[0])):
        yield f"{count:12,}  {reason}"
    if stage.syntax_error_share is not None:
        asked = stage.num_compiled + stage.num_not_compiled
        yield f"syntax errors: {stage.syntax_error_share:.2%} of {asked:,}"
    if stage.kept_tokens is not None:
        yield f"tokens kept: {stage.kept_tokens:,}"
    if stage.prompt_tokens is not None or stage.completion_tokens is not None:
        spent = (stage.prompt_tokens or 0, stage.completion_tokens or 0)
        yield f"tokens of the model: {spent[0]:,} read, {spent[1]:,} written"


def write_report(page: Path, folders: Sequence[Path], stages: Sequence[StageStats]) -> None:
    """Write the page; `stages` are the figures of `folders`."""
    environment = Environment(
        loader=PackageLoader("isoflop", "corpus"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    first = stages[0].num_read if stages else 0
    steps = [
        (step, texts, size, texts / first if first else 0) for step, texts, size in funnel(stages)
    ]
    text = environment.get_template("report.html.j2").render(
        stages=stages,
        steps=steps,
        histograms=[(stage, list(_score_bars(stage))) for stage in stages],
        lengths=[(stage, _length_bars(stage.lengths)) for stage in stages],
        rejected=list(_rejected_examples(folders)),
        pairs=rewritten_pairs(folders),
        excerpt=EXCERPT_CHARACTERS,
    )
    write_text(page, text)


def _score_bars(stage: StageStats) -> Iterator[tuple[str, list[Bar], Histogram]]:
    for name, histogram in stage.scores.items():
        threshold = stage.threshold if name == "lint_score" else None
        edges = [-1.0, *histogram.edges]
        labels = ["below 0", *(f"{edge:g} to {edge + 1:g}" for edge in histogram.edges[:-1]), "10"]
        counts = (histogram.below, *histogram.counts)
        kept = [threshold is None or edge >= threshold for edge in edges]
        yield name, _bars(labels, counts, kept), histogram


def _length_bars(histogram: Histogram) -> list[Bar]:
    edges = histogram.edges
    labels = [f"{low:,.0f} to {high:,.0f}" for low, high in pairwise(edges)]
    return _bars([*labels, f"{edges[-1]:,.0f} or more"], histogram.counts, [True] * len(edges))


def _bars(labels: list[str], counts: tuple[int, ...], kept: list[bool]) -> list[Bar]:
    most = max(1, *counts)
    rows = zip(labels, counts, kept, strict=True)
    return [Bar(label, count, count / most, is_kept) for label, count, is_kept in rows]


def _rejected_examples(folders: Sequence[Path]) -> Iterator[tuple[str, int, list[TextRow]]]:
    """(stage and reason, how many, some texts), the most frequent reason first."""
    for folder in folders:
        chosen: dict[str, list[TextRow]] = {}
        counts: dict[str, int] = {}
        for row in rejected_rows(folder):
            reason = f"{row.rejected_by}: {row.reason}"
            counts[reason] = counts.get(reason, 0) + 1
            examples = chosen.setdefault(reason, [])
            if len(examples) < EXAMPLES_PER_REASON:
                examples.append(row)
        for reason in sorted(counts, key=lambda reason: (-counts[reason], reason)):
            yield reason, counts[reason], chosen[reason]


def rewritten_pairs(folders: Sequence[Path], most: int = REWRITTEN_EXAMPLES) -> list[Pair]:
    """Rewritten rows of the stages with the rows of earlier ones that they were made of."""
    rewritten = (
        row for folder in folders for row in kept_rows(folder) if row.parent_id is not None
    )
    chosen = heapq.nsmallest(most, rewritten, key=lambda row: stable_hash(row.id, row.stage))
    wanted = {row.parent_id for row in chosen}
    parents: dict[str, TextRow] = {}
    for folder in folders:
        for row in kept_rows(folder):
            if row.id in wanted:
                parents.setdefault(row.id, row)
    pairs = []
    for row in chosen:
        parent = parents.get(row.parent_id or "")
        if parent is not None:
            pairs.append(Pair(row, parent, side_by_side(parent.text, row.text)))
    return pairs
