"""The study's figures, after those of arXiv:2508.18672, drawn from the table's rows.

    size       losses and accuracy against total parameters           (Fig. 1, 2)
    loss       task loss and accuracy against training loss           (Figs. 2 to 4)
    density    the same against density k/E, the best mean marked     (Fig. 5)
    tpp        the same against tokens per parameter                  (Fig. 7)
    gaps       train-test gap and loss-accuracy gap apart
    training   training loss against tokens

Final checkpoints are drawn as one faint mark a seed, with the mean over seeds and its 95%
interval for seeds and items, the one that the words give. Every group leaves out what was not
measured; a group without panels is left out.
"""

from collections.abc import Callable, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from isoflop.analysis.families import (
    METRIC_LABEL,
    TOLERANCE,
    Cell,
    Metric,
    answer_split,
    families,
    figure_sample,
    loss_sample,
    metric_value,
    sample,
    sources,
    sparsity_label,
    tasks,
)
from isoflop.analysis.gaps import (
    GAP_UNIT,
    GapKind,
    loss_accuracy_gap,
    train_test_gap,
    train_validation_gap,
)
from isoflop.analysis.plotting import (
    COLOURS,
    INK,
    MARKERS,
    FigureGroup,
    Panel,
    density_axis,
    draw_means,
    draw_points,
    finish,
    log_counts,
    new_panel,
    share_axis,
)
from isoflop.analysis.statistics import Estimate, Sample, estimate
from isoflop.analysis.study import Study
from isoflop.records import CheckpointRow

Reader = Callable[[CheckpointRow], float | None]
Sampler = Callable[[Cell], Sample | None]
Series = tuple[str, tuple[Cell, ...]]

METRIC_AXIS: dict[Metric, str] = {
    "accuracy": "accuracy",
    "bits_per_byte": "task loss (bits per byte)",
}
X_AXIS = {"size": "total parameters", "density": "density k/E", "tpp": "tokens / total parameters"}


def all_figures(study: Study, tolerance: float = TOLERANCE) -> tuple[FigureGroup, ...]:
    """Every group of figures that the study's rows allow, in the order of the report."""
    groups = (
        density_figures(study, tolerance),
        size_figures(study, tolerance),
        loss_figures(study),
        tpp_figures(study, tolerance),
        gap_figures(study, tolerance),
        training_figures(study),
    )
    return tuple(group for group in groups if group.panels)


def size_figures(study: Study, tolerance: float = TOLERANCE) -> FigureGroup:
    """Training loss, validation loss, task loss and accuracy against total parameters."""
    panels = []
    if study.cells:
        series = _series(study.cells, tolerance)
        title = "Training loss"
        panels.append(
            _means_panel("size-train", title, "nats", "size", series, _figure(_train_loss))
        )
        for source in sources(study.rows):
            name, title = f"size-validation-{source}", f"Validation loss: {source}"
            sampler = _validation_loss(source)
            panels.append(_means_panel(name, title, "nats", "size", series, sampler))
        panels += _task_panels(study, "size", series)
    return FigureGroup(
        name="size",
        title="Against total parameters",
        caption="Joined cells have equal active parameters and top-k, so to the right is sparser.",
        panels=tuple(panel for panel in panels if panel is not None),
    )


def density_figures(study: Study, tolerance: float = TOLERANCE) -> FigureGroup:
    """Task loss and accuracy against density within each family, the best mean ringed."""
    return FigureGroup(
        name="density",
        title="Against density k/E, at equal active parameters",
        caption=(
            "Sparser to the right. The ring marks the best mean over seeds, not a proven best: "
            "the words above say what can be told apart."
        ),
        panels=tuple(_task_panels(study, "density", _series(study.cells, tolerance))),
    )


def tpp_figures(study: Study, tolerance: float = TOLERANCE) -> FigureGroup:
    """Task loss and accuracy against training tokens per total parameter."""
    return FigureGroup(
        name="tpp",
        title="Against tokens per parameter",
        caption="At equal tokens, more experts mean fewer tokens for each parameter.",
        panels=tuple(_task_panels(study, "tpp", _series(study.cells, tolerance))),
    )


def loss_figures(study: Study) -> FigureGroup:
    """Task loss and accuracy against training loss, all checkpoints, coloured by sparsity."""
    panels = []
    for task in tasks(study.rows):
        split = answer_split(study.rows, task, study.memory_tasks) or ""
        for metric in METRIC_LABEL:
            rows = [
                r for r in study.sorted_rows if metric_value(r, task, split, metric) is not None
            ]
            if not rows:
                continue
            title = f"{METRIC_LABEL[metric].capitalize()}: {task}"
            figure, axes = new_panel(title, "training loss (nats)", METRIC_AXIS[metric])
            reader = _metric(task, split, metric)
            _draw_runs(axes, rows, lambda row: row.train_loss, reader)
            axes.invert_xaxis()
            if metric == "accuracy":
                share_axis(axes)
            finish(axes)
            description = f"{title} ({split}) against training loss; {len(rows)} checkpoints."
            name = f"loss-{task}-{metric}"
            panels.append(Panel(name=name, description=description, figure=figure))
    return FigureGroup(
        name="loss",
        title="Against training loss",
        caption=(
            "Every checkpoint of every run, training from left to right; filled marks are final. "
            "Where colours part, equal training loss does not mean equal skill."
        ),
        panels=tuple(panels),
    )


def training_figures(study: Study) -> FigureGroup:
    """Training loss at every checkpoint against tokens read."""
    panels = []
    if study.rows:
        figure, axes = new_panel("Training loss", "training tokens", "nats")
        rows = study.sorted_rows
        _draw_runs(axes, rows, lambda row: float(row.tokens), _train_loss)
        log_counts(axes, [float(row.tokens) for row in rows])
        finish(axes)
        runs = len({(row.cell, row.seed) for row in rows})
        description = f"Training loss against training tokens of {runs} runs."
        panels.append(Panel(name="training-loss", description=description, figure=figure))
    return FigureGroup(
        name="training",
        title="Training curves",
        caption="One line a run, at its checkpoints.",
        panels=tuple(panels),
    )


def gap_figures(study: Study, tolerance: float = TOLERANCE) -> FigureGroup:
    """The gaps between seen and new text, and between loss and accuracy, one panel each."""
    series = _series(study.cells, tolerance)
    found: list[tuple[GapKind, str, Reader]] = []
    for task in tasks(study.rows):
        split = answer_split(study.rows, task, study.memory_tasks) or ""
        if task not in study.memory_tasks:
            found.append(("train-test", task, _train_test(task)))
        found.append(("loss-accuracy", task, _loss_accuracy(task, split)))
    found += [("train-validation", source, _validation(source)) for source in sources(study.rows)]
    panels = []
    for kind, subject, reader in sorted(found, key=lambda item: item[:2]):
        title = f"{kind[:1].upper()}{kind[1:]} gap: {subject}"
        name, unit = f"gap-{kind}-{subject}", GAP_UNIT[kind]
        panels.append(_means_panel(name, title, unit, "size", series, _figure(reader)))
    return FigureGroup(
        name="gaps",
        title="Two gaps apart",
        caption=(
            "Train-test and train-validation: how much worse the model is on new text than on its "
            "training text. Loss-accuracy: accuracy above what the loss alone promises for one "
            "random sample. Memory has no train-test gap: nothing can be held out."
        ),
        panels=tuple(panel for panel in panels if panel is not None),
    )


def _series(cells: Sequence[Cell], tolerance: float) -> list[Series]:
    """Families to be joined by a line, then the cells that are in none."""
    found: list[Series] = [(family.label, family.cells) for family in families(cells, tolerance)]
    taken = {cell.name for _, members in found for cell in members}
    alone = [cell for cell in cells if cell.name not in taken]
    return found + [(cell.name, (cell,)) for cell in alone]


def _task_panels(study: Study, x_kind: str, series: Sequence[Series]) -> list[Panel]:
    """Task loss and accuracy of every task over `series`."""
    panels = []
    for task in tasks(study.rows):
        split = answer_split(study.rows, task, study.memory_tasks) or ""
        for metric in METRIC_LABEL:
            title = f"{METRIC_LABEL[metric].capitalize()}: {task} ({split.replace('_', ' ')})"
            name, unit = f"{x_kind}-{task}-{metric}", METRIC_AXIS[metric]
            sampler = _metric_sample(task, split, metric)
            panel = _means_panel(name, title, unit, x_kind, series, sampler)
            panels += [panel] if panel is not None else []
    return panels


def _means_panel(
    name: str, title: str, unit: str, x_kind: str, series: Sequence[Series], sampler: Sampler
) -> Panel | None:
    """One panel of means over seeds; None where nothing was measured."""
    drawn: list[tuple[str, list[tuple[float, Sample]]]] = []
    for label, cells in series:
        pairs = [(_x(cell, x_kind), sampler(cell)) for cell in cells]
        measured = [(x, found) for x, found in pairs if found is not None]
        drawn += [(label, measured)] if measured else []
    if not drawn:
        return None
    figure, axes = new_panel(title, X_AXIS[x_kind], unit)
    for index, (label, places) in enumerate(drawn):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        draw_points(axes, [(x, value) for x, s in places for value in s.values], colour, marker)
        means = [(x, estimate(s.values, s.item_errors)) for x, s in places]
        draw_means(axes, means, colour, marker, label)
        if x_kind == "density":
            _ring(axes, means, lowest=unit != "accuracy")
    positions = [x for _, places in drawn for x, _ in places]
    if x_kind == "density":
        density_axis(axes, positions)
    else:
        log_counts(axes, positions)
    _fit_y(axes, [v for _, places in drawn for _, s in places for v in s.values], unit)
    finish(axes)
    description = f"{title} against {X_AXIS[x_kind]}. " + " ".join(
        f"{label}: {', '.join(f'{s.mean:.3g}' for _, s in places)}." for label, places in drawn
    )
    return Panel(name=name, description=description, figure=figure)


def _ring(axes: Axes, means: Sequence[tuple[float, Estimate]], *, lowest: bool) -> None:
    """Mark the best mean of a family of at least two cells."""
    if len(means) < 2:
        return
    choose = min if lowest else max
    x, best = choose(means, key=lambda pair: pair[1].mean)
    axes.plot([x], [best.mean], "o", markersize=13, fillstyle="none", color=INK, zorder=5)
    # On the side where the axis is not.
    densest = x == max(place for place, _ in means)
    axes.annotate(
        "best mean",
        (x, best.mean),
        xytext=(9 if densest else -9, 9),
        textcoords="offset points",
        ha="left" if densest else "right",
        fontsize=8.5,
        color=INK,
    )


def _fit_y(axes: Axes, values: Sequence[float], unit: str) -> None:
    """Show all seeds; an interval far wider than they are leaves the panel rather than rules it."""
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    # Equal values differ by rounding, which is no range to draw.
    margin = max(0.6 * (high - low), 0.002 * size) or 0.1
    bottom, top = axes.get_ylim()
    bottom, top = max(bottom, low - margin), min(top, high + margin)
    if unit == "accuracy":
        bottom, top = max(bottom, -0.04), min(top, 1.08)
    if unit in ("accuracy", GAP_UNIT["loss-accuracy"]):
        share_axis(axes)
    if unit in GAP_UNIT.values():
        bottom, top = min(bottom, 0.0), max(top, 0.0)
        axes.axhline(0.0, color=INK, linewidth=0.9)
    pad = 0.12 * (top - bottom)
    axes.set_ylim(bottom - pad / 4, top + pad)


def _draw_runs(
    axes: Axes,
    rows: Sequence[CheckpointRow],
    x_reader: Callable[[CheckpointRow], float],
    y_reader: Reader,
) -> None:
    """One line a run through its checkpoints, coloured by sparsity, the final mark filled."""
    colours = _sparsity_colours(rows)
    runs: dict[tuple[str, int], list[CheckpointRow]] = {}
    for row in rows:
        runs.setdefault((row.cell, row.seed), []).append(row)
    named = set()
    for run in runs.values():
        points = [(x_reader(row), y_reader(row), row.final) for row in run]
        known = [(x, y, final) for x, y, final in points if y is not None]
        colour = colours[run[0].sparsity]
        path = [(x, y) for x, y, _ in known]
        axes.plot(*_columns(path), color=colour, linewidth=0.8, alpha=0.55)
        for face, ended in (("white", False), (colour, True)):
            marks = [(x, y) for x, y, final in known if final == ended]
            axes.plot(*_columns(marks), "o", markersize=5, color=colour, markerfacecolor=face)
        named.add(run[0].sparsity)
    for sparsity in sorted(named):
        label = sparsity_label(sparsity)
        axes.plot([], [], "o-", color=colours[sparsity], label=label)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Points as a list of x and a list of y."""
    return [x for x, _ in points], [y for _, y in points]


def _sparsity_colours(rows: Sequence[CheckpointRow]) -> dict[float, str]:
    """Dark for dense to light for sparse, in even steps; viridis is safe for colour vision."""
    levels = sorted({row.sparsity for row in rows})
    span = max(len(levels) - 1, 1)
    # The palest tenth of the map cannot be read on white.
    return {x: to_hex(colormaps["viridis"](0.88 * i / span)) for i, x in enumerate(levels)}


def _x(cell: Cell, kind: str) -> float:
    shape = cell.shape
    return {"size": float(shape.total_params), "density": shape.density, "tpp": shape.tpp}[kind]


def _train_loss(row: CheckpointRow) -> float | None:
    return row.train_loss


def _figure(reader: Reader) -> Sampler:
    return lambda cell: figure_sample(cell, reader)


def _validation_loss(source: str) -> Sampler:
    return lambda cell: loss_sample(cell, source)


def _metric_sample(task: str, split: str, metric: Metric) -> Sampler:
    return lambda cell: sample(cell, task, split, metric)


def _train_test(task: str) -> Reader:
    return lambda row: train_test_gap(row, task)


def _loss_accuracy(task: str, split: str) -> Reader:
    return lambda row: loss_accuracy_gap(row, task, split)


def _validation(source: str) -> Reader:
    return lambda row: train_validation_gap(row, source)


def _metric(task: str, split: str, metric: Metric) -> Reader:
    return lambda row: metric_value(row, task, split, metric)
