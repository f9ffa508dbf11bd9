"""From an experiment's folder, or any table of runs, to report.html, table.csv, table.json and figures/.

The page is one file without outside references: data, figures, style and script are in it. It
depends on the rows alone, so that the same rows give the same bytes, times apart.
"""

import re
from pathlib import Path

from isoflop.analysis.answer import answer
from isoflop.analysis.charts.chart import FigureGroup
from isoflop.analysis.charts.svg import svg_text
from isoflop.analysis.families import TOLERANCE, answer_split
from isoflop.analysis.figures import all_figures
from isoflop.analysis.page.laws import chain_sections, law_sections
from isoflop.analysis.page.render import Contents, render
from isoflop.analysis.paper.figures import stage_charts
from isoflop.analysis.questions.findings import all_findings
from isoflop.analysis.study import Study, read_study
from isoflop.analysis.table import table, write_table
from isoflop.analysis.tables.check import check_table
from isoflop.analysis.tables.checkpoints import study_of
from isoflop.analysis.tables.files import raw_table
from isoflop.analysis.tables.read import read_table
from isoflop.analysis.tables.run_table import RunTable
from isoflop.records import write_text


def report(folder: Path, tolerance: float = TOLERANCE) -> Path:
    """Read the experiment in `folder` and write its report there; returns the page's path.

    Raises:
        UserError: no experiment there, or rows that cannot be read.
    """
    return write_report(folder, read_study(folder), tolerance)


def report_table(path: Path, folder: Path, tolerance: float = TOLERANCE) -> Path:
    """Read any table of runs and write its report into `folder`; returns the page's path.

    Raises:
        UserError: as `read_table`, or columns missing that a comparison needs.
    """
    runs = read_table(path)
    folder.mkdir(parents=True, exist_ok=True)
    return write_report(folder, study_of(runs), tolerance, runs)


def write_report(
    folder: Path, study: Study, tolerance: float = TOLERANCE, runs: RunTable | None = None
) -> Path:
    """Write report.html, table.csv, table.json and figures/*.svg; returns the page's path.

    Args:
        runs: The table that `study` was made of, where it is not one of our own studies.
    """
    write_table(study.rows, folder, study.stages)
    known = runs or table_of(study)
    groups = all_figures(study, tolerance)
    laws, refused = law_sections(known) if known is not None else ((), ())
    if known is not None:
        laws = (*laws, *chain_sections(known, _answering(study, known)))
        groups = (*groups, *_stage_figures(known))
    charts = [chart for group in groups for chart in group.charts]
    charts += [chart for law in laws for chart in law.charts]
    drawn = {chart.name: svg_text(chart) for chart in charts}
    for name, text in drawn.items():
        write_text(folder / "figures" / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}.svg", text)
    contents = Contents(
        answer=answer(study, tolerance),
        groups=groups,
        laws=laws,
        refused_laws=refused,
        findings=all_findings(study, known, tolerance) if known is not None else (),
        notes=runs.notes if runs is not None else (),
        drawn=drawn,
    )
    write_text(folder / "report.html", render(study, contents))
    return folder / "report.html"


def _stage_figures(runs: RunTable) -> tuple[FigureGroup, ...]:
    """What later stages changed, where the table has some."""
    charts = stage_charts(runs)
    if not charts:
        return ()
    caption = (
        "Accuracy of each run before and after its later stages, against the training loss that its "
        "pre-training ended with."
    )
    group = FigureGroup(name="after", title="Before and after", caption=caption, charts=charts)
    return (group,)


def _answering(study: Study, runs: RunTable) -> list[tuple[str, str | None]]:
    """Each task with the split that answers for it."""
    return [
        (task, split)
        for task, split in runs.tasks
        if split is None or split == answer_split(study.rows, task, study.memory_tasks)
    ]


def table_of(study: Study) -> RunTable | None:
    """A study's rows as a table of runs; None without rows or without any figure to conclude from."""
    names, lines = table(study.rows, study.stages)
    if not any(row.train_loss is not None or row.scores or row.losses for row in study.rows):
        return None
    objects = [dict(zip(names, line, strict=True)) for line in lines]
    return check_table(raw_table(study.name, objects, (str(line[3]) for line in lines)))
