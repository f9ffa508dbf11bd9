"""From the rows of a task's items to its score row, and the audit of the join."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from isoflop.evaluate.statistics import mean_and_error, share_and_error
from isoflop.evaluate.tasks.problem import LoadedTask
from isoflop.evaluate.tasks.results import TaskItemRow, TaskScoreRow


class _Losses(NamedTuple):
    """The task loss of the asked problems, ours and as the reference cuts."""

    per_byte: tuple[float | None, float | None]
    """Mean and standard error."""
    per_token: tuple[float | None, float | None]
    reference_per_byte: float | None
    reference_per_token: float | None


def summarise(loaded: LoadedTask, rows: Sequence[TaskItemRow]) -> TaskScoreRow:
    """Means over the problems that fit the context and whose logits are finite."""
    num_not_finite = sum(row.not_finite for row in rows)
    asked = [row for row in rows if not (row.refused or row.not_finite)]
    is_graded = loaded.task.scorer == "choice" or any(row.generated is not None for row in rows)
    is_choice = loaded.task.scorer == "choice"
    graded = [row for row in asked if is_choice or row.generated is not None]
    is_flexible = is_graded and loaded.task.scorer == "number"
    flexible = [row.correct_flexible for row in graded] if is_flexible else []
    unread_flexible = num_not_finite + flexible.count(None) if is_flexible else None
    strict = [row.correct for row in graded]
    accuracy = share_and_error(list(map(bool, strict)))
    accuracy_flexible = share_and_error(list(map(bool, flexible)))
    per_character = share_and_error(_by_length(loaded, asked, lambda text: len(text)))
    per_byte = share_and_error(_by_length(loaded, asked, lambda text: len(text.encode())))
    losses = _losses(asked)
    return TaskScoreRow(
        task=loaded.task.name,
        version=loaded.task.version,
        style=loaded.style,
        num_shots=loaded.num_shots,
        data_digest=loaded.data_digest,
        num_items=len(rows),
        num_set_aside=len(loaded.set_aside),
        num_refused=sum(row.refused for row in rows),
        num_cut_shots=sum(row.num_cut_shots > 0 for row in asked),
        num_scored=len(asked),
        num_ungradable=num_not_finite + strict.count(None) if is_graded else None,
        accuracy=accuracy[0],
        accuracy_standard_error=accuracy[1],
        num_ungradable_flexible=unread_flexible,
        accuracy_flexible=accuracy_flexible[0],
        accuracy_flexible_standard_error=accuracy_flexible[1],
        accuracy_per_character=per_character[0],
        accuracy_per_character_standard_error=per_character[1],
        accuracy_per_byte=per_byte[0],
        accuracy_per_byte_standard_error=per_byte[1],
        bits_per_byte=losses.per_byte[0],
        bits_per_byte_standard_error=losses.per_byte[1],
        bits_per_token=losses.per_token[0],
        bits_per_token_standard_error=losses.per_token[1],
        num_joined=sum(bool(row.joined) for row in asked),
        num_miscut=sum(is_miscut(row) for row in asked),
        reference_bits_per_byte=losses.reference_per_byte,
        reference_bits_per_token=losses.reference_per_token,
        largest_reference_difference=max(
            (abs(reference_difference(row)) for row in asked), default=None
        ),
        num_not_finite=num_not_finite,
        num_not_parted=sum(not row.parted for row in asked),
    )


def join_audit(rows: Sequence[TaskItemRow]) -> list[TaskItemRow]:
    """The items in which the reference's cut does not fall on the join, most affected first."""
    affected = [row for row in rows if not (row.refused or row.not_finite) and is_miscut(row)]
    return sorted(affected, key=lambda row: -abs(reference_difference(row)))


def is_miscut(row: TaskItemRow) -> bool:
    """Whether the reference's cut differs from the join: a spanning token, or another count."""
    return bool(row.joined) or row.reference_tokens != row.num_answer_tokens


def reference_difference(row: TaskItemRow) -> float:
    """Bits by which the reference's figure is above ours; 0 for a row that was not asked."""
    if row.bits is None or row.reference_bits is None:
        return 0.0
    return row.reference_bits - row.bits


def _losses(asked: Sequence[TaskItemRow]) -> _Losses:
    scored = [
        (row.bits, row.num_answer_tokens, row.num_answer_bytes)
        for row in asked
        if row.bits is not None and row.num_answer_tokens is not None
    ]
    reference = [
        (row.reference_bits, row.reference_tokens, row.num_answer_bytes)
        for row in asked
        if row.reference_bits is not None
    ]
    return _Losses(
        per_byte=mean_and_error([bits / size for bits, _, size in scored]),
        per_token=mean_and_error([bits / tokens for bits, tokens, _ in scored]),
        reference_per_byte=mean_and_error([bits / size for bits, _, size in reference])[0],
        # Where its cut leaves no token of the answer it has no figure per token.
        reference_per_token=mean_and_error(
            [bits / tokens for bits, tokens, _ in reference if tokens]
        )[0],
    )


def _by_length(
    loaded: LoadedTask, asked: Sequence[TaskItemRow], length: Callable[[str], int]
) -> list[bool]:
    """Whether the right choice has the fewest bits per unit of length; the first of equals.

    The length is the bare choice's, without the space before it, as in the harness.
    """
    choices = {problem.id: problem.choices for problem in loaded.problems}
    right = []
    for row in asked:
        texts = choices[row.item]
        if texts is None or row.choice_bits is None:
            continue
        pairs = zip(row.choice_bits, texts, strict=True)
        ratios = [bits / length(text.strip()) for bits, text in pairs]
        right.append(ratios.index(min(ratios)) == row.gold_choice)
    return right
