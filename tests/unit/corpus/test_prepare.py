"""The study's code passes the filters, and the funnel adds up to what is trained on."""

import pytest

from fakes_corpus import GOOD_CODE
from isoflop.corpus.build import build_source, input_digest
from isoflop.corpus.config import StdlibSource
from isoflop.corpus.filters.config import FilterConfig, LintConfig
from isoflop.corpus.prepare import Funnel, prepared
from isoflop.records import Document, FunnelRow, SetAside, read_rows

CHEAP = FilterConfig(lint=LintConfig(measure="none", threshold=None))


def test_records_keep_their_order_ids_and_reasons():
    records = [
        Document(id="a.py", text=GOOD_CODE),
        SetAside(where="b.py", reason="not UTF-8", detail="byte 1"),
        Document(id="c.py", text="print 1"),
        Document(id="d.rs", text="fn main() {}"),
        Document(id="e.py", text=GOOD_CODE),
    ]
    funnel = Funnel("code")
    found = list(prepared(records, CHEAP, funnel))
    assert found[0] == records[0]
    assert found[1] == records[1]
    assert (found[2].where, found[2].reason) == ("c.py", "syntax: SyntaxError")
    assert (found[3].where, found[3].reason) == ("d.rs", "language: another language")
    assert found[4] == records[4], "a copy keeps its own id"
    steps = {row.step: (row.num_documents, row.num_bytes) for row in funnel.rows()}
    assert steps["read"][0] == 5
    assert steps["usable"][0] == 4
    assert "length" not in steps
    assert steps["language"][0] == 3
    assert steps["syntax"] == steps["lint"] == (2, 2 * len(GOOD_CODE))


def test_a_filtered_source_leaves_its_funnel_and_the_same_bytes_each_time(tmp_path):
    source = StdlibSource(max_bytes=120_000, filters=CHEAP, validation_share=0.3)
    rows = [build_source(source, 0, tmp_path / name) for name in "ab"]
    assert rows[0] == rows[1]
    for name in ("train.jsonl", "validation.jsonl", "set_aside.jsonl", "funnel.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    steps = list(read_rows(tmp_path / "a" / "funnel.jsonl", FunnelRow))
    left = rows[0].num_documents + rows[0].num_validation_documents
    assert steps[-1].num_documents == left
    assert steps[0].num_documents == left + rows[0].num_set_aside
    counts = [step.num_documents for step in steps]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("filters", [None, CHEAP])
def test_a_source_that_is_filtered_otherwise_is_another(filters):
    assert input_digest(StdlibSource(filters=filters)) == input_digest(
        StdlibSource(filters=filters)
    )
    if filters is not None:
        assert input_digest(StdlibSource(filters=filters)) != input_digest(StdlibSource())
