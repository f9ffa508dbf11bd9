"""Texts of a study's source through filters before they are trained on, and the funnel of that.

The steps are those of `isoflop corpus`: rows in, rows out, each kept or rejected with a reason. A
further step, such as a rewriter, stands in `prepared` as one more function of rows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from isoflop.corpus.filters.config import FilterConfig
from isoflop.corpus.filters.decide import FILTERS, decide
from isoflop.corpus.filters.measure import MeasureJob
from isoflop.corpus.filters.run import measured, usable_cores
from isoflop.corpus.pool import Pool
from isoflop.corpus.readers import Record
from isoflop.corpus.rows import TextRow, text_id
from isoflop.records import Document, FunnelRow, SetAside

SHOWN = ("usable", "syntax", "lint")
"""Steps of every funnel."""


class Funnel:
    """Texts and bytes that each step left."""

    def __init__(self, source: str):
        self._source = source
        self._lost: Counter[str] = Counter()
        self._lost_bytes: Counter[str] = Counter()
        self._texts = 0
        self._bytes = 0

    def add(self, row: TextRow) -> None:
        """Count a row that has its verdict."""
        size = len(row.text.encode("utf-8"))
        self._texts += 1
        self._bytes += size
        if row.rejected_by is not None:
            self._lost[row.rejected_by] += 1
            self._lost_bytes[row.rejected_by] += size

    def rows(self) -> list[FunnelRow]:
        """What was read, then what each filter left, in the order of the filters.

        Of filters that rejected nothing only those of SHOWN are there: others may be switched off.
        """
        texts, size = self._texts, self._bytes
        found = [FunnelRow(source=self._source, step="read", num_documents=texts, num_bytes=size)]
        for step in ("usable", *FILTERS):
            name = "read" if step == "usable" else step
            if not self._lost[name] and step not in SHOWN:
                continue
            texts, size = texts - self._lost[name], size - self._lost_bytes[name]
            found.append(
                FunnelRow(source=self._source, step=step, num_documents=texts, num_bytes=size)
            )
        return found


def prepared(records: Iterable[Record], filters: FilterConfig, funnel: Funnel) -> Iterator[Record]:
    """Documents that pass, and why the others do not, in the order of the source."""
    for row in _filtered(map(_as_row, records), filters):
        funnel.add(row)
        yield _as_record(row)


def _filtered(rows: Iterable[TextRow], filters: FilterConfig) -> Iterator[TextRow]:
    """The filters' step."""
    with Pool(MeasureJob(config=filters), usable_cores(), filters.limits) as pool:
        for row, changes in pool.run(rows):
            yield decide(measured(row, changes), filters)


def _as_row(record: Record) -> TextRow:
    if isinstance(record, SetAside):
        return TextRow(
            id=text_id(record.where),
            text="",
            where=record.where,
            rejected_by="read",
            reason=record.reason,
            detail=record.detail,
        )
    return TextRow(
        id=text_id(record.text),
        text=record.text,
        where=record.id,
        metadata={"path": record.id},
    )


def _as_record(row: TextRow) -> Record:
    """A document under the id that it came with; a set-aside one with step and reason."""
    if row.rejected_by is None:
        return Document(id=row.where, text=row.text)
    reason = row.reason or "no reason given"
    if row.rejected_by != "read":
        reason = f"{row.rejected_by}: {reason}"
    return SetAside(where=row.where, reason=reason, detail=row.detail or "")
