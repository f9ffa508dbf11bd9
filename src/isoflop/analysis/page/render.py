"""The page as text, from what a study says and shows."""

import json
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from isoflop.analysis.answer import Answer
from isoflop.analysis.charts.chart import FigureGroup
from isoflop.analysis.gaps import all_gaps, unmeasured_text, without_unmeasured
from isoflop.analysis.page import grids
from isoflop.analysis.page.island import island
from isoflop.analysis.page.laws import LawSection
from isoflop.analysis.questions.findings import Finding
from isoflop.analysis.study import Study


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What the page shows beside the study's own rows."""

    answer: Answer
    groups: tuple[FigureGroup, ...]
    laws: tuple[LawSection, ...]
    refused_laws: tuple[str, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What must be known of the table."""
    drawn: dict[str, str]
    """The SVG of each chart by its name."""


def render(study: Study, contents: Contents) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("isoflop.analysis", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cells = study.cells
    gaps = all_gaps(cells, study.memory_tasks)
    return environment.get_template("report.html.j2").render(
        name=study.name,
        answer=contents.answer,
        groups=contents.groups,
        laws=contents.laws,
        refused_laws=contents.refused_laws,
        notes=contents.notes,
        # Ours, with every name in it escaped by the writer; all else is escaped here.
        drawn={name: Markup(text) for name, text in contents.drawn.items()},
        css=Markup(_own_file("page.css")),
        script=Markup(_own_file("page.js")),
        data=Markup(island(study.rows, study.stages)),
        runs=len({(row.cell, row.seed) for row in study.rows if row.final}),
        cells=len(cells),
        checkpoint_count=len(study.rows),
        findings=grids.finding_grid(contents.findings),
        summary=grids.summary_grid(study),
        comparisons=grids.comparison_grid(contents.answer.comparisons),
        gaps=grids.gap_grid(without_unmeasured(gaps)),
        gaps_left=unmeasured_text(gaps),
        checkpoints=grids.checkpoint_grid(study),
        after=grids.after_grid(study),
        corpus=grids.corpus_grid(study),
        funnel=grids.funnel_grid(study),
        shapes=grids.shape_grid(cells),
        cost=grids.cost_grid(cells),
        total_cost=grids.total_cost(study),
        config=json.dumps(study.config, indent=2, sort_keys=True) if study.config else "",
        environment=grids.environment_lines(study.environment),
        command=grids.command_line(study.environment),
        device=grids.device_text(study.environment),
    )


def _own_file(name: str) -> str:
    return files("isoflop.analysis.page").joinpath(name).read_text(encoding="utf-8")
