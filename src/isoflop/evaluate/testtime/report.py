"""Sampled folders read back, and what their samples buy, in words and as JSON."""

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.config import UserError, from_dict
from isoflop.evaluate.testtime.curves import (
    ProblemSamples,
    Reading,
    SampleScores,
    by_problem,
    curve,
    extraction,
    sample_numbers,
)
from isoflop.evaluate.testtime.overlap import MapRow, OverlapRow, overlaps, problem_map
from isoflop.evaluate.testtime.rows import CurveRow, ExtractionRow, SampleRow
from isoflop.evaluate.testtime.samples import (
    COUNTS_FILE,
    SAMPLES_FILE,
    SAMPLES_FOLDER,
    WHOLE,
    SampleCounts,
    SampleRun,
)
from isoflop.records import read_json, read_rows

NORMAL_95 = 1.959964
"""Standard errors of a 95% interval."""


@dataclass(frozen=True, kw_only=True)
class SampledRun:
    """The samples of one run, all its shards together."""

    name: str
    """The folder's, or the first shard's."""
    run: SampleRun
    rows: tuple[SampleRow, ...]
    counts: SampleCounts | None = None
    """None: a folder from before they were recorded."""

    @property
    def num_cut_shots(self) -> int | None:
        """Problems asked with fewer worked examples than the run's; None: not recorded."""
        if any(row.num_cut_shots is None for row in self.rows):
            return None
        return len({row.item for row in self.rows if row.num_cut_shots})


@dataclass(frozen=True, kw_only=True)
class RunVotes:
    """What the samples of one run buy."""

    name: str
    curve: tuple[CurveRow, ...]
    extraction: tuple[ExtractionRow, ...]
    num_refused: int | None = None
    """Problems that do not fit the context even without shots; None, here and below: not recorded."""
    num_set_aside: int | None = None
    """Rows of the data that cannot be asked."""
    num_cut_shots: int | None = None
    """Problems asked with fewer worked examples than were asked for."""
    no_weighted_majority: str | None = None
    """Why scores were given and yet weigh no votes; None: they do, or there are none."""


@dataclass(frozen=True, kw_only=True)
class Votes:
    """What the samples of several runs buy, and what they solve together."""

    runs: tuple[RunVotes, ...]
    overlaps: tuple[OverlapRow, ...]
    problems: tuple[MapRow, ...]


def read_sampled(folders: Sequence[Path]) -> list[SampledRun]:
    """The runs in these folders, or in the folders that `isoflop sample --out` was given; shards of one
    run become one.

    Raises:
        UserError: a folder is not complete, samples or shards are missing, or two folders hold
            one run.
    """
    found: dict[str, list[tuple[Path, SampleRun]]] = {}
    for folder in (one for given in folders for one in _runs_of(given)):
        if not (folder / "DONE").exists():
            raise UserError(
                f"{folder}: not a complete folder of samples; run the same `isoflop sample` again"
            )
        data = read_json(folder / "config.json", missing="sample first", remedy="sample again")
        run = from_dict(SampleRun, data, str(folder / "config.json"))
        whole = json.dumps(dataclasses.asdict(dataclasses.replace(run, shard=WHOLE)))
        found.setdefault(whole, []).append((folder, run))
    return [_joined(parts) for parts in found.values()]


def _runs_of(folder: Path) -> list[Path]:
    """`folder`, or the runs below it if it is what `isoflop sample --out` was given."""
    return sorted((folder / SAMPLES_FOLDER).glob("*/")) or [folder]


def _joined(parts: list[tuple[Path, SampleRun]]) -> SampledRun:
    shards = sorted(run.shard.place for _, run in parts)
    (of,) = {run.shard.of for _, run in parts} if len({r.shard.of for _, r in parts}) == 1 else (0,)
    if shards != list(range(1, of + 1)):
        raise UserError(
            f"{parts[0][0]}: shards {shards} of one run were given; give each of its shards once"
        )
    parts.sort(key=lambda part: part[1].shard.place)
    rows = [row for folder, _ in parts for row in read_rows(folder / SAMPLES_FILE, SampleRow)]
    folder, run = parts[0]
    counts = Counter(row.item for row in rows)
    short = next((item for item in counts if counts[item] < run.num_samples), None)
    if not rows or short is not None:
        held = "no samples" if short is None else f"{counts[short]} samples of item {short!r}"
        raise UserError(
            f"{folder}: holds {held}, of {run.num_samples} a problem: its {SAMPLES_FILE} was cut "
            "short; delete the folder and sample again"
        )
    recorded = [_counts(folder) for folder, _ in parts]
    known = [one for one in recorded if one is not None]
    if len(known) == len(recorded) and sum(one.num_samples for one in known) != len(rows):
        raise UserError(
            f"{folder}: holds {len(rows)} samples of {sum(one.num_samples for one in known)}: its "
            f"{SAMPLES_FILE} was cut short; delete the folder and sample again"
        )
    return SampledRun(name=folder.name, run=run, rows=tuple(rows), counts=recorded[0])


def _counts(folder: Path) -> SampleCounts | None:
    path = folder / COUNTS_FILE
    if not path.exists():
        return None
    return from_dict(SampleCounts, read_json(path, missing="", remedy="sample again"), str(path))


def read_scores(path: Path) -> SampleScores:
    """Scores of samples from a file of JSON lines with item, sample and score.

    Raises:
        UserError: a line does not fit, file and line are named; or a sample has two scores.
    """
    scores: dict[tuple[str, int], float] = {}
    for row in read_rows(path, ScoreLine):
        if scores.setdefault((row.item, row.sample), row.score) != row.score:
            raise UserError(f"{path}: sample {row.sample} of item {row.item!r} has two scores")
    return scores


@dataclass(frozen=True, kw_only=True)
class ScoreLine:
    """One line of a file of scores."""

    item: str
    sample: int
    score: float


def votes(
    sampled: Sequence[SampledRun],
    *,
    reading: Reading = "strict",
    scores: SampleScores | None = None,
) -> Votes:
    """Curves and extraction of each run; with several, what they solve together.

    Raises:
        UserError: see `by_problem` and `problem_map`.
    """
    names = unique_names(sampled)
    problems = {
        name: by_problem(one.rows, reading, scores)
        for name, one in zip(names, sampled, strict=True)
    }
    runs = tuple(
        RunVotes(
            name=name,
            curve=tuple(_curve(problems[name])),
            extraction=tuple(extraction(one.rows)),
            num_refused=None if one.counts is None else one.counts.num_refused,
            num_set_aside=None if one.counts is None else one.counts.num_set_aside,
            num_cut_shots=one.num_cut_shots,
            no_weighted_majority=_why_unweighted(problems[name]) if scores is not None else None,
        )
        for name, one in zip(names, sampled, strict=True)
    )
    return Votes(
        runs=runs,
        overlaps=tuple(overlaps(problems)) if len(problems) > 1 else (),
        problems=tuple(problem_map(problems)),
    )


def _why_unweighted(problems: Sequence[ProblemSamples]) -> str | None:
    if all(one.can_weigh for one in problems):
        return None
    return "scores below 0 cannot weigh votes; give probabilities instead of logits for it"


def unique_names(sampled: Sequence[SampledRun]) -> list[str]:
    """The runs' names, those that stand more than once with the checkpoint's digest behind them."""
    names = [one.name for one in sampled]
    return [
        name if names.count(name) == 1 else f"{name}@{one.run.checkpoint[:8]}"
        for name, one in zip(names, sampled, strict=True)
    ]


def _curve(problems: Sequence[ProblemSamples]) -> list[CurveRow]:
    most = max(len(one.right) for one in problems)
    # Without a single finite sample there is still a line that says so.
    return curve(problems, sample_numbers(max(1, most)))


def votes_to_json(found: Votes) -> str:
    """Everything, as one JSON object."""
    return json.dumps(dataclasses.asdict(found), indent=2, allow_nan=False)


def votes_to_text(found: Votes) -> str:
    """Curves with 95% intervals, failures of extraction, and overlaps, as lines for people."""
    lines: list[str] = []
    for run in found.runs:
        lines += [run.name, *_curve_lines(run.curve), *_extraction_lines(run.extraction)]
        lines += [*_left_out_lines(run), ""]
    if found.overlaps:
        lines.append("problems solved by both, and by chance alone (95%)")
    for row in found.overlaps:
        pair = f"{row.one}, its two halves" if row.one == row.other else f"{row.one}, {row.other}"
        kappa = "" if row.kappa is None else f"; kappa {row.kappa:.2f}"
        lines.append(
            f"  {pair}: {row.num_solved_both} of {row.num_solved_one} and {row.num_solved_other}; "
            f"chance {row.expected_by_chance:.1f} ({row.chance_low} to {row.chance_high}){kappa}"
        )
    return "\n".join(lines).rstrip()


def _curve_lines(rows: Sequence[CurveRow]) -> list[str]:
    columns = ["coverage", "majority", "best_of", "weighted_majority"]
    shown = [name for name in columns if any(getattr(row, name) is not None for row in rows)]
    heads = "".join(f"{name.replace('_', ' '):>26}" for name in shown)
    lines = [f"{'samples':>9}{'problems':>10}{heads}{'in order':>12}"]
    for row in rows:
        figures = "".join(f"{_interval(row, name):>26}" for name in shown)
        ordered = "" if row.majority_in_order is None else f"{row.majority_in_order:.1%}"
        lines.append(f"{row.num_samples:>9}{row.num_problems:>10}{figures}{ordered:>12}")
    return lines


def _interval(row: CurveRow, name: str) -> str:
    value, error = getattr(row, name), getattr(row, f"{name}_standard_error")
    if value is None:
        return "not measured"
    if error is None:
        return f"{value:.1%}"
    low, high = max(0.0, value - NORMAL_95 * error), min(1.0, value + NORMAL_95 * error)
    return f"{value:.1%} ({low:.1%} to {high:.1%})"


def _extraction_lines(rows: Sequence[ExtractionRow]) -> list[str]:
    lines = []
    for row in rows:
        flexible = row.num_ungradable_flexible
        also = "" if flexible is None else f" ({flexible} with the flexible reading)"
        why = ", ".join(f"{count} {reason}" for reason, count in list(row.reasons.items())[:3])
        lines.append(
            f"  ended by {row.finish}: {row.num_samples} samples, {row.num_ungradable} "
            f"ungradable{also}{': ' + why if why else ''}"
        )
    return lines


def _left_out_lines(run: RunVotes) -> list[str]:
    """What was not asked as it should have been, in words; nothing where there is nothing."""
    counts = {
        "problems refused, too long for the context": run.num_refused,
        "rows of the data set aside": run.num_set_aside,
        "problems asked with fewer shots": run.num_cut_shots,
    }
    lines = [f"  {count} {what}" for what, count in counts.items() if count]
    if run.no_weighted_majority is not None:
        lines.append(f"  weighted majority not measured: {run.no_weighted_majority}")
    return lines


def map_to_csv(rows: Sequence[MapRow]) -> str:
    """A line a problem: its share of right samples, and whether it is solved, by checkpoint."""
    text = io.StringIO()
    names = list(rows[0].solved) if rows else []
    out = csv.writer(text, lineterminator="\n")
    out.writerow(
        [
            "item",
            *(f"{name} share correct" for name in names),
            *(f"{name} solved" for name in names),
        ]
    )
    for row in rows:
        cells: list[Any] = [row.item]
        cells += [f"{row.shares_correct[name]:.6g}" for name in names]
        cells += [int(row.solved[name]) for name in names]
        out.writerow(cells)
    return text.getvalue()
