"""The paper's 24 figures by number (numbering of version 1), each with what it needs of a table.

What each shows is in the paper's captions; for figures 9, 11 to 18 and 20 to 24 the axes are read
from the captions' words. A figure whose columns are missing says which. Our tables name tasks as
they like: a figure is drawn for all tasks, or for code tasks alone where the paper draws those.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from isoflop.analysis.charts.chart import COLOURS, Axis, Chart, Curve, Mark, Series
from isoflop.analysis.paper.draw import Look, chart_of
from isoflop.analysis.paper.samples import by_samples
from isoflop.analysis.questions.overlap import overlap
from isoflop.analysis.questions.problems import Solved
from isoflop.analysis.questions.stages import before_and_after
from isoflop.analysis.tables.run_table import RunTable, score_column
from isoflop.config import UserError

CODE_TASKS = ("humaneval", "humaneval_plus", "mbpp", "mbpp_plus")

PROBLEM_BY_PROBLEM = 19

PAIRS = ("d_model", "top_k")
"""The paper's series: one a width and k, along which E grows."""


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """One figure of the paper."""

    title: str
    needs: tuple[str, ...]
    """Columns without which it cannot be drawn."""
    draw: Callable[[RunTable], list[Chart | None]]
    score: bool = True
    """Whether it needs a task's scores as well."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure drawn from a table, or why it cannot be."""

    number: int
    title: str
    charts: tuple[Chart, ...]
    missing: tuple[str, ...]
    """What the table lacks; () where it is drawn."""


def paper_figure(table: RunTable, number: int, solved: Solved | None = None) -> Drawn:
    """Figure `number` of the paper from this table.

    Args:
        solved: For figure 19, which run solved which problem (`questions.problems`).

    Raises:
        UserError: the paper has no such figure.
    """
    if number not in FIGURES:
        raise UserError(f"figure {number}: the paper has figures 1 to {max(FIGURES)}")
    figure = FIGURES[number]
    if number == PROBLEM_BY_PROBLEM and solved is not None:
        return Drawn(number=number, title=figure.title, charts=(problem_chart(solved),), missing=())
    missing = list(table.missing(*figure.needs))
    if figure.score and not table.tasks:
        missing.append("TASK.accuracy or TASK.bits_per_byte")
    if missing:
        return Drawn(number=number, title=figure.title, charts=(), missing=tuple(missing))
    charts = tuple(
        replace(chart, name=f"paper-{number}-{chart.name}")
        for chart in figure.draw(table)
        if chart is not None
    )
    lacking = () if charts else ("lines with the figure's columns together",)
    return Drawn(number=number, title=figure.title, charts=charts, missing=lacking)


def overlap_text(solved: Solved) -> str:
    """Figure 19 in words: whether sparsities solve different problems."""
    found = overlap(solved.solved, solved.cells)
    head = f"{found.num_runs} runs, {found.num_problems} problems"
    if found.within is None or found.between is None or found.p_value is None:
        return f"{head}; not tested: {found.reason}"
    return (
        f"{head}: two seeds of one cell agree by {found.within:.3f} (phi), runs of two cells by "
        f"{found.between:.3f}; p = {found.p_value:.2g} that cells make no difference"
    )


def problem_chart(solved: Solved) -> Chart:
    """Figure 19: problems that both runs of a pair solve, against what chance would give."""
    found = overlap(solved.solved, solved.cells)
    same = [pair for pair in found.pairs if pair.first == pair.second]
    other = [pair for pair in found.pairs if pair.first != pair.second]
    series = []
    for label, pairs, colour in (
        ("two seeds of one cell", same, COLOURS[1]),
        ("two cells", other, COLOURS[0]),
    ):
        marks = tuple(
            Mark(x=pair.chance, y=pair.shared, cell=f"{pair.first}, {pair.second}")
            for pair in pairs
        )
        if marks:
            series.append(Series(label=label, colour=colour, marks=marks))
    most = max([max(pair.chance, pair.shared) for pair in found.pairs], default=1.0)
    return Chart(
        name="overlap",
        title="Problems that two runs both solve",
        description=overlap_text(solved),
        x=Axis(label="problems shared by chance at these accuracies", include=(0.0,)),
        y=Axis(label="problems shared", include=(0.0,)),
        series=tuple(series),
        curves=(
            Curve(label="chance", colour="#7b8794", points=((0.0, 0.0), (most, most)), dashed=True),
        ),
    )


def _scores(
    table: RunTable,
    x: str,
    fields: tuple[str, ...],
    look: Look,
    *,
    code: bool = False,
    error: bool = False,
) -> list[Chart | None]:
    """A chart for each task and field."""
    found = []
    for task, split in table.tasks:
        if code and task not in CODE_TASKS:
            continue
        for field in fields:
            column = score_column(task, split, field)
            name = f"{x}-{column.replace('.', '-')}{'-error' if error else ''}"
            place = task if split is None else f"{task} ({split.replace('_', ' ')})"
            found.append(chart_of(table, name, place, x, column, look, error=error))
    return found


LOSS = ("bits_per_byte",)
ACCURACY = ("accuracy",)
BOTH = ("bits_per_byte", "accuracy")
BY_PAIR = Look(by=PAIRS)
BY_SPARSITY = Look(by=("sparsity",), colour="sparsity", joined=False)
BY_BUDGET = Look(by=("active_params",), turn=True)


def _losses_by_size(table: RunTable) -> list[Chart | None]:
    final = table.final
    return [
        chart_of(
            final, name.replace(".", "-"), name.replace(".", ", "), "total_params", name, BY_PAIR
        )
        for name in dict.fromkeys(("train_loss", *final.losses))
    ] + _scores(final, "total_params", LOSS, BY_PAIR)


def _stages(table: RunTable, by: tuple[str, ...], x: str = "train_loss") -> list[Chart | None]:
    """Accuracy before and after later stages; a stage's line carries its run's training loss."""
    last = before_and_after(table)
    rates = last.numbers.get("grpo_learning_rate", np.array([]))
    several = len(set(rates[np.isfinite(rates)].tolist())) > 1
    more = ("grpo_learning_rate",) if several and "grpo_learning_rate" not in by else ()
    return _scores(_with_final_loss(last), x, ACCURACY, Look(by=("stage", *by, *more)))


def stage_charts(table: RunTable) -> tuple[Chart, ...]:
    """Accuracy before and after later stages against pre-training's loss; () where nothing followed."""
    if not table.has("train_loss") or all(one == "pretrained" for one in table.text("stage")):
        return ()
    charts = _stages(table, ("grpo_corpus",) if table.has("grpo_corpus") else ())
    return tuple(
        replace(chart, name=f"after-{chart.name}") for chart in charts if chart is not None
    )


def _with_final_loss(table: RunTable) -> RunTable:
    """Lines after pre-training with the training loss of their run's pre-training."""
    loss = table.number("train_loss")
    known = {
        run: float(value)
        for run, value, stage in zip(table.run_keys, loss, table.text("stage"), strict=True)
        if stage == "pretrained" and np.isfinite(value)
    }
    filled = np.array(
        [
            value if np.isfinite(value) else known.get(run, np.nan)
            for run, value in zip(table.run_keys, loss, strict=True)
        ]
    )
    return replace(table, numbers={**table.numbers, "train_loss": filled})


def _sampled(table: RunTable, by: tuple[str, ...]) -> list[Chart | None]:
    """Accuracy against samples a question: one line a number of samples is made of each line."""
    long = by_samples(table, each="inference_top_k" if "inference_top_k" in by else None)
    return (
        []
        if long is None
        else [
            chart_of(
                long, f"samples-{column.replace('.', '-')}", column, "samples", column, Look(by=by)
            )
            for column in long.numbers
            if column.endswith((".pass_accuracy", ".majority_accuracy"))
        ]
    )


def _by_setting(table: RunTable, setting: str) -> list[Chart | None]:
    """Accuracy against experts of the last checkpoints of pre-training, by a setting of answering."""
    chosen = table.final_settings.one_setting(setting)
    return _scores(chosen, "num_experts", ACCURACY, Look(by=(setting,)))


def _loss_and_samples(table: RunTable) -> list[Chart | None]:
    """Figure 6: against training loss, with samples (left) and before and after GRPO (right)."""
    sampled = by_samples(table)
    left: list[Chart | None] = []
    if sampled is not None:
        left = [
            chart_of(
                sampled,
                f"loss-{column.replace('.', '-')}",
                column,
                "train_loss",
                column,
                Look(by=("samples",), joined=False),
            )
            for column in sampled.numbers
            if column.endswith("_accuracy") and "." in column and column not in table.numbers
        ]
    return left + _stages(table, ("top_k",))


FIGURES: dict[int, PaperFigure] = {
    1: PaperFigure(
        title="Losses against total parameters",
        needs=("total_params", "train_loss"),
        draw=_losses_by_size,
        score=False,
    ),
    2: PaperFigure(
        title="Task loss against training loss",
        needs=("train_loss",),
        draw=lambda table: _scores(table.final, "train_loss", LOSS, BY_PAIR),
    ),
    3: PaperFigure(
        title="Accuracy against training loss",
        needs=("train_loss",),
        draw=lambda table: _scores(table.final, "train_loss", ACCURACY, BY_PAIR),
    ),
    4: PaperFigure(
        title="Error rate against training loss, all checkpoints, by sparsity",
        needs=("train_loss", "sparsity"),
        draw=lambda table: _scores(
            table.pretrained, "train_loss", ACCURACY, BY_SPARSITY, error=True
        ),
    ),
    5: PaperFigure(
        title="Task loss and accuracy against density, by active parameters",
        needs=("density", "active_params"),
        draw=lambda table: _scores(table.final, "density", BOTH, BY_BUDGET),
    ),
    6: PaperFigure(
        title="Accuracy against training loss with test-time compute, and after GRPO",
        needs=("train_loss",),
        draw=_loss_and_samples,
    ),
    7: PaperFigure(
        title="Accuracy and task loss against tokens per parameter",
        needs=("tpp",),
        draw=lambda table: _scores(table.final, "tpp", BOTH, BY_PAIR),
    ),
    8: PaperFigure(
        title="Accuracy against training loss, by learning rate",
        needs=("train_loss", "learning_rate"),
        draw=lambda table: _scores(
            table.pretrained, "train_loss", ACCURACY, Look(by=("learning_rate",), joined=False)
        ),
    ),
    9: PaperFigure(
        title="Accuracy against tokens per parameter, by depth",
        needs=("tpp", "num_layers"),
        draw=lambda table: _scores(table.final, "tpp", ACCURACY, Look(by=("num_layers", "top_k"))),
    ),
    10: PaperFigure(
        title="Accuracy against density, by active parameters, code beside the others",
        needs=("density", "active_params"),
        draw=lambda table: _scores(table.final, "density", ACCURACY, BY_BUDGET),
    ),
    11: PaperFigure(
        title="Accuracy over GRPO, by its learning rate",
        needs=("grpo_step", "grpo_learning_rate"),
        draw=lambda table: _scores(
            table, "grpo_step", ACCURACY, Look(by=("num_experts", "grpo_learning_rate"))
        ),
    ),
    12: PaperFigure(
        title="Accuracy against training loss after GRPO, by its problems",
        needs=("train_loss", "grpo_corpus"),
        draw=lambda table: _stages(table, ("grpo_corpus",)),
    ),
    13: PaperFigure(
        title="Accuracy against experts, by worked examples",
        needs=("num_experts", "num_shots"),
        draw=lambda table: _by_setting(table, "num_shots"),
    ),
    14: PaperFigure(
        title="Accuracy against experts, by temperature",
        needs=("num_experts", "temperature"),
        draw=lambda table: _by_setting(table, "temperature"),
    ),
    15: PaperFigure(
        title="Accuracy against samples, by experts",
        needs=("num_experts", "top_k"),
        draw=lambda table: _sampled(table, ("top_k", "num_experts")),
    ),
    16: PaperFigure(
        title="Accuracy against samples, by k while answering",
        needs=("inference_top_k",),
        draw=lambda table: _sampled(table, ("inference_top_k",)),
    ),
    17: PaperFigure(
        title="Accuracy against training loss, by corpus",
        needs=("train_loss", "corpus"),
        draw=lambda table: _scores(
            table.final, "train_loss", ACCURACY, Look(by=("corpus", *PAIRS))
        ),
    ),
    18: PaperFigure(
        title="Accuracy against training loss after later stages, by corpus",
        needs=("train_loss", "corpus"),
        draw=lambda table: _stages(table, ("corpus",)),
    ),
    PROBLEM_BY_PROBLEM: PaperFigure(
        title="Problems that two runs both solve",
        needs=("problem", "correct"),
        draw=lambda table: [],
        score=False,
    ),
    20: PaperFigure(
        title="Code task loss against total parameters",
        needs=("total_params",),
        draw=lambda table: _scores(table.final, "total_params", LOSS, BY_PAIR, code=True),
    ),
    21: PaperFigure(
        title="Code task loss against training loss",
        needs=("train_loss",),
        draw=lambda table: _scores(table.final, "train_loss", LOSS, BY_PAIR, code=True),
    ),
    22: PaperFigure(
        title="Code accuracy against training loss",
        needs=("train_loss",),
        draw=lambda table: _scores(table.final, "train_loss", ACCURACY, BY_PAIR, code=True),
    ),
    23: PaperFigure(
        title="Code error rate against training loss, by sparsity",
        needs=("train_loss", "sparsity"),
        draw=lambda table: _scores(
            table.pretrained, "train_loss", ACCURACY, BY_SPARSITY, code=True, error=True
        ),
    ),
    24: PaperFigure(
        title="Code accuracy against tokens per parameter",
        needs=("tpp",),
        draw=lambda table: _scores(table.final, "tpp", ACCURACY, BY_PAIR, code=True),
    ),
}
"""The paper's figures. 19 is of another table, one line a run and problem: `problem_chart`."""
