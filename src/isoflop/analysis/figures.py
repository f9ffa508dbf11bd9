"""The study's figures, after those of arXiv:2508.18672, made from the table's rows.

    size       losses and accuracy against total parameters           (Fig. 1, 2)
    loss       task loss and accuracy against training loss           (Figs. 2 to 4)
    density    the same against density k/E, the best mean marked     (Fig. 5)
    tpp        the same against tokens per parameter                  (Fig. 7)
    gaps       train-test gap and loss-accuracy gap apart
    training   training loss against tokens

Final checkpoints are drawn as one faint mark a seed, with the mean over seeds and its 95%
interval for seeds and items, the one that the words give. Every group leaves out what was not
measured; a group without charts is left out.
"""

from collections.abc import Callable, Sequence

from isoflop.analysis.charts.chart import Axis, Chart, FigureGroup, Form, Mark, Series
from isoflop.analysis.charts.colours import sparsity_colours
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
from isoflop.analysis.means import (
    LOSS_FIGURE,
    METRIC_FIGURE,
    Figure,
    NamedCells,
    Sampler,
    figure_axis,
    means_chart,
)
from isoflop.analysis.study import Study
from isoflop.records import CheckpointRow

Reader = Callable[[CheckpointRow], float | None]

CHECKPOINT_MARKS = "small marks are checkpoints before the last"


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
    return tuple(group for group in groups if group.charts)


def size_figures(study: Study, tolerance: float = TOLERANCE) -> FigureGroup:
    """Training loss, validation loss, task loss and accuracy against total parameters."""
    charts = []
    if study.cells:
        series = _series(study.cells, tolerance)
        sampler = _figure(lambda row: row.train_loss)
        charts.append(
            means_chart("size-train", "Training loss", LOSS_FIGURE, "size", series, sampler)
        )
        for source in sources(study.rows):
            name, title = f"size-validation-{source}", f"Validation loss: {source}"
            sampler = _validation_loss(source)
            charts.append(means_chart(name, title, LOSS_FIGURE, "size", series, sampler))
        charts += _task_charts(study, "size", series)
    return FigureGroup(
        name="size",
        title="Against total parameters",
        caption="Joined cells have equal active parameters and top-k, so to the right is sparser.",
        charts=tuple(chart for chart in charts if chart is not None),
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
        charts=tuple(_task_charts(study, "density", _series(study.cells, tolerance))),
    )


def tpp_figures(study: Study, tolerance: float = TOLERANCE) -> FigureGroup:
    """Task loss and accuracy against training tokens per total parameter."""
    return FigureGroup(
        name="tpp",
        title="Against tokens per parameter",
        caption="At equal tokens, more experts mean fewer tokens for each parameter.",
        charts=tuple(_task_charts(study, "tpp", _series(study.cells, tolerance))),
    )


def loss_figures(study: Study) -> FigureGroup:
    """Task loss and accuracy against training loss, all checkpoints, coloured by sparsity."""
    charts = []
    for task in tasks(study.rows):
        split = answer_split(study.rows, task, study.memory_tasks) or ""
        for metric in METRIC_LABEL:
            title = f"{METRIC_LABEL[metric].capitalize()}: {task}"
            reader = _metric(task, split, metric)
            figure = METRIC_FIGURE[metric]
            series = run_series(study.sorted_rows, lambda row: row.train_loss, reader)
            if series:
                points = sum(len(one.marks) for one in series)
                charts.append(
                    Chart(
                        name=f"loss-{task}-{metric}",
                        title=title,
                        description=f"{title} ({split}) against training loss; {points} checkpoints.",
                        x=Axis(label="training loss (nats)", descending=True),
                        y=figure_axis(figure),
                        series=series,
                        column=f"{task}.{split}.{metric}",
                    )
                )
    return FigureGroup(
        name="loss",
        title="Against training loss",
        caption=(
            "Every checkpoint of every run, training from left to right. "
            "Where colours part, equal training loss does not mean equal skill."
        ),
        charts=tuple(charts),
        marks=CHECKPOINT_MARKS,
    )


def training_figures(study: Study) -> FigureGroup:
    """Training loss at every checkpoint against tokens read."""
    series = run_series(
        study.sorted_rows, lambda row: float(row.tokens), lambda row: row.train_loss
    )
    runs = len({(row.cell, row.seed) for row in study.rows})
    chart = Chart(
        name="training-loss",
        title="Training loss",
        description=f"Training loss against training tokens of {runs} runs.",
        x=Axis(label="training tokens", scale="log", form="count"),
        y=figure_axis(LOSS_FIGURE),
        series=series,
    )
    return FigureGroup(
        name="training",
        title="Training curves",
        caption="One line a run, at its checkpoints.",
        charts=(chart,) if series else (),
        marks=CHECKPOINT_MARKS,
    )


def gap_figures(study: Study, tolerance: float = TOLERANCE) -> FigureGroup:
    """The gaps between seen and new text, and between loss and accuracy, one chart each."""
    series = _series(study.cells, tolerance)
    found: list[tuple[GapKind, str, Reader]] = []
    for task in tasks(study.rows):
        split = answer_split(study.rows, task, study.memory_tasks) or ""
        if task not in study.memory_tasks:
            found.append(("train-test", task, _train_test(task)))
        found.append(("loss-accuracy", task, _loss_accuracy(task, split)))
    found += [("train-validation", source, _validation(source)) for source in sources(study.rows)]
    charts = []
    for kind, subject, reader in sorted(found, key=lambda item: item[:2]):
        title = f"{kind[:1].upper()}{kind[1:]} gap: {subject}"
        form: Form = "share" if kind == "loss-accuracy" else "number"
        figure = Figure(label=GAP_UNIT[kind], form=form, include=(0.0,))
        name = f"gap-{kind}-{subject}"
        charts.append(means_chart(name, title, figure, "size", series, _figure(reader)))
    return FigureGroup(
        name="gaps",
        title="Two gaps apart",
        caption=(
            "Train-test and train-validation: how much worse the model is on new text than on its "
            "training text. Loss-accuracy: accuracy above what the loss alone promises for one "
            "random sample. Memory has no train-test gap: nothing can be held out."
        ),
        charts=tuple(chart for chart in charts if chart is not None),
    )


def run_series(
    rows: Sequence[CheckpointRow], x_reader: Reader, y_reader: Reader
) -> tuple[Series, ...]:
    """One line a run through its checkpoints and a larger mark at its last, coloured by sparsity.

    Args:
        rows: In the order of the page's data, whose lines the marks name.
    """
    colours = sparsity_colours({row.sparsity for row in rows})
    runs: dict[tuple[str, int], list[tuple[int, CheckpointRow, float, float]]] = {}
    for place, row in enumerate(rows):
        x, y = x_reader(row), y_reader(row)
        if x is not None and y is not None:
            runs.setdefault((row.cell, row.seed), []).append((place, row, x, y))
    found, named = [], set()
    for run in sorted(runs.values(), key=lambda run: (run[0][1].sparsity, run[0][0])):
        sparsity = run[0][1].sparsity
        label = sparsity_label(sparsity) if sparsity not in named else None
        named.add(sparsity)
        marks = tuple(
            Mark(x=x, y=y, cell=row.cell, seed=row.seed, row=place) for place, row, x, y in run
        )
        line = Series(label=label, colour=colours[sparsity], marks=marks, joined=True, faint=True)
        found.append(line)
        last = tuple(mark for mark, (_, row, _, _) in zip(marks, run, strict=True) if row.final)
        if last:
            found.append(Series(label=None, colour=colours[sparsity], marks=last))
    return tuple(found)


def _series(cells: Sequence[Cell], tolerance: float) -> list[NamedCells]:
    """Families to be joined by a line, then the cells that are in none."""
    found: list[NamedCells] = [
        (family.label, family.cells) for family in families(cells, tolerance)
    ]
    taken = {cell.name for _, members in found for cell in members}
    alone = [cell for cell in cells if cell.name not in taken]
    return found + [(cell.name, (cell,)) for cell in alone]


def _task_charts(study: Study, x_kind: str, series: Sequence[NamedCells]) -> list[Chart]:
    """Task loss and accuracy of every task over `series`."""
    charts = []
    for task in tasks(study.rows):
        split = answer_split(study.rows, task, study.memory_tasks) or ""
        for metric in METRIC_LABEL:
            title = f"{METRIC_LABEL[metric].capitalize()}: {task} ({split.replace('_', ' ')})"
            name, figure = f"{x_kind}-{task}-{metric}", METRIC_FIGURE[metric]
            sampler = _metric_sample(task, split, metric)
            chart = means_chart(name, title, figure, x_kind, series, sampler)
            charts += [chart] if chart is not None else []
    return charts


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
