"""Texts before and after, joined by their ids in one pass over both: memory stays flat."""

from collections.abc import Iterable, Iterator

from isoflop.config import UserError
from isoflop.corpus.fidelity.code import Pair
from isoflop.corpus.rows import TextRow


def join(before: Iterable[TextRow], after: Iterable[TextRow]) -> Iterator[Pair]:
    """A pair for each row after. Rewriting keeps the order, so each parent lies ahead of the last.

    Raises:
        UserError: a row has no parent, or its parent is not among the rows before, in order.
    """
    ahead = iter(before)
    parent: TextRow | None = None
    for row in after:
        if row.parent_id is None:
            raise UserError(
                f"{row.where}: the row {row.id} after has no parent_id: not a rewriting"
            )
        # One parent may have several children, and equal texts have equal ids.
        while parent is None or parent.id != row.parent_id or parent.where != row.where:
            parent = next(ahead, None)
            if parent is None:
                raise UserError(
                    f"{row.where}: its parent {row.parent_id} is not among the rows before, or not "
                    "in their order; give the input of this very rewriting"
                )
        yield Pair(before=parent, after=row)
