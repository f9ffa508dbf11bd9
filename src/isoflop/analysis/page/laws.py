"""The report's part on laws: which of them this table allows, fitted, drawn and in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from isoflop.analysis.charts.chart import COLOURS, Axis, Chart, Curve, Mark, Series
from isoflop.analysis.fits.chain import fit_sigmoid
from isoflop.analysis.fits.fit import Fit, fit_points, predict
from isoflop.analysis.fits.points import Points, known_points, points_of
from isoflop.analysis.fits.text import end_texts, fit_sentences, short, status_text
from isoflop.analysis.laws.catalogue import LAWS
from isoflop.analysis.laws.law import Law, published_values
from isoflop.analysis.page.grids import Grid
from isoflop.analysis.tables.run_table import RunTable, score_column
from isoflop.config import UserError

SHOWN = ("chinchilla", "joint", "abnar", "clark", "kaplan")
"""Laws that a report tries, in this order."""

REPLICATES = 400
CHAIN_REPLICATES = 200
CHAIN_LINES = 900
"""Checkpoints that a curve from loss to accuracy is fitted to; of more, every n-th is taken."""

MOST = 2
"""Laws that a report fits: more would say the same again and make the page slow."""


@dataclass(frozen=True, kw_only=True)
class LawSection:
    """One fitted law, ready for the page."""

    title: str
    formula: str
    grid: Grid
    sentences: tuple[str, ...]
    charts: tuple[Chart, ...]


def law_sections(table: RunTable) -> tuple[tuple[LawSection, ...], tuple[str, ...]]:
    """The first laws that fit this table, and for the others why they do not."""
    found: list[LawSection] = []
    refused = []
    for name in SHOWN:
        law = LAWS[name]
        try:
            points = points_of(table, law)
            _require_variation(points)
        except UserError as error:
            refused.append(str(error).replace(f"{table.name}: ", ""))
            continue
        if len(found) < MOST:
            found.append(law_section(fit_points(points, table.name, REPLICATES)))
    return tuple(found), tuple(refused)


def chain_sections(table: RunTable, splits: Sequence[tuple[str, str | None]]) -> list[LawSection]:
    """From task loss to accuracy, for each task and split that has both."""
    thin = table.pretrained
    step = -(-len(thin) // CHAIN_LINES)
    thin = thin.where(np.arange(len(thin)) % step == step - 1)
    found = []
    for task, split in splits:
        loss, accuracy = (score_column(task, split, name) for name in ("bits_per_byte", "accuracy"))
        if not thin.has(loss, accuracy):
            continue
        try:
            fit = fit_sigmoid(thin, loss, accuracy, CHAIN_REPLICATES)
        except UserError:
            # Too few checkpoints, or all of one loss: there is no curve to speak of.
            continue
        section = law_section(fit, curve_chart(fit, f"{task}-{split or 'all'}"))
        every = f" Every {step}th checkpoint." if step > 1 else ""
        found.append(
            replace(section, sentences=(*section.sentences, f"All checkpoints enter.{every}"))
        )
    return found


def curve_chart(fit: Fit, name: str) -> Chart:
    """A curve of one variable through its points, with the band of the bootstrap."""
    points = fit.points
    x = points.inputs["L"]
    places = np.linspace(float(x.min()), float(x.max()), 60)
    mean, low, high = predict(fit, {"L": places})
    title = f"{points.law.title}: {name}"
    return Chart(
        name=f"chain-{name}",
        title=title,
        description=f"{title}; {len(points)} checkpoints and the fitted curve with its 95% band.",
        x=Axis(label=points.law.inputs[0].column, descending=True),
        y=Axis(label=points.column, form="share"),
        series=(
            Series(
                label=None, colour=COLOURS[0], marks=_marks(points, x, points.response), faint=True
            ),
        ),
        curves=(
            Curve(
                label=None,
                colour=COLOURS[1],
                points=tuple(zip(places.tolist(), mean.tolist(), strict=True)),
                band=tuple(zip(places.tolist(), low.tolist(), high.tolist(), strict=True)),
            ),
        ),
    )


def law_section(fit: Fit, *charts: Chart) -> LawSection:
    """Coefficients, words and figures of one fit; `charts` instead of the usual ones."""
    law = fit.points.law
    body = tuple(
        (
            found.name,
            short(found.value),
            *end_texts(found),
            status_text(found) or "identified",
        )
        for found in fit.coefficients
    )
    head = ("coefficient", "value", "low", "high", "from these points")
    return LawSection(
        title=f"{law.title}, {fit.column}",
        formula=law.formula,
        grid=Grid(title=f"Coefficients: {law.name}", head=head, body=body),
        sentences=tuple(fit_sentences(fit)),
        charts=charts or (fitted_chart(fit), residual_chart(fit)),
    )


def _require_variation(points: Points) -> None:
    """Refuse a law one of whose variables has one value: half of it would be invisible."""
    for given in points.law.inputs:
        values = points.inputs[given.name]
        if np.ptp(values) <= 1e-9 * np.abs(values).max():
            raise UserError(f"{points.law.name}: {given.column} has one value in all runs")


def fitted_chart(fit: Fit) -> Chart:
    """Measured against predicted: points on the line are explained."""
    points = fit.points
    predicted = points.law.off_scale(points.law.to_scale(points.response) + fit.best.residuals[0])
    return _against(
        points, predicted, f"law-{fit.law}-fitted", f"{points.law.title}: measured and fitted"
    )


def overlay_chart(points: Points, name: str | None = None) -> Chart:
    """Measured against what a published law says of the same runs, nothing fitted."""
    known = published_values(points.law, name)
    predicted = points.law.predict(points.inputs, known.values)
    title = (
        f"{points.law.title}: measured and published ({name or next(iter(points.law.published))})"
    )
    return _against(points, predicted, f"law-{points.law.name}-published", title)


def _against(points: Points, predicted: np.ndarray, name: str, title: str) -> Chart:
    low, high = float(predicted.min()), float(predicted.max())
    marks = _marks(points, predicted, points.response)
    return Chart(
        name=name,
        title=title,
        description=f"{title}; {len(points)} runs. On the line, the law explains the run.",
        x=Axis(label=f"{points.column} by the law"),
        y=Axis(label=f"{points.column} measured"),
        series=(Series(label=None, colour=COLOURS[0], marks=marks),),
        curves=(
            Curve(label=None, colour="#7b8794", points=((low, low), (high, high)), dashed=True),
        ),
    )


def residual_chart(fit: Fit) -> Chart:
    """What the fit leaves, against training FLOPs."""
    points = fit.points
    plain = points.law.link == "plain"
    left = -fit.best.residuals[0]
    title = f"{points.law.title}: what the fit leaves"
    ends = (float(points.flops.min()), float(points.flops.max()))
    return Chart(
        name=f"law-{fit.law}-residuals",
        title=title,
        description=f"{title}, measured less fitted, against training FLOPs; {len(points)} runs.",
        x=Axis(label="training FLOPs", scale="log"),
        y=Axis(
            label="measured less fitted" + ("" if plain else ", share of the loss"),
            form="number" if plain else "share",
            include=(0.0,),
        ),
        series=(Series(label=None, colour=COLOURS[0], marks=_marks(points, points.flops, left)),),
        curves=(
            Curve(
                label=None,
                colour="#7b8794",
                points=((ends[0], 0.0), (ends[1], 0.0)),
                dashed=True,
            ),
        ),
    )


def overlay(table: RunTable, law: Law, name: str | None = None, column: str | None = None) -> Chart:
    """The runs of `table` on a published law.

    Raises:
        UserError: columns missing, or no such coefficients.
    """
    return overlay_chart(known_points(table, law, column), name)


def _marks(points: Points, xs: np.ndarray, ys: np.ndarray) -> tuple[Mark, ...]:
    return tuple(
        Mark(x=float(x), y=float(y), cell=run)
        for x, y, run in zip(xs, ys, points.names, strict=True)
    )
